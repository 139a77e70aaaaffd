"""Types of config values that several keys share: names, files, code; and how a wrong one is told.

A validator speaks through `problem`: `{got}` in its text stands for the value, which the loader
shows as the file has it, so that no expanded variable is ever echoed. With a validation context
({"path": the config file}) paths are resolved against the file's directory and must exist.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

SLUG = r"^[a-z0-9._-]*[a-z0-9][a-z0-9._-]*$"
SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
CODE = r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$"
SAMPLES = r"^.+(\.npz|\.py:[A-Za-z_][A-Za-z0-9_]*)$"
MEMORY = r"^([1-9][0-9]{0,17}) ?(B|KiB|MiB|GiB|TiB)$"
MEANINGS: Mapping[str, str] = {
    SLUG: "lower-case letters, digits, '.', '_' and '-', with a letter or digit among them",
    SEMVER: "a version such as '1.2.0'",
    NAME: "a name of letters, digits and '_'",
    CODE: "'file.py:function'",
    SAMPLES: "'file.py:function' or a '.npz' file",
}
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Dtype = Literal[
    "float16", "float32", "float64",
    "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
    "bool",
]  # fmt: skip


def problem(what: str) -> PydanticCustomError:
    """A wrong value, in words for people; `{got}` in them stands for the value as written."""
    return PydanticCustomError("problem", what)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?", or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _existing(name: str, info: ValidationInfo) -> Path:
    """The absolute path of a file named in the config; unchecked where there is no context."""
    if not info.context:
        return Path(name)
    base = Path(info.context["path"]).parent
    try:
        # Resolved but for the file's own name, which may be a link to one without its suffix.
        found = (base / name).parent.resolve() / Path(name).name
        if found.is_file():
            return found
        what = "this is a directory, not a file" if found.is_dir() else "no such file"
    except (OSError, RuntimeError, ValueError) as error:
        what = getattr(error, "strerror", None) or "this cannot be a path"
    # An absolute name says where it was looked for; a relative one does not.
    place = "" if Path(name).is_absolute() else f" (looked in '{base}')"
    raise problem(f"{what}: {{got}}{place}")


def _existing_file(name: Path, info: ValidationInfo) -> Path:
    return _existing(str(name), info)


def _existing_code(reference: str, info: ValidationInfo) -> str:
    name, _, function = reference.rpartition(":")
    path = _existing(name, info)
    if info.context:
        names = _top_level_names(path)
        # What a star import brings in is known only to who runs it.
        if function not in names and "*" not in names:
            hint = did_you_mean(function, names)
            raise problem(f"the file has no such function: {{got}}{hint}")
    return f"{path}:{function}"


def _existing_samples(reference: str, info: ValidationInfo) -> str:
    if reference.endswith(".npz"):
        return str(_existing(reference, info))
    return _existing_code(reference, info)


def _top_level_names(path: Path) -> set[str]:
    """Names that importing the file would define, found without running it."""
    names: set[str] = set()
    pending: list[ast.AST] = [_parsed(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _parsed(path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code (an odd escape), not of ours
            return ast.parse(path.read_bytes())
    except (SyntaxError, OSError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        place = "the file" if line is None else f"line {line}"
        why = getattr(error, "msg", error)
        raise problem(f"{place} is not valid Python: {{got}}: {why}") from None


ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
Code = Annotated[str, Field(pattern=CODE), AfterValidator(_existing_code)]
SampleSet = Annotated[str, Field(pattern=SAMPLES), AfterValidator(_existing_samples)]


class Model(BaseModel):
    """Base of the config's mappings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
