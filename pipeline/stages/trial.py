"""An artifact's session held against its source's vectors, for the stage `verify`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.parity.baseline import Baseline, Gathered
from crosscast.pipeline.parity.batches import Stacking, groups
from crosscast.pipeline.parity.conditioning import floor_db
from crosscast.pipeline.parity.io import delivered, given, restored
from crosscast.pipeline.parity.metrics import Extent, Measured, Numbers, measured
from crosscast.pipeline.parity.samples import Case, Origin
from crosscast.pipeline.parity.scores import Answer
from crosscast.pipeline.parity.streams import resumed
from crosscast.pipeline.parity.tolerance import Tolerance, excess, is_gated
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.parity.verdict import Row, Verdict
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, axes, permute
from crosscast.pipeline.worker.usercode import described
from crosscast.targets.base import Session, classes


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An artifact's session beside what it has to agree with.

    own: which outputs feed which inputs (see `streams`). states: those outputs of the last case, in
    the source's layout and dtypes. found: what was measured, by case. together: cases that were run
    in one batch with others. first: the first vectors, which need not be read again.
    """

    session: Session
    signature: Signature
    layout: Layout | None
    io: str | None
    narrowed: Mapping[str, str]
    pixels: Sequence[str]
    labels: Sequence[str]
    precision: str
    limits: Tolerance
    own: Mapping[str, str]
    refused: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, Arrays] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    found: dict[str, list[_Found]] = field(default_factory=dict)
    together: set[str] = field(default_factory=set)
    first: list[Vector] = field(default_factory=list)

    def refusals(self) -> list[str]:
        """What the runtime said against running cases, each once."""
        return [
            f"case '{cases[0]}'{f' and {len(cases) - 1} more' if cases[1:] else ''}: "
            f"its runtime fails: {said}"
            for said, cases in self.refused.items()
        ]

    def declared(self) -> list[str]:
        """What the artifact declares otherwise than the source, one line each."""
        wanted = self.signature.permuted(self.layout)
        inputs = delivered(wanted.inputs, io=self.io, narrowed=self.narrowed, pixels=self.pixels)
        outputs = delivered(wanted.outputs, io=self.io, narrowed=self.narrowed)
        return [
            *_compare_labels(classes(self.session), self.labels),
            *_compare_declared("input", self.session.inputs, inputs, wanted.dims),
            *_compare_declared("output", self.session.outputs, outputs, wanted.dims),
        ]

    def quantization(self) -> dict[str, tuple[float, int]]:
        """Scale and zero point of the inputs and outputs that have them, by name."""
        tensors = (*self.session.inputs, *self.session.outputs)
        return {tensor.name: tensor.quantization for tensor in tensors if tensor.quantization}

    def explained(
        self,
        verdict: Verdict,
        vectors: Iterator[Vector],
        explain: Callable[..., list[str]],
        artifact: Path,
    ) -> list[str]:
        """What the target says of the worst case, in lines."""
        case = next((it.case for it in vectors if it.case.name == verdict.worst_case), None)
        return [] if case is None else explain(artifact=artifact, inputs=self._inputs(case.arrays))

    def held_against(self, vectors: Callable[[], Iterator[Vector]]) -> tuple[Baseline, list[Row]]:
        """What the source's outputs are like, and the comparison of each output of each case.

        A case that is out of the limits in a batch is run alone, and that counts: a source may mix
        the rows of a batch as well. Whether the artifact does where the source does not is for the
        cases to show that are batches themselves.
        """
        gathered = Gathered()
        stacking = Stacking.of(self.signature, layout=self.layout, declared=self.session.inputs)
        for group in groups(vectors()):
            gathered.add(group, self._take(group, stacking))
            self.first[:] = self.first or group
        baseline = gathered.baseline()
        rows = self._rows(baseline)
        again = {row.case for row in rows if excess(row.numbers, self.limits)} & self.together
        if not again:
            return baseline, rows
        for group in groups(it for it in vectors() if it.case.name in again):
            self._take(group, None)
        return baseline, self._rows(baseline)

    def reread(self, vectors: Callable[[], Iterator[Vector]]) -> Iterator[Vector]:
        """All vectors once more; their file is opened only for those after the first."""
        yield from self.first
        yield from islice(vectors(), len(self.first), None)

    def _take(self, group: Sequence[Vector], stacking: Stacking | None) -> dict[str, list[Extent]]:
        """Run vectors of equal shapes, and measure what comes of them. Gives what the source's
        outputs are like, of those that all of them could be compared with.
        """
        extents: dict[str, list[Extent]] = {}
        answered = [
            (vector, found)
            for vector, found in zip(group, self._answers(group, stacking), strict=True)
            if found is not None
        ]
        for names in dict.fromkeys(tuple(found) for _, found in answered):
            said = self._named(list(names))
            self.problems.extend(text for text in said if text not in self.problems)
        self.found.update((vector.case.name, []) for vector, _ in answered)
        for tensor in self.signature.outputs:
            pairs = [(vector, got) for vector, got in answered if tensor.name in got]
            wanted = self._wanted([vector for vector, _ in pairs], tensor)
            numbers = measured(wanted, [got[tensor.name] for _, got in pairs])
            if len(numbers) == len(group):
                extents[tensor.name] = [one.own for one in numbers]
            by_case = dict(zip((vector.case.name for vector, _ in pairs), numbers, strict=True))
            for vector, _ in answered:
                case = vector.case
                found = _Found(
                    case=case.name,
                    origin=case.origin,
                    output=tensor.name,
                    noise=vector.noise.get(self.precision, {}).get(tensor.name),
                    measured=by_case.get(case.name),
                )
                self.found[case.name].append(found)
        return extents

    def _wanted(self, vectors: Sequence[Vector], tensor: Tensor) -> list[NDArray[Any]]:
        """An output of the source in the artifact's layout."""
        arrays = [vector.outputs[tensor.name] for vector in vectors]
        order = axes(tensor.layout, self.layout)
        if order is None:
            return arrays
        return [np.ascontiguousarray(array.transpose(order)) for array in arrays]

    def _answers(
        self, group: Sequence[Vector], stacking: Stacking | None
    ) -> Iterator[Arrays | None]:
        """What the artifact gives for each case, None where it refuses. Real cases of equal shapes
        are run several at a time, but for the first of them.
        """
        cases = [vector.case for vector in group]
        if stacking is None or cases[0].origin != "real":
            yield from map(self._answer, cases)
            return
        yield self._answer(cases[0])
        for part in stacking.parts(cases[1:]):
            yield from self._together(part, stacking)

    def _together(self, part: Sequence[Case], stacking: Stacking) -> Iterator[Arrays | None]:
        """The answers of one run for several cases; each alone where that does not do."""
        if len(part) > 1:
            try:
                found = self._ran(stacking.stacked(part))
                apart = stacking.split(found, part)
            except Unproven:
                raise
            except Exception:  # noqa: BLE001 - what an artifact cannot take at once, it may one by one
                apart = []
            if apart:
                self.together.update(case.name for case in part)
                yield from apart
                return
        yield from map(self._answer, part)

    def _answer(self, given: Case) -> Arrays | None:
        """What the artifact gives for a case; a refusal to run goes to `refused`."""
        case = resumed(given, self.states, own=self.own)
        try:
            found = self._ran(case.arrays)
            self._keep(case, found)
        except (MemoryError, Unproven):
            raise
        except Exception as error:  # noqa: BLE001 - the artifact must take every case
            self.refused.setdefault(complaint(error), []).append(case.name)
            return None
        return found

    def _ran(self, arrays: Arrays) -> Arrays:
        return self._restored(self.session.run(self._inputs(arrays)))

    def _keep(self, case: Case, found: Arrays) -> None:
        """Hold the state that the artifact leaves, for a case that follows."""
        named = {*self.own.values()} & {*found}
        self.states.clear()
        self.states[case.name] = self._as_source({name: found[name] for name in named})

    def answers(self, cases: Iterable[Case]) -> Iterator[Answer]:
        """The outputs for labelled cases, as the source would give them."""
        for case in cases:
            assert case.label is not None
            try:
                found = self._ran(case.arrays)
            except (MemoryError, Unproven):
                raise
            except Exception as error:
                told = f"its runtime fails on labelled sample '{case.name}': {complaint(error)}"
                raise StageError(told) from error
            yield Answer(case=case.name, outputs=self._as_source(found), label=case.label)

    def _as_source(self, found: Arrays) -> Arrays:
        """The outputs in the layout that the source gives."""
        result = dict(found)
        for tensor in self.signature.outputs:
            laid_out = (tensor.permuted(self.layout),)
            result = permute(result, tensors=laid_out, layout=tensor.layout)
        return result

    def _named(self, found: list[str]) -> list[str]:
        """What is wrong with the names of outputs and their order."""
        wanted = [tensor.name for tensor in self.signature.outputs]
        if found != wanted and set(found) == set(wanted):
            return [f"outputs come in the order {found}, not {wanted}"]
        return [f"output '{name}' is none of the source's" for name in found if name not in wanted]

    def _restored(self, got: Arrays) -> Arrays:
        """The outputs in the dtypes that the source gives, where the artifact has others."""
        found = {name: np.asarray(array) for name, array in got.items()}
        if self.io is None and not self.narrowed:
            return found
        declared = {tensor.name: tensor for tensor in self.session.outputs}
        wanted = [tensor for tensor in self.signature.outputs if tensor.name in declared]
        return found | {
            tensor.name: restored(
                found[tensor.name], tensor=declared[tensor.name], dtype=tensor.dtype
            )
            for tensor in wanted
            if tensor.name in found
        }

    def _inputs(self, arrays: Arrays) -> Arrays:
        # copies, since a runtime may write into what it is given
        copies = {name: array.copy() for name, array in arrays.items()}
        fed = permute(copies, tensors=self.signature.inputs, layout=self.layout)
        if self.io is not None or self.narrowed:
            return given(fed, tensors=self.session.inputs)
        return {tensor.name: fed[tensor.name] for tensor in self.signature.inputs}

    def _rows(self, baseline: Baseline) -> list[Row]:
        has_real = baseline.has_real
        return [
            self._row(one, typical=baseline.typical[one.output], has_real=has_real)
            for one in chain.from_iterable(self.found.values())
        ]

    def _row(self, one: _Found, *, typical: Extent, has_real: bool) -> Row:
        floor = math.inf
        if one.noise is not None and one.measured is not None:
            floor = floor_db(one.noise, own=one.measured.own, typical=typical)
        return Row(
            case=one.case,
            output=one.output,
            origin=one.origin,
            gated=is_gated(
                one.origin,
                precision=self.precision,
                has_real=has_real,
                floor_db=floor,
                limits=self.limits,
            ),
            numbers=Numbers(problem="missing")
            if one.measured is None
            else one.measured.numbers(typical),
            floor_db=None if one.noise is None else floor,
        )


