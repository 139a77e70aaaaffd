"""A YAML file as values and the place of each, by YAML 1.2's rules.

A value that came from the environment is never echoed: messages show the file's `${VAR}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from crosscast.pipeline.errors import ConfigError

MAX_NODES = 20_000  # of the expanded file: a few nested aliases stand for millions
MAX_DEPTH = 50
MAX_DIGITS = 100
MAX_SHOWN = 60

Loc = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, from 1."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, with the core schema's scalars in place of YAML 1.1's."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # the base's own attribute
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested over {MAX_DEPTH} deep", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"
SCALARS = {
    f"{TAG}null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    f"{TAG}bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    f"{TAG}int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    f"{TAG}float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    MERGE: re.compile(r"<<\Z"),
}
for _tag, _pattern in SCALARS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, None)


def _number(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2])
    return int(text[2:], base) if base else int(text)


CONVERT: Mapping[str, Any] = {
    f"{TAG}null": lambda _: None,
    f"{TAG}bool": lambda text: text.lower() == "true",
    f"{TAG}int": _number,
    f"{TAG}float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    MERGE: str,
}
VARIABLE = re.compile(r"\$(?:(?P<escape>\$)|\{(?P<inner>[^}]*)(?P<end>\}?))")
INNER = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    written: its text in the file, where variables were expanded in it.
    hidden: what the variables gave, and how the file refers to them.
    """

    key: Mark
    value: Mark
    written: str | None = None
    hidden: tuple[tuple[str, str], ...] = ()


