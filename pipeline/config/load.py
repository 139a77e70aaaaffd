"""A YAML file becomes a Config, or one ConfigError that lists everything wrong with it.

An entry reads `file:line:col: dotted.path: what; did you mean 'x'?`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from crosscast.pipeline.config import devices, profiles
from crosscast.pipeline.config.document import Document, Loc, dotted
from crosscast.pipeline.config.inputs import Input
from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.config.schema import Config, config_model
from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.config.wording import names, validated
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.sources import SOURCES, open_source
from crosscast.targets.base import Kind, Target


def load(
    path: str | Path,
    *,
    environ: Mapping[str, str] = os.environ,
    targets: Mapping[str, Target] | None = None,
) -> Config:
    """The config in a file; `targets` are those it can name, by default all there are.

    Raises ConfigError with every error of the file, in the order of its lines.
    """
    if targets is None:
        from crosscast.targets import TARGETS

        targets = TARGETS
    document = Document(name=str(path), environ=environ)
    document.read(read_text(Path(path)))
    _check_source(document)
    _check_inputs(document)
    _check_fed(document)
    _check_targets(document, targets)
    config = validated(document, config_model(targets), context={"path": Path(path).absolute()})
    if config is not None:
        _check_folders(document, config)
        _check_task(document, config)
        _check_labels(document, config, targets)
        _check_devices(document, config)
    if config is None or document.lines:
        raise ConfigError("\n".join(text for _, text in sorted(document.lines)))
    return config


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a directory; a config is a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigError(f"{path}:{line}:{column}: not UTF-8 text") from None


# Checks that see more than one key


def _check_source(document: Document) -> None:
    source, kinds = document.get(("source",)), list(SOURCES_SCHEMA)
    if "source" not in document.mapping():
        return
    if not isinstance(source, dict):
        shown = document.shown(("source",))
        what = f"expected a mapping with one of the keys {names(kinds)}, got {shown}"
        document.add(("source",), what, closes=True)
        return
    chosen = [key for key in source if key in kinds]
    if len(chosen) > 1:
        what = f"one source is needed, '{chosen[0]}' is given as well"
        document.add(("source", chosen[1]), what, at_key=True)
    if not chosen:
        close = [(key, hint) for key in source if (hint := did_you_mean(key, kinds))]
        for key, hint in close:
            document.add(("source", key), f"unknown key{hint}", at_key=True)
        if not close:
            what = f"one of the keys {names(kinds)} is needed"
            document.add(("source",), what, at_key=True)
    if len(chosen) != 1:
        document.closed.add(("source",))
    elif SOURCES_SCHEMA[chosen[0]].asks_inputs(source[chosen[0]]) and not document.get(("inputs",)):
        what = f"a {chosen[0]} source does not state its inputs; declare them here"
        document.add(("inputs",), what, at_key=True, closes=True)


def _check_inputs(document: Document) -> None:
    fields = list(Input.model_fields)
    first: dict[str, Loc] = {}
    for name, entry in document.mapping("inputs").items():
        if not isinstance(entry, dict):
            continue
        shape = entry.get("shape")
        dims = [size for size in shape if isinstance(size, str)] if isinstance(shape, list) else []
        for key in entry:
            loc = ("inputs", name, key)
            if key not in fields and key not in dims:
                what = f"neither a key nor a dimension of 'shape'{did_you_mean(key, fields + dims)}"
                document.add(loc, what, at_key=True, closes=True)
            elif key in dims and document.get(first.setdefault(key, loc)) != entry[key]:
                other = f"{document.shown(first[key])} of {dotted(first[key][:-1])}"
                document.add(loc, f"differs from {other}; a dimension has one range")


def _check_fed(document: Document) -> None:
    """Outputs that the config names are known here; others only when the source has run."""
    outputs = document.get(("outputs",))
    if not isinstance(outputs, list):
        return
    for name, entry in document.mapping("inputs").items():
        fed_by = entry.get("fed_by") if isinstance(entry, dict) else None
        if isinstance(fed_by, str) and fed_by and fed_by not in outputs:
            what = f"'{fed_by}' is none of the `outputs`{did_you_mean(fed_by, outputs)}"
            document.add(("inputs", name, "fed_by"), what)


def _check_targets(document: Document, targets: Mapping[str, Target]) -> None:
    entries = document.mapping("targets")
    calibration = document.mapping("samples").get("calibration")
    for name in entries:
        if name in targets:
            if targets[name].calibrated and calibration is None:
                what = (
                    "needs calibration samples; add 'samples: {calibration: file.py:function}', "
                    "an .npz, a folder of images, or 'synthetic'"
                )
                document.add(("targets", name), what, at_key=True)
            if isinstance(_start(document, name), str):
                _check_start(document, targets, name)
            if document.mapping("targets", name).get("via") is not None:
                _check_via(document, targets, name)
            if document.mapping("targets", name).get("preprocess") == "fold":
                _check_fold(document, targets, name)


def _check_via(document: Document, targets: Mapping[str, Target], name: str) -> None:
    loc, via = ("targets", name, "via"), document.mapping("targets", name)["via"]
    accepted = targets[name].accepts
    if via not in get_args(Kind):
        return  # told with the other values of a wrong type
    if _start(document, name) is not None:
        document.add(loc, "contradicts 'from': one says what this target starts from; remove it")
    elif via not in accepted:
        document.add(loc, f"'{name}' cannot start from '{via}'; it starts from {names(accepted)}")
    else:
        chosen = [key for key in document.mapping("source") if key in SOURCES]
        given = open_source({"kind": chosen[0]}).kinds if chosen else accepted
        if via not in given:
            what = f"a {chosen[0]} source cannot give '{via}'; it gives {names(given)}"
            document.add(loc, what)


def _check_fold(document: Document, targets: Mapping[str, Target], name: str) -> None:
    loc = ("targets", name, "preprocess")
    inputs = document.mapping("inputs").values()
    if not any(isinstance(entry, dict) and entry.get("preprocess") for entry in inputs):
        document.add(loc, "no input declares a 'preprocess' that could be folded in")
    elif document.mapping("targets", name).get("io") is not None:
        document.add(loc, "contradicts 'io': images are fed as uint8 pixels; remove one of them")
    elif _start(document, name) is None and "onnx" not in targets[name].accepts:
        document.add(loc, "cannot be done: this target does not start from ONNX; remove it")
    elif document.mapping("targets", name).get("via") not in (None, "onnx"):
        document.add(loc, "contradicts 'via': it is done in an ONNX graph; remove one of them")
    elif targets[name].format == "coreml" and (
        document.mapping("targets", name).get("layout") == "nchw"
    ):
        document.add(loc, "contradicts 'layout': Core ML's images have none; remove one of them")


def _check_folders(document: Document, config: Config) -> None:
    """A folder of images feeds the one input that says how an image becomes it."""
    given = [
        (("samples", "parity"), config.samples.parity),
        (("samples", "calibration"), config.samples.calibration),
        (("task", "samples"), config.task.samples if config.task else None),
    ]
    for loc, spec in given:
        if spec is None or not Path(spec).is_dir():
            continue
        if not config.preprocessing():
            what = "needs a 'preprocess' of the input that the images become"
            document.add(loc, f"a folder of images {what}")
        elif len(config.inputs) > 1:
            inputs = names(config.inputs, "and")
            what = f"a folder of images feeds one input, this model has {inputs}"
            document.add(loc, f"{what}; give 'file.py:function' or an .npz")


def _check_task(document: Document, config: Config) -> None:
    """Labelled samples are not those that artifacts are fitted to, and the output exists."""
    task = config.task
    if task is None:
        return
    if task.samples == config.samples.calibration:
        shown = document.shown(("task", "samples"))
        document.add(
            ("task", "samples"), f"the same samples as 'calibration': {shown}; they must differ"
        )
    if task.output is not None and config.outputs and task.output not in config.outputs:
        loc = ("task", "output")
        there = names(config.outputs, "and")
        document.add(loc, f"no such output: {document.shown(loc)}; those named are {there}")


def _check_labels(document: Document, config: Config, targets: Mapping[str, Target]) -> None:
    """Core ML tells scores by label, so that none can stand for two classes."""
    counts = Counter(config.labels or [])
    twice = next((label for label, count in counts.items() if count > 1), None)
    named = [name for name in config.targets if targets[name].format == "coreml"]
    if twice is not None and named:
        what = f"'{twice}' stands twice, and '{named[0]}' needs a label of its own for each class"
        document.add(("labels",), what)


def _check_devices(document: Document, config: Config) -> None:
    """Devices of the config's own take something of what is built."""
    own, at = devices.written(config.release.devices), ("release", "devices")
    if not own:
        return
    known, wrong = {**profiles.ours(), **own}, len(document.lines)
    devices.check(document, at, own, known)
    for name in own if len(document.lines) == wrong else ():
        takes = profiles.complete(name, known).targets
        if not set(takes) & set(config.targets):
            what = f"takes none of this config's targets, only {', '.join(takes)}"
            document.add((*at, name), what)