class _Found(NamedTuple):
    """What is known of an output of a case before it is known what is typical of it.

    noise: see `Vector`. measured: None where the output is missing.
    """

    case: str
    origin: Origin
    output: str
    noise: float | None
    measured: Measured | None


def _compare_labels(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    if len(found) != len(wanted):
        return [f"the artifact names {len(found)} classes, the config {len(wanted)}"]
    pairs = enumerate(zip(found, wanted, strict=True))
    wrong = [(place, its, mine) for place, (its, mine) in pairs if its != mine]
    return [
        f"the artifact calls class {place} '{its}', not '{mine}'" for place, its, mine in wrong[:1]
    ]


def _compare_declared(
    side: str,
    found: Sequence[Tensor],
    wanted: Sequence[Tensor],
    dims: Mapping[str, tuple[int, int]],
) -> list[str]:
    names = [tensor.name for tensor in found], [tensor.name for tensor in wanted]
    if names[0] != names[1]:
        return [f"the artifact declares the {side}s {names[0]}, the source has {names[1]}"]
    lines = []
    for mine, its in zip(wanted, found, strict=True):
        if mine.dtype != its.dtype:
            lines.append(
                f"{side} '{mine.name}' is declared {its.dtype}, the source has {mine.dtype}"
            )
        if not _covers(its.shape, mine.shape, dims):
            lines.append(
                f"{side} '{mine.name}' is declared with shape {_text(its.shape)},"
                f" expected {_text(mine.shape)}"
            )
    return lines


def _covers(
    found: Sequence[int | str], wanted: Sequence[int | str], dims: Mapping[str, tuple[int, int]]
) -> bool:
    """Whether a declared shape takes all that is wanted; one that takes more is no harm, and what
    really comes out is compared case by case.
    """
    if len(found) != len(wanted):
        return False
    for its, mine in zip(found, wanted, strict=True):
        low, high = (mine, mine) if isinstance(mine, int) else dims.get(mine, (0, 1))
        if isinstance(its, int) and not low == its == high:
            return False
    return True


def complaint(error: Exception) -> str:
    """What an error says, in one line."""
    text = error.message if isinstance(error, StageError) else described(error)
    return " ".join(text.split())


def _text(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ")"
