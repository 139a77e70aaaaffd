"""Which operators of an fp16 model compute in float32: as few kinds as what it is for allows.

Decided by trial: fp16 loses what is greater than 65504, what is smaller than 6e-8, and 1/4096 of
any factor, and only the outputs tell whether a model bears that. It is tried on calibration
samples where there are real ones, and on inputs made from the declared ranges.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature
from crosscast.targets.families.onnx import MODEL, graphs, interface, save
from crosscast.targets.families.onnx_strict import strict

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from crosscast.pipeline.parity.metrics import Extent, Numbers
    from crosscast.targets.families.onnx_runtime import OnnxSession

SIGNATURE = "signature.json"

HEAVY = ("Conv", "ConvTranspose", "Gather", "Gemm", "MatMul")
"""What nearly all time and memory go to; what is left out of autocast's half precision is not."""

SEED = 2
"""Parity's is 0, calibration's 1: what a choice was made on is not what it is judged on."""

DRAWN = 2
"""Inputs that are drawn where there are no real ones: of the least sizes, and in the middle."""

REAL = 8
"""Real samples that are tried."""

SIZES = (2, 7)
"""Of dynamic dimensions that nothing is known of."""

MARGIN_DB = 3.0
"""What the trial must be better by than the limits, which other inputs come nearer to."""

WORTH_DB = 3.0
"""What more float32 must gain where no choice is good enough."""


Compute = Literal["float16", "mixed", "float32"]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A choice. said: for people, empty where there is nothing to say.
    stays: whether an operator computes in float32.
    """

    name: Compute
    said: str
    stays: Callable[[NodeProto], bool]


RUNGS = (
    Rung(name="float16", said="", stays=lambda _: False),
    Rung(
        name="mixed",
        said="only products and convolutions are computed in float16, all else in float32 "
        "(compute: mixed)",
        stays=lambda node: node.op_type not in HEAVY,
    ),
    Rung(
        name="float32",
        said="the weights are float16, everything is computed in float32 (compute: float32)",
        stays=lambda _: True,
    ),
)
"""Most float16 first."""


def choose(
    model: ModelProto,
    *,
    tree: Path,
    samples: Path | None,
    wanted: Compute | None,
    build: Callable[[frozenset[str]], ModelProto],
) -> tuple[frozenset[str], str]:
    """The results of the operators that have to compute in float32, and what is to be said of it.

    model: in float32. tree: holds its signature. samples: tree of real ones.
    wanted: the choice that is made already.
    build: gives the fp16 model, its inputs and outputs in float32, for such results.
    Nothing where the model cannot be tried: no input is known that it takes. Where no choice is
    good enough it is the best, by steps worth their price: the parity gate refuses it.
    """
    if wanted is not None:
        rung = next(rung for rung in RUNGS if rung.name == wanted)
        return _staying(model, rung), rung.said
    trial = _Trial.of(model, tree, samples)
    best, said, lacking = frozenset[str](), "", math.inf
    if trial is None:
        return best, said
    for rung in RUNGS:
        staying = _staying(model, rung)
        lack = trial.lack(build(staying))
        if lack <= lacking - WORTH_DB or lack <= 0:
            best, said, lacking = staying, rung.said, lack
        if lack <= 0:
            break
    return best, said


def _staying(model: ModelProto, rung: Rung) -> frozenset[str]:
    return frozenset(
        name
        for graph in graphs(model.graph)
        for node in graph.node
        if node.op_type != "Constant" and rung.stays(node)
        for name in node.output
        if name
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Inputs, and what the float32 model answers to them.

    noise: by output, what rounding the inputs to fp16 changes of it.
    """

    origin: str
    arrays: Arrays
    answers: Arrays
    noise: Mapping[str, float]


