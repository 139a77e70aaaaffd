"""The config's text: YAML for people, with what was found and what is assumed beside it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.init.choice import Choice
from crosscast.pipeline.init.facts import Facts, Input

PLAIN = re.compile(r"(\.{1,2}/)*[A-Za-z_][\w./-]*(:[A-Za-z_]\w*)?\Z", re.ASCII)
RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that one version of YAML or another reads as something else than text."""
COLUMN = 44
STATE = "a state: its next value, by name, shape and dtype"
SYNTHETIC = "made from the declared ranges: put real inputs here (file.py:function or .npz)"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What the config has that is not the model's: its schema's path, name and version."""

    schema: str
    model: str
    version: str


def text(heading: Heading, facts: Facts, choice: Choice, *, calibrated: bool) -> str:
    """The whole file. Paths in `facts.source` are those that the file is to have.

    calibrated: whether one of the targets reads calibration samples.
    """
    sections = [
        [f"# yaml-language-server: $schema={heading.schema}", *(f"# {one}" for one in facts.notes)],
        [f"model: {scalar(heading.model)}", f"version: {heading.version}", *_source(facts)],
        _inputs(facts),
        _samples(calibrated=calibrated),
        _targets(choice),
    ]
    return "\n".join(line for section in sections for line in section) + "\n"


def scalar(value: Any) -> str:
    """A value in YAML's flow style; text is quoted where any reader might take it otherwise."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"
        return repr(value) if "." in repr(value) else repr(value).replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    return _quoted(value.replace("$", "$$"))


def _quoted(value: str) -> str:
    plain = PLAIN.match(value) and value.lower() not in RESERVED
    return value if plain else json.dumps(value, ensure_ascii=False)


def _source(facts: Facts) -> list[str]:
    # The key that names the model comes first, whatever order its options were found in.
    keys = sorted(facts.source, key=lambda key: (key not in SOURCES_SCHEMA, key))
    return ["source:", *(f"  {key}: {scalar(facts.source[key])}" for key in keys)]


def _inputs(facts: Facts) -> list[str]:
    told: set[str] = set()
    lines = ["inputs:"]
    for one in facts.inputs:
        lines += [f"  {scalar(one.name)}:"]
        lines += _input(one, facts, told)
    return lines if facts.inputs else []


def _input(one: Input, facts: Facts, told: set[str]) -> list[str]:
    lines = [f"    shape: {scalar(one.shape)}", f"    dtype: {one.dtype}"]
    if one.range is not None:
        lines.append(_noted(f"    range: {scalar(one.range)}", one.why))
    if one.values:
        lines.append(_noted(f"    values: {scalar(one.values)}", one.why))
    if one.layout is not None:
        lines.append(f"    layout: {one.layout}")
    if one.fed_by:
        lines.append(_noted(f"    fed_by: {scalar(one.fed_by)}", STATE))
    for dim in dict.fromkeys(dim for dim in one.shape if isinstance(dim, str)):
        if dim in facts.dims and dim not in told:
            told.add(dim)
            note = facts.dim_notes.get(dim, "least and greatest size that is proven")
            lines.append(_noted(f"    {dim}: {scalar(facts.dims[dim])}", note))
    return lines


def _samples(*, calibrated: bool) -> list[str]:
    if not calibrated:
        return []
    return ["samples:", _noted("  calibration: synthetic", SYNTHETIC)]


def _targets(choice: Choice) -> list[str]:
    lines = ["targets:"]
    if choice.why_int8:
        lines.append(f"  # int8: {choice.why_int8}")
    lines += [f"  {name}: {scalar(keys)}" for name, keys in choice.targets.items()]
    return lines + [f"  # {name} is left out: {reason}" for name, reason in choice.left_out.items()]


def _noted(line: str, note: str) -> str:
    return f"{line:<{COLUMN}} # {note}" if note else line


def template(name: str, key: str, inputs: Sequence[str]) -> str:
    """What a config by hand starts from, where no look could tell the inputs."""
    names = inputs or ["x"]
    lines = [f"model: {name}", "version: 0.1.0", "source:", f"  {key}", "inputs:"]
    for one in names:
        lines.append(
            f"  {scalar(one)}: {{shape: [batch, 3, 224, 224], dtype: float32, range: [-1, 1]}}"
        )
    return "\n".join([*lines, "targets: {onnx: {}, tflite-fp32: {}}"])
