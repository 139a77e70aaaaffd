"""The errors a user can cause, and the exit code of each. Imports nothing of the project."""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class CrosscastError(Exception):
    """Base of every error that is shown to the user as text, without a traceback.

    The message says what happened and where; `fix` says what to do about it.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class StageError(CrosscastError):
    """A stage could not do its work: bad weights, an operator that a converter cannot take."""

    exit_code = 1


class ConfigError(CrosscastError):
    """The command line or a config is wrong."""

    exit_code = 2


class ToolchainError(CrosscastError):
    """A distribution or runtime that a step needs is not installed or cannot be used here."""

    exit_code = 3


class ParityError(CrosscastError):
    """An artifact does not do what its source does, or was not proven to."""

    exit_code = 4


class Unproven(ParityError):
    """An artifact can be neither proven nor refuted here; the message is the reason."""


class GateError(CrosscastError):
    """A release was refused: a gate against its predecessor, or other bytes under its version."""

    exit_code = 5


class RegistryError(CrosscastError):
    """A registry or a signature was refused, or a registry cannot be reached."""

    exit_code = 6
