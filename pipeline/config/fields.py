"""Types of config values that several keys share: names, files, code; and how a wrong one is told.

A validator speaks through `problem`: `{got}` in its text stands for the value, which the loader
shows as the file has it, so that no expanded variable is ever echoed. With a validation context
({"path": the config file}) paths are resolved against the file's directory and must exist.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from crosscast.pipeline.config.names import CODE, MEANINGS, SHA256, URL, did_you_mean

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Dtype = Literal[
    "float16", "float32", "float64",
    "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
    "bool", "string",
]  # fmt: skip


def problem(what: str) -> PydanticCustomError:
    """A wrong value, in words for people; `{got}` in them stands for the value as written."""
    return PydanticCustomError("problem", what)


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


def existing_code(reference: str, info: ValidationInfo) -> str:
    """The reference with its file's absolute path; the file must define the function."""
    name, _, function = reference.rpartition(":")
    path = _existing(name, info)
    if info.context:
        names = _top_level_names(path)
        # What a star import brings in is known only to who runs it.
        if function not in names and "*" not in names:
            hint = did_you_mean(function, names)
            raise problem(f"the file has no such function: {{got}}{hint}")
    return f"{path}:{function}"


def _existing_model(reference: str, info: ValidationInfo) -> str:
    if re.fullmatch(CODE, reference):
        return existing_code(reference, info)
    if re.search(r"\.py(:|$)", reference):
        raise problem(f"expected {MEANINGS[CODE]}, got {{got}}")
    return str(_existing(reference, info))


def _existing_saved_model(reference: str, info: ValidationInfo) -> str:
    if re.search(r"\.py(:|$)", reference):
        return _existing_model(reference, info)
    folder = _existing_folder(reference, info, wanted=f"{MEANINGS[CODE]} or a SavedModel directory")
    names = [folder / f"saved_model.{end}" for end in ("pb", "pbtxt")]
    if info.context and not any(name.is_file() for name in names):
        raise problem("no SavedModel: the directory {got} has no saved_model.pb")
    return str(folder)


def _existing_samples(reference: str, info: ValidationInfo) -> str:
    if re.fullmatch(CODE, reference):
        return existing_code(reference, info)
    if reference.endswith(".npz"):
        return str(_existing(reference, info))
    wanted = "'file.py:function', an '.npz' file or a folder of images"
    return str(_existing_folder(reference, info, wanted=wanted))


def sample_file(reference: str) -> str:
    """The file that samples come from: that of 'file.py:function', or the .npz itself."""
    return reference.rpartition(":")[0] if re.fullmatch(CODE, reference) else reference


def _existing_folder(name: str, info: ValidationInfo, *, wanted: str) -> Path:
    """The absolute path of a folder; `wanted` is all that the key may be, for messages."""
    if not info.context:
        return Path(name)
    base = Path(info.context["path"]).parent
    try:
        found = (base / name).resolve()
        if found.is_dir():
            return found
        is_file = found.is_file()
    except (OSError, RuntimeError, ValueError):
        is_file = False
    if is_file:
        raise problem(f"expected {wanted}, got {{got}}")
    raise problem(f"no such file or folder: {{got}}; expected {wanted}")


def _read_labels(value: object, info: ValidationInfo) -> object:
    """The lines of a file of labels; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        text = _existing(value, info).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise problem(f"{{got}} cannot be read: {why}") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise problem(f"line {lines.index('') + 1} of {{got}} is empty; a class needs a name")
    return lines


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


class Model(BaseModel):
    """Base of the config's mappings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Download(Model):
    """A file that a build fetches, once: its text is the path that it then has."""

    url: str = Field(pattern=URL, description="Where it is: https://, http:// or file://.")
    sha256: str = Field(
        pattern=SHA256, description="Digest of the file, which `sha256sum FILE` prints."
    )

    @model_validator(mode="before")
    @classmethod
    def _digest_given(cls, value: object) -> object:
        if isinstance(value, Mapping) and "url" in value and value.get("sha256") is None:
            raise PydanticCustomError(
                "key_missing",
                "a url needs the file's 'sha256', which says which file is meant; "
                "`sha256sum FILE` prints it",
            )
        return value

    @property
    def path(self) -> Path:
        """Where it is kept once it is fetched."""
        from crosscast.pipeline.store import default_root

        name = re.sub(r"[^A-Za-z0-9._-]", "_", unquote(urlsplit(self.url).path).rpartition("/")[2])
        return default_root() / "downloads" / self.sha256 / (name.strip(".") or "file")

    def __str__(self) -> str:
        return str(self.path)


def _place(value: object) -> str:
    return "Download" if isinstance(value, Mapping | Download) else "file"


def _fetched_or(kind: Any) -> Any:
    """A type whose values may be downloads as well."""
    return Annotated[
        Annotated[kind, Tag("file")] | Annotated[Download, Tag("Download")], Discriminator(_place)
    ]


if TYPE_CHECKING:
    ExistingFile = Path | Download
    CodeOrFile = str | Download
else:
    ExistingFile = _fetched_or(Annotated[Path, AfterValidator(_existing_file)])
    CodeOrFile = _fetched_or(Annotated[str, Field(min_length=1), AfterValidator(_existing_model)])
Code = Annotated[str, Field(pattern=CODE), AfterValidator(existing_code)]
CodeOrFolder = Annotated[str, Field(min_length=1), AfterValidator(_existing_saved_model)]
Labels = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    BeforeValidator(_read_labels),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
                {"type": "string"},
            ]
        }
    ),
]
SampleSet = Annotated[str, Field(min_length=1), AfterValidator(_existing_samples)]
