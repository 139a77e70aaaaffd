"""Models with a state: successive cases, each of which goes on where the one before ended. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, adversarial, example
from crosscast.pipeline.signature import Arrays, Signature, dtype_name

STREAM_STEPS = 8
"""A state that is dropped, zeroed or stale shows in the second step; what builds up needs more."""

STREAM_SEED = 2
"""Other synthetic inputs than those of parity (0) and of calibration (1)."""


def states(signature: Signature) -> dict[str, str]:
    """By input that is a state: the output that it is fed by."""
    return {tensor.name: tensor.fed_by for tensor in signature.inputs if tensor.fed_by}


def streamed(real: Sequence[Case], *, signature: Signature) -> Iterator[Case]:
    """The steps of a stream; nothing for a model without a state.

    Their inputs are those of the `real` cases in order, from the start again where they end, or
    else synthetic ones. The first step has the first real case's state, or zeros. The others have
    none: what runs them has it (`resumed`).
    """
    own = states(signature)
    if not own:
        return
    start = real[0] if real else next(adversarial(signature))
    given = [case.arrays for case in real if case.dims == start.dims] or [
        example(signature, seed=(STREAM_SEED, step)) for step in range(STREAM_STEPS)
    ]
    follows, held = "", {name: start.arrays[name] for name in own}
    for step, arrays in enumerate(islice(cycle(given), STREAM_STEPS)):
        fed = {name: array for name, array in arrays.items() if name not in own}
        case = Case(
            name=f"streamed {step}",
            origin="streamed",
            arrays=fed | held,
            dims=start.dims,
            follows=follows,
        )
        yield case
        follows, held = case.name, {}


def resumed(case: Case, answers: Mapping[str, Arrays], *, own: Mapping[str, str]) -> Case:
    """The case with the state that the case it follows has left; as it is where there is none.

    answers: outputs by case. own: see `states`.
    """
    left = answers.get(case.follows, {})
    held = {name: left[output] for name, output in own.items() if output in left}
    return replace(case, arrays=case.arrays | held) if held else case


def require_fed(case: Case, outputs: Arrays, *, own: Mapping[str, str]) -> None:
    """Raise StageError where a state cannot be fed by the output that the config names."""
    for name, output in own.items():
        if output not in outputs:
            close = difflib.get_close_matches(output, outputs, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise StageError(
                f"input '{name}' is fed by '{output}', which is no output of the source{hint}",
                fix="the outputs are " + ", ".join(f"'{found}'" for found in outputs),
            )
        mine, its = (_form(arrays) for arrays in (case.arrays[name], outputs[output]))
        if mine != its:
            raise StageError(
                f"input '{name}' is {mine} in case '{case.name}' and cannot be fed by output "
                f"'{output}', which is {its}",
                fix="`fed_by` is for states that keep their shape and dtype from call to call",
            )


def _form(array: NDArray[Any]) -> str:
    return f"{dtype_name(array.dtype)} [{', '.join(map(str, array.shape))}]"
