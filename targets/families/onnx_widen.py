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
from statistics import median_high
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature
from crosscast.targets.families.onnx import MODEL, graphs, interface, save
from crosscast.targets.families.onnx_sensitivity import watched
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

INNER = "trial/inner/"
"""Begins the names of outputs that trials add: what a softmax or sigmoid at the end reads, which
hides most of the noise."""


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
    first: Compute,
    is_last: bool,
    build: Callable[[frozenset[str]], ModelProto],
) -> tuple[frozenset[str], str]:
    """The results of the operators that have to compute in float32, and what is to be said of it.

    model: in float32. tree: holds its signature. samples: tree of real ones.
    first: what is tried first; is_last: whether it is taken untried.
    build: gives the fp16 model, its inputs and outputs in float32, for such results.
    Nothing where the model cannot be tried: no input is known that it takes. Where no choice is
    good enough it is the best, by steps worth their price: the parity gate may refuse it.
    """
    start = next(place for place, rung in enumerate(RUNGS) if rung.name == first)
    best, said, least = _staying(model, RUNGS[start]), RUNGS[start].said, Loss(math.inf, math.inf)
    trial = None if is_last else _Trial.of(model, tree, samples)
    if trial is None:
        return best, said
    for rung in RUNGS[start:]:
        staying = _staying(model, rung)
        loss = trial.loss(build(staying))
        if loss.lack <= 0:
            return staying, rung.said
        if loss.lack <= least.lack - WORTH_DB or loss.noise < least.noise - WORTH_DB:
            best, said, least = staying, rung.said, loss
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


class Loss(NamedTuple):
    """What an fp16 model loses, in dB. lack: of the limits at worst, 0 or less where it is near
    enough. noise: of the typical case.

    The lack is mostly one element's, and chance which choice it falls on (PP-OCR's text detection
    has it as great in float32 as in mixed on one sample, with 14 dB less noise on the others).
    """

    lack: float = -math.inf
    noise: float = -math.inf


class _Trial:
    """Cases to try fp16 models on."""

    def __init__(self, cases: Sequence[_Case]) -> None:
        self._cases = cases
        self._typical = _typical(cases)

    @classmethod
    def of(cls, model: ModelProto, tree: Path, samples: Path | None) -> _Trial | None:
        """None where the model takes none of the inputs."""
        try:
            session = session_of(model)
        except StageError:
            return None
        cases = list(_answered(session, inputs_for(model, tree, samples)))
        return cls(cases) if cases else None

    def loss(self, model: ModelProto) -> Loss:
        """The greater loss of the model as this processor runs it and as one with fp16 arithmetic
        does; infinite where it does not run, or most of its weights are not fp16.
        """
        try:
            own = self._measured(session_of(model, like="fp16"))
        except StageError:
            return Loss(math.inf, math.inf)
        return Loss(*map(max, own, self._strictly(model)))

    def _strictly(self, model: ModelProto) -> Loss:
        import onnx

        try:
            return self._measured(session_of(strict(model)))
        except (StageError, onnx.shape_inference.InferenceError):  # a trial that cannot be made
            return Loss()

    def _measured(self, session: OnnxSession) -> Loss:
        lacks: list[float] = []
        noises: list[float] = []
        for case in self._cases:
            found = list(self._judged(case, session.run(case.arrays)))
            lacks += [_lack(numbers) for name, numbers in found if not name.startswith(INNER)]
            noises.append(max((_noise(numbers) for _, numbers in found), default=-math.inf))
        return Loss(max(lacks, default=-math.inf), median_high(noises))

    def _judged(self, case: _Case, given: Arrays) -> Iterator[tuple[str, Numbers]]:
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
                yield name, numbers


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
    assert numbers.max_error is not None
    return MARGIN_DB + max(_noise(numbers), _decibels(numbers.max_error, limits.max_error))


def _noise(numbers: Numbers) -> float:
    """Beyond what the limits allow, in dB."""
    from crosscast.pipeline.parity.tolerance import TOLERANCES

    limits = TOLERANCES["fp16"]
    if numbers.problem:
        return math.inf
    if numbers.mismatch is not None:
        return _decibels(numbers.mismatch, limits.max_mismatch)
    assert numbers.snr_db is not None
    return limits.min_snr_db - numbers.snr_db


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


def inputs_for(model: ModelProto, tree: Path, samples: Path | None) -> Iterator[tuple[str, Arrays]]:
    """Origins and inputs to try a model with: real ones or, without samples, drawn ones; and
    adversarial ones.

    tree: holds its signature; where it does not, the model tells as much as it can.
    """
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


def session_of(model: ModelProto, *, like: str = "") -> OnnxSession:
    """A model in ONNX Runtime, with what its end squashes among the outputs.

    like: the precision that most of its weights have to be in. Raises StageError where they are
    not, or where it cannot be loaded.
    """
    from crosscast.targets.families.onnx_runtime import OnnxSession, precision

    with tempfile.TemporaryDirectory() as scratch:
        save(_opened(model), Path(scratch))
        if like and precision(artifact=Path(scratch)).delivered != like:
            raise StageError(f"the weights are not {like}")
        return OnnxSession(Path(scratch) / MODEL)


def _opened(model: ModelProto) -> ModelProto:
    """The model with what is squashed at its end among its outputs, in float32."""
    import onnx

    squashed = [tensor.name for tensor in watched(model) if tensor.squash]
    if not squashed:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for index, name in enumerate(squashed):
        inner = f"{INNER}{index}"
        made.graph.node.append(onnx.helper.make_node("Cast", [name], [inner], to=1))
        made.graph.output.append(onnx.helper.make_tensor_value_info(inner, 1, None))
    return made