class _Trial:
    """Cases to try fp16 models on."""

    def __init__(self, cases: Sequence[_Case]) -> None:
        self._cases = cases
        self._typical = _typical(cases)

    @classmethod
    def of(cls, model: ModelProto, tree: Path, samples: Path | None) -> _Trial | None:
        """None where the model takes none of the inputs."""
        try:
            session = _session(model)
        except StageError:
            return None
        cases = list(_answered(session, _inputs(model, tree, samples)))
        return cls(cases) if cases else None

    def lack(self, model: ModelProto) -> float:
        """Decibels that an fp16 model's outputs lack at worst, as this processor runs it and as one
        with fp16 arithmetic does; 0 or less where they are near enough.

        Infinitely many where it does not run, or most of its weights are not fp16.
        """
        try:
            own = self._worst(_session(model, like="fp16"))
        except StageError:
            return math.inf
        return own if own > 0 else max(own, self._strictly(model))

    def _strictly(self, model: ModelProto) -> float:
        import onnx

        try:
            return self._worst(_session(strict(model)))
        except (StageError, onnx.shape_inference.InferenceError):  # a trial that cannot be made
            return -math.inf

    def _worst(self, session: OnnxSession) -> float:
        return max(
            (lack for case in self._cases for lack in self._lacks(case, session.run(case.arrays))),
            default=-math.inf,
        )

    def _lacks(self, case: _Case, given: Arrays) -> Iterator[float]:
        from crosscast.pipeline.parity.conditioning import floor_db
        from crosscast.pipeline.parity.metrics import Extent, compare
        from crosscast.pipeline.parity.tolerance import TOLERANCES, is_gated

        for name, wanted in case.answers.items():
            typical = self._typical[name]
            floor = floor_db(case.noise.get(name), own=Extent.of(wanted), typical=typical)
            numbers = compare(wanted, given[name], typical=typical)
            judged = is_gated(
                "synthetic",
                precision="fp16",
                has_real=False,
                floor_db=floor,
                limits=TOLERANCES["fp16"],
            )
            if judged or numbers.problem:
                yield _lack(numbers)


def _answered(session: OnnxSession, inputs: Iterable[tuple[str, Arrays]]) -> Iterator[_Case]:
    from crosscast.pipeline.parity.conditioning import noise, rounded

    for origin, arrays in inputs:
        try:
            answers = session.run(arrays)
            measured = {}
            if origin == "adversarial":
                again = session.run(rounded(arrays, precision="fp16", seed=SEED))
                measured = noise(answers, again)
        except StageError:  # made inputs need not be such as the model takes
            continue
        yield _Case(origin=origin, arrays=arrays, answers=answers, noise=measured)


def _lack(numbers: Numbers) -> float:
    from crosscast.pipeline.parity.tolerance import TOLERANCES

    limits = TOLERANCES["fp16"]
    if numbers.problem:
        return math.inf
    if numbers.mismatch is not None:
        return _decibels(numbers.mismatch, limits.max_mismatch)
    assert numbers.snr_db is not None
    assert numbers.max_error is not None
    return max(
        limits.min_snr_db + MARGIN_DB - numbers.snr_db,
        _decibels(numbers.max_error, limits.max_error) + MARGIN_DB,
    )


def _decibels(value: float, limit: float) -> float:
    return 20 * math.log10(value / limit) if value else -math.inf


def _typical(cases: Sequence[_Case]) -> Mapping[str, Extent]:
    """What outputs are like in real or drawn cases, or in all where none of these could be run."""
    from crosscast.pipeline.parity.metrics import Extent

    usual = [case for case in cases if case.origin != "adversarial"] or cases
    return {
        name: Extent.typical([Extent.of(case.answers[name]) for case in usual])
        for name in usual[0].answers
    }


def _inputs(model: ModelProto, tree: Path, samples: Path | None) -> Iterator[tuple[str, Arrays]]:
    from crosscast.pipeline.parity.samples import adversarial, read_cases, synthetic

    signature = _signature(model, tree)
    names = {tensor.name for tensor in interface(model)[0]}
    real = islice(read_cases(samples), REAL) if samples else ()
    drawn = () if samples else islice(synthetic(signature, seed=SEED), DRAWN)
    for case in chain(real, drawn, adversarial(signature)):
        yield case.origin, {key: case.arrays[key] for key in case.arrays if key in names}


def _signature(model: ModelProto, tree: Path) -> Signature:
    path = tree / SIGNATURE
    if path.is_file():
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Signature.from_json(told)
    inputs, _ = interface(model)
    dims = {dim: SIZES for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    return Signature(inputs=inputs, dims=dims)


def _session(model: ModelProto, *, like: str = "") -> OnnxSession:
    from crosscast.targets.families.onnx_runtime import OnnxSession, precision

    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        if like and precision(artifact=Path(scratch)).delivered != like:
            raise StageError(f"the weights are not {like}")
        return OnnxSession(Path(scratch) / MODEL)
