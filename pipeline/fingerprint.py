"""What the result of a step depends on, flat and by name, and what has changed of it.

An ingredient's name says its kind: `version:<distribution>`, `option:<path>`, `input:<name>`,
`dependency:<file>`, `code:<module>`, or is one of `stage`, `python`, `platform`, `overlay`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path, PurePath
from typing import Any

from crosscast.pipeline.digest import MISSING, canonical, file_sha256, of_json
from crosscast.pipeline.graph import Step

INERT = frozenset(
    f"crosscast.pipeline.{name}" for name in ("errors", "graph", "toolchain", "store", "staging")
)
"""Modules that a stage may import for a type or an exception: their code changes no result."""

_IMPORT = re.compile(
    r"""^[ \t]*(?:
        from[ \t]+(?P<package>[\w.]+)[ \t]+import[ \t]+(?:\((?P<block>[^)]*)\)|(?P<names>.*))
        |import[ \t]+(?P<modules>[\w., \t]+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*==\s*([^\s;\\#]+)", re.MULTILINE)
_PLAIN_KEY = re.compile(r"[\w-]+")
_SHOWN = 3  # differences told in a reason
_LONGEST = 40  # characters of an option's value that are still worth showing


def ingredients(
    step: Step, *, inputs: Mapping[str, str], versions: Callable[[str], str | None]
) -> dict[str, str]:
    """All that the step's result depends on, but for files that only running it can discover.

    inputs: the digest of each input. versions: the version of a distribution, None where it is
    not installed.
    """
    chain = step.toolchain
    installed = {name: versions(name) for name in chain.distributions}
    found = {
        "stage": step.stage,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "platform": f"{platform.system()}-{platform.machine()}".lower(),
        **{f"version:{name}": version for name, version in installed.items() if version},
        **{f"input:{name}": digest for name, digest in inputs.items()},
        **{f"option:{path}": canonical(leaf) for path, leaf in _leaves(step.options)},
        **{f"code:{name}": digest for name, digest in _code(step).items()},
    }
    if chain.overlay is not None:
        pins = locked_versions(chain.overlay)
        found |= {f"version:{name}": version for name, version in pins.items()}
        found["overlay"] = file_sha256(chain.overlay) if chain.overlay.is_file() else MISSING
    return found


def with_dependencies(base: Mapping[str, str], dependencies: Mapping[str, str]) -> dict[str, str]:
    """The ingredients with the discovered files, given by path with their digests."""
    return {**base, **{f"dependency:{path}": digest for path, digest in dependencies.items()}}


def digest(ingredients: Mapping[str, str]) -> str:
    """The fingerprint: equal for equal ingredients, in whatever order."""
    return of_json(dict(ingredients))


@cache
def installed_version(name: str) -> str | None:
    """The version of a distribution that is installed here, None where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def locked_versions(lock: Path) -> dict[str, str]:
    """The exact pins of an overlay's lock file; none where there is no such file."""
    try:
        return dict(_PIN.findall(lock.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def explain(old: Mapping[str, str] | None, new: Mapping[str, str]) -> str:
    """Why a step runs, for people: how its ingredients differ from those of its last run."""
    if old is None:
        return "first build"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    # Files are discovered by running: to be known to one side only is no change in itself.
    one_sided = old.keys() ^ new.keys()
    telling = [
        name for name in names if not name.startswith("dependency:") or name not in one_sided
    ]
    # The pins say more than the lock file they are in.
    if any(name.startswith("version:") for name in telling):
        telling = [name for name in telling if name != "overlay"]
    if not telling:
        return "other files are read" if names else "its result is not in the cache"
    telling.sort(key=_rank)
    told = [_difference(name, old.get(name), new.get(name)) for name in telling]
    more = [f"and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return "; ".join(told[:_SHOWN] + more)


_KINDS = (
    "input",
    "dependency",
    "option",
    "version",
    "overlay",
    "python",
    "platform",
    "stage",
    "code",
)
"""Kinds of ingredients, what users change themselves first."""


def _rank(ingredient: str) -> tuple[int, str]:
    kind = ingredient.partition(":")[0]
    # What another version of crosscast has recorded may be of a kind unknown here.
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), ingredient)


def _difference(ingredient: str, old: str | None, new: str | None) -> str:
    kind, _, name = ingredient.partition(":")
    if kind == "code":
        path = name.removeprefix("crosscast.").removeprefix("pipeline.").replace(".", "/")
        return f"code of {path} changed"
    if kind in ("input", "dependency", "overlay"):
        return _content_difference(_content_name(kind, name), old, new)
    label = {"version": name, "option": name.removeprefix("options.")}.get(kind, kind)
    before, after = (_shown(kind, value) for value in (old, new))
    if before is None:
        return f"{label} {after} added"
    if after is None:
        return f"{label} {before} removed"
    if max(len(before), len(after)) > _LONGEST or before == after:
        return f"{label} changed"
    return f"{label} {before} → {after}"


def _content_difference(label: str, old: str | None, new: str | None) -> str:
    if new in (None, MISSING):
        return f"{label} is gone"
    return f"{label} {'added' if old in (None, MISSING) else 'changed'}"


def _content_name(kind: str, name: str) -> str:
    """The file's name of a dependency; of an input `source.weights`, "weights"."""
    return PurePath(name).name if kind == "dependency" else name.rpartition(".")[2] or kind


def _shown(kind: str, value: str | None) -> str | None:
    if kind != "option" or value is None:
        return value
    try:
        leaf = json.loads(value)
    except ValueError:
        leaf = None
    text = leaf if isinstance(leaf, str) and leaf else value
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with their dotted paths; an empty mapping is a leaf."""
    if not isinstance(value, Mapping) or (path and not value):
        yield path, value
        return
    for key, inner in value.items():
        segment = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)
        yield from _leaves(inner, f"{path}.{segment}" if path else segment)


def _code(step: Step) -> dict[str, str]:
    """The hash of every module of ours, or of a plug-in's, that the step runs.

    These are the modules of the stage and of its functions and what they import, anywhere in
    their text, of crosscast and of their own package. What the text imports of others is in
    `Toolchain.distributions`. Nothing is imported to find this out.
    """
    found: dict[str, str] = {}
    todo = [step.module, *(reference.partition(":")[0] for reference in step.functions)]
    while todo:
        name = todo.pop()
        origin = _origin(name)
        if name in found or name in INERT or origin is None:
            continue
        found[name], imported = _module(name, origin)
        todo += imported
    return found


@cache
def _module(name: str, origin: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a module's file, and the modules that it may import of its own and of ours."""
    source = origin.read_bytes()
    package = name if origin.name == "__init__.py" else name.rpartition(".")[0]
    roots = {"crosscast", name.partition(".")[0]}
    imported = _imported(source.decode(errors="replace"), package)
    ours = tuple(sorted({module for module in imported if module.partition(".")[0] in roots}))
    return hashlib.sha256(source).hexdigest(), ours


def _imported(source: str, package: str) -> Iterator[str]:
    """Every name that may be a module in the import statements of a text."""
    for match in _IMPORT.finditer(source):
        if match["modules"]:
            yield from (part.split()[0] for part in match["modules"].split(",") if part.strip())
            continue
        module = _absolute(match["package"], package)
        listed = re.sub(r"#.*", "", match["block"] or match["names"] or "")
        yield module
        yield from (f"{module}.{part.split()[0]}" for part in listed.split(",") if part.strip())


def _absolute(module: str, package: str) -> str:
    try:
        return resolve_name(module, package)
    except ImportError:  # more dots than packages: not a module's own text
        return module.lstrip(".")


@cache
def _origin(name: str) -> Path | None:
    """The source file of a module; None where there is none. Imports nothing."""
    spec: ModuleSpec | None = None
    path = None
    for end in [*(match.start() for match in re.finditer(r"\.", name)), len(name)]:
        if spec is not None and path is None:
            return None  # a name inside a module: a search without a path is one of sys.path
        spec = _spec(name[:end], path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    origin = spec.origin if spec is not None and spec.has_location else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, path, None) for finder in sys.meta_path)
    try:
        return next((spec for spec in specs if spec is not None), None)
    except KeyError:
        # A directory without __init__.py, whose path importlib computes from an imported parent.
        spec = ModuleSpec(name, None)
        folder = name.rpartition(".")[2]
        spec.submodule_search_locations = [str(Path(place, folder)) for place in path or ()]
        return spec