@dataclass
class Document:
    """The values of a file, their places, and what was found wrong so far.

    closed: places whose content is not worth another message.
    """

    name: str
    environ: Mapping[str, str]
    values: Any = None
    places: dict[Loc, Place] = field(default_factory=dict)
    lines: set[tuple[tuple[Mark, str], str]] = field(default_factory=set)
    closed: set[Loc] = field(default_factory=set)
    nodes: int = 0

    def read(self, text: str) -> None:
        """Fill in values and places. Raises ConfigError where nothing can be made of the file."""
        root = self._composed(text)
        if root is None:
            raise ConfigError(f"{self.name}: the file is empty")
        self.values = self._value(root, (), key=_mark(root.start_mark), trail=())
        if not isinstance(self.values, dict):
            shown = self.shown(())
            raise self._fatal(root.start_mark, f"expected a mapping at the top, got {shown}")

    def add(self, loc: Loc, what: str, *, at_key: bool = False, closes: bool = False) -> None:
        """Note an error at a value or its key. A key that is missing has its mapping's place."""
        # What is wrong with a key is so whatever its value is.
        if any(loc[:length] in self.closed for length in range(len(loc) + (not at_key))):
            return
        if closes:
            self.closed.add(loc)
        if loc in self.places:
            place = self.places[loc]
            self._add(place.key if at_key else place.value, loc, what)
        else:
            self._add(self.places[loc[:-1]].key, loc, what)

    def shown(self, loc: Loc) -> str:
        """The value as the file has it, short enough for a message."""
        written = self.places[loc].written
        value = self.get(loc)
        if isinstance(value, dict):
            return "a mapping"
        if isinstance(value, list):
            parts = [self.shown((*loc, index)) for index in range(len(value))]
            text = f"[{', '.join(parts)}]"
            return text if len(text) <= MAX_SHOWN and "a mapping" not in parts else "a list"
        if value is None or isinstance(value, bool):
            return json.dumps(value)
        text = repr(value if written is None else written)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"

    def get(self, loc: Loc) -> Any:
        """The value at a place; None where there is none."""
        value = self.values
        for step in loc:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def written(self, loc: Loc = ()) -> Any:
        """The value at a place as the file has it, its `${VAR}` unexpanded."""
        value = self.get(loc)
        if isinstance(value, dict):
            return {key: self.written((*loc, key)) for key in value}
        if isinstance(value, list):
            return [self.written((*loc, index)) for index in range(len(value))]
        text = self.places[loc].written
        return value if text is None else text

    def mapping(self, *loc: str) -> dict[str, Any]:
        """The mapping at a place; empty where something else is."""
        value = self.get(loc)
        return value if isinstance(value, dict) else {}

    def without_secrets(self, loc: Loc, text: str) -> str:
        """The text with what variables gave at or under a place taken back."""
        inside = [place for at, place in self.places.items() if at[: len(loc)] == loc]
        for value, variable in (pair for place in inside for pair in place.hidden):
            text = text.replace(value, variable)
        return text

    def _add(self, mark: Mark, loc: Loc, what: str) -> None:
        path = dotted(loc)
        at = f"{self.name}:{mark[0]}:{mark[1]}:"
        self.lines.add(((mark, path), f"{at} {path}: {what}" if path else f"{at} {what}"))

    def _fatal(self, mark: yaml.Mark | None, what: str) -> ConfigError:
        line, column = _mark(mark)
        return ConfigError(f"{self.name}:{line}:{column}: {what}")

    def _composed(self, text: str) -> yaml.Node | None:
        loader = None
        try:
            loader = _Loader(text)
            node: yaml.Node | None = loader.get_single_node()
            return node
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            parts = [part for part in (error.problem, error.context) if part]
            if mark and text[: mark.index].endswith("$"):
                parts.append("quote a '${VAR}' that stands in braces or brackets")
            raise self._fatal(mark, f"not valid YAML: {', '.join(parts)}") from None
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            mark_at = (before.count("\n") + 1, error.position - before.rfind("\n"))
            what = f"character U+{ord(text[error.position]):04X} is not allowed"
            raise ConfigError(f"{self.name}:{mark_at[0]}:{mark_at[1]}: {what}") from None
        except (ValueError, OverflowError):
            # PyYAML lets chr() fail on an escape over U+10FFFF.
            assert loader is not None
            raise self._fatal(loader.get_mark(), "not valid YAML: no such character") from None

    def _value(self, node: yaml.Node, loc: Loc, *, key: Mark, trail: tuple[int, ...]) -> Any:
        """The value of a node. `trail`: the nodes it stands in."""
        self._count(node)
        self.places[loc] = Place(key=key, value=_mark(node.start_mark))
        trail = self._inside(trail, node, loc)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if node.tag not in (f"{TAG}map", f"{TAG}seq"):
            self.add(loc, f"the tag '{node.tag}' is not supported", closes=True)
            return None
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(entry, (*loc, index), key=_mark(entry.start_mark), trail=trail)
                for index, entry in enumerate(node.value)
            ]
        return {
            name: self._value(value, (*loc, name), key=_mark(key_node.start_mark), trail=trail)
            for name, (key_node, value) in self._entries(node, loc, trail).items()
        }

    def _count(self, node: yaml.Node) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            what = f"the file stands for over {MAX_NODES} values; it repeats aliases too often"
            raise self._fatal(node.start_mark, what)

    def _inside(self, trail: tuple[int, ...], node: yaml.Node, loc: Loc) -> tuple[int, ...]:
        """The trail of what stands in the node. Aliases can make one that is long or endless."""
        if id(node) in trail:
            raise self._fatal(node.start_mark, f"{dotted(loc)}: this anchor contains itself")
        if len(trail) >= MAX_DEPTH:
            raise self._fatal(node.start_mark, f"{dotted(loc)}: nested over {MAX_DEPTH} deep")
        return (*trail, id(node))

    def _entries(
        self, node: yaml.Node, loc: Loc, trail: tuple[int, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The key and value nodes of a mapping by name; its own go before merged ones."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            mark = _mark(key.start_mark)
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{TAG}str", MERGE):
                scalar = isinstance(key, yaml.ScalarNode) and key.value
                self._add(mark, loc, f"a key is text{f'; quote it: {scalar!r}' if scalar else ''}")
            elif key.value in own:
                first = _mark(own[key.value][0].start_mark)
                at = f"{first[0]}:{first[1]}"
                self._add(mark, (*loc, key.value), f"duplicate key; the first is at {at}")
            else:
                own[key.value] = (key, value)
                if key.tag == MERGE:
                    merged = self._merged(value, loc, trail)
        return {**merged, **{name: own[name] for name in own if own[name][0].tag != MERGE}}

    def _merged(
        self, node: yaml.Node, loc: Loc, trail: tuple[int, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                self._add(_mark(part.start_mark), (*loc, "<<"), "expected a mapping to merge")
                continue
            self._count(part)
            # The first mapping that has a key decides it.
            entries = {**self._entries(part, loc, self._inside(trail, part, loc)), **entries}
        return entries

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        text: str = node.value
        if node.tag == f"{TAG}str":
            return self._expanded(text, loc)
        if node.tag not in SCALARS:
            self.add(loc, f"the tag '{node.tag}' is not supported", closes=True)
        elif not SCALARS[node.tag].match(text):
            kind = node.tag.removeprefix(TAG)
            self.add(loc, f"the tag '!!{kind}' does not fit this text", closes=True)
        elif len(text) > MAX_DIGITS:
            self.add(loc, f"a number of over {MAX_DIGITS} digits", closes=True)
        else:
            return CONVERT[node.tag](text)
        return None

    def _expanded(self, text: str, loc: Loc) -> str:
        """The text with `${VAR}`, `${VAR:-default}` and `$$` replaced."""
        hidden: list[tuple[str, str]] = []
        wrong: list[str] = []

        def replace(match: re.Match[str]) -> str:
            if match["escape"]:
                return "$"
            inner = INNER.fullmatch(match["inner"])
            if not inner or not match["end"]:
                wrong.append("expected '${NAME}' or '${NAME:-default}'; '$$' is a dollar sign")
                return match[0]
            value = self.environ.get(inner["name"])
            if value:
                hidden.append((value, match[0]))
            elif inner["default"] is not None:
                return inner["default"]
            elif value is None:
                wrong.append(f"the environment variable '{inner['name']}' is not set")
                return match[0]
            return value or ""

        value = VARIABLE.sub(replace, text)
        if value != text:
            place = self.places[loc]
            self.places[loc] = Place(place.key, place.value, text, ((value, text), *hidden))
        if not _is_unicode(value):
            wrong.append("this is not Unicode text")
        for what in wrong:
            self.add(loc, what)
        if wrong:
            self.closed.add(loc)
        return value if _is_unicode(value) else ""


def dotted(loc: Loc) -> str:
    """A place as people read it: `inputs.image.shape[1]`."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{_printable(step)}" for step in loc]
    return "".join(parts).removeprefix(".")


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _mark(mark: yaml.Mark | None) -> Mark:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
