"""The look at a model, run in a worker as a stage is: frameworks may crash, and run users' code."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.init import names
from crosscast.pipeline.init.facts import Facts
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.stages import StageResult

FACTS = "facts.json"

PROBES: Mapping[str, str] = {
    "onnx": "crosscast.pipeline.init.onnx_probe",
    "torch": "crosscast.pipeline.init.torch_probe",
    "keras": "crosscast.pipeline.init.stated_probe",
    "tensorflow": "crosscast.pipeline.init.stated_probe",
    "sklearn": "crosscast.pipeline.init.stated_probe",
    "tflite": "crosscast.pipeline.init.stated_probe",
}
"""Who looks at the models of a source, by its key in the config."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:  # noqa: ARG001
    """Write `facts.json`. options: `keys`, those of the config's source, with absolute paths."""
    keys = options["keys"]
    write_json(out / FACTS, look(keys).to_json())
    return StageResult()


def look(keys: Mapping[str, Any]) -> Facts:
    """What a look at the model tells. Raises StageError where it does not tell enough."""
    kind = next(key for key in keys if key in PROBES)
    found: Callable[..., Facts] = importlib.import_module(PROBES[kind]).look
    facts = found(keys, SOURCES_SCHEMA[kind].model_validate(keys).to_source())
    return _fed(facts, kind)


def _fed(facts: Facts, kind: str) -> Facts:
    """The facts with what feeds the states, where an input is called like one."""
    if not any(names.is_state(one.name) for one in facts.inputs):
        return facts
    source = SOURCES_SCHEMA[kind].model_validate(facts.source).to_source()
    signature = facts.signature(SOURCES_SCHEMA[kind].layout)
    try:
        session = open_source(source).load(source=source, signature=signature, outputs=None)
    except StageError:
        return facts  # the build will say what is wrong
    fed = {one.name: names.fed_by(one, session.outputs) for one in signature.inputs}
    counts = Counter(fed.values())
    sure = {name: output for name, output in fed.items() if counts[output] == 1}
    inputs = tuple(replace(one, fed_by=sure.get(one.name, "")) for one in facts.inputs)
    return replace(facts, inputs=inputs)
