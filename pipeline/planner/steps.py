"""The steps of a plan as they are found: equal ones, whoever asks for them, become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosscast.pipeline.digest import canonical
from crosscast.pipeline.graph import GIB, Input, Step
from crosscast.pipeline.stages import STAGES
from crosscast.pipeline.toolchain import Toolchain

MEMORY = {"export": 2 * GIB, "convert": GIB, "quantize": GIB, "reference": GIB, "score": GIB}
"""First estimates of a step's peak; what was learnt from earlier runs takes their place."""


class Steps:
    """Steps by id, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.by_id: dict[str, Step] = {}
        self._ids: dict[str, str] = {}

    def __getitem__(self, step: str) -> Step:
        return self.by_id[step]

    def add(
        self,
        name: str,
        stage: str,
        *,
        toolchain: Toolchain,
        options: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Input] | None = None,
        functions: tuple[str, ...] = (),
    ) -> str:
        """The id of the step that does this: an equal one that is there already, or a new one."""
        options, inputs = options or {}, inputs or {}
        sources = {key: str(source) for key, source in inputs.items()}
        content = canonical([stage, toolchain.name, options, sources])
        if content not in self._ids:
            self._ids[content] = name
            self.by_id[name] = Step(
                id=name,
                stage=stage,
                module=STAGES[stage],
                toolchain=toolchain,
                options=options,
                inputs=inputs,
                functions=functions,
                memory=MEMORY.get(stage, GIB // 2),
            )
        return self._ids[content]

    def above(self, *ends: str) -> list[str]:
        """The ids of `ends` and of all that they need."""
        found: dict[str, None] = {}
        waiting = list(ends)
        while waiting:
            step = waiting.pop()
            if step not in found:
                found[step] = None
                waiting.extend(self.by_id[step].upstream())
        return list(found)