def _check_start(document: Document, targets: Mapping[str, Target], name: str) -> None:
    loc, start = ("targets", name, "from"), _start(document, name)
    entries = document.mapping("targets")
    if start == name:
        document.add(loc, "a target cannot start from itself", closes=True)
    elif start not in entries:
        shown = document.shown(loc)
        hint = did_you_mean(start, [entry for entry in entries if entry != name])
        document.add(loc, f"no such target in this config: {shown}{hint}", closes=True)
    elif start in targets and not _can_start(targets[name], targets[start]):
        accepted = names(targets[name].accepts)
        what = f"'{name}' starts from {accepted}, but '{start}' gives '{targets[start].format}'"
        document.add(loc, what)
    circle = _circle(document, name)
    # Said once, at the first of its targets.
    if len(circle) > 1 and name == next(entry for entry in entries if entry in circle):
        document.add(loc, f"targets start from each other: {' -> '.join([*circle, name])}")


def _can_start(target: Target, start: Target) -> bool:
    # Quantization alone is left to do where the formats are the same.
    same = target.QuantizeOptions is not None and start.format == target.format
    return same or start.format in target.accepts


def _circle(document: Document, name: str) -> list[str]:
    """The targets from `name` along `from` back to it; empty where that leads elsewhere."""
    seen = [name]
    while isinstance(start := _start(document, seen[-1]), str) and start not in seen:
        seen.append(start)
    return seen if _start(document, seen[-1]) == name else []


def _start(document: Document, name: str) -> Any:
    return document.mapping("targets", name).get("from")
