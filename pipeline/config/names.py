"""What names look like, and how a wrong one is told. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SLUG = r"^[a-z0-9._-]*[a-z0-9][a-z0-9._-]*$"
SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
CHANNEL = r"^[a-z][a-z0-9._-]*$"
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
CODE = r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$"
URL = r"^(https?|file)://[^\s]+$"
SHA256 = r"^[0-9a-f]{64}$"
MEMORY = r"^([1-9][0-9]{0,17}) ?(B|KiB|MiB|GiB|TiB)$"
MEANINGS: Mapping[str, str] = {
    SLUG: "lower-case letters, digits, '.', '_' and '-', with a letter or digit among them",
    SEMVER: "a version such as '1.2.0'",
    CHANNEL: "lower-case letters, digits, '.', '_' and '-', a letter first, such as 'stable'",
    NAME: "a name of letters, digits and '_'",
    CODE: "'file.py:function'",
    URL: "a url that begins with https://, http:// or file://",
    SHA256: "64 hexadecimal digits, in lower case",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?", or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
