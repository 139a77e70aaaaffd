"""Static int8 for a TFLite file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import ADVICE, NOTES, Options
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.search import Candidates, Found, Kept, Search
from crosscast.targets.families.sensitivity import half, limits_of
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_bias import corrected
from crosscast.targets.families.tflite_copy import shipped_as_it_is
from crosscast.targets.families.tflite_dynamic import quantize_weights, rounded
from crosscast.targets.families.tflite_integer import finish_integer, quantizable
from crosscast.targets.families.tflite_ports import keep_floats, restore_ports
from crosscast.targets.families.tflite_samples import calibration
from crosscast.targets.families.tflite_sensitivity import Trial, costs, told

if TYPE_CHECKING:
    from crosscast.pipeline.parity.tolerance import Tolerance

Operator = Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_2D_TRANSPOSE"]

QUANTIZABLE: tuple[Operator, ...] = get_args(Operator)
"""The operators that int8 arithmetic serves well; more of them cost accuracy without saving
space (a vision transformer's cosine falls from .999 to .48 when every operator is quantized)."""

SCHEMA_NAMES = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}
"""The quantizer's name of an operator -> the file's, where they differ."""

EVERY = ("*",)
"""The quantizer's name for all operators that it knows, inputs and outputs among them."""

Some = Callable[[Iterator[Arrays]], Iterator[Arrays]]

FAILS = {
    ADVICE: "with `on_mismatch: keep-float`, and without `io`, the operators that int8 costs most "
    "stay in float"
}
"""The notes of a file that is all in int8, whatever that costs."""


class StaticOptions(Options):
    """How a TFLite file is quantized to static int8."""

    operators: tuple[Operator, ...] = Field(
        default=QUANTIZABLE,
        min_length=1,
        description="TFLite operators to quantize, in the names of ai-edge-quantizer.",
    )

    @field_validator("operators", mode="before")
    @classmethod
    def _all_would_not_run(cls, value: object) -> object:
        if value == "all":
            raise PydanticCustomError(
                "value_error",
                "TFLite cannot have all operators in int8: of LiteRT's int8 kernels some fail, as "
                "a division by what is rounded to 0, and some abort; name operators, or leave "
                "'quantize' out and use 'io: int8' with a network made for microcontrollers",
            )
        return value


def to_int8(
    *,
    model: Path,
    options: Mapping[str, Any],
    samples: Path | None,
    out: Path,
    parity: Mapping[str, Any] | None = None,
) -> None:
    """Write the file with int8 weights (a scale a channel) and int8 activations in the operators
    of `options["operators"]`; inputs, outputs and all other operators stay float32. By default,
    the weights of recurrent layers, embeddings and such are int8, too. What int8 costs more than
    its limits, or the target's own, `parity`, stays in float, unless `options["on_mismatch"]` is
    "fail": it is chosen on the calibration samples alone, since the parity samples would judge what
    was fitted to them.

    With `options["io"]` ("int8" or "uint8") every operator is quantized, and inputs and outputs
    are of that dtype. Activation ranges are the least and greatest values over the tree `samples`.
    Raises StageError where the model has none of these operators, or with `io` has some that
    cannot be quantized.
    """
    if shipped_as_it_is(model, "int8", out):
        return
    operators = tuple(options.get("operators", QUANTIZABLE))
    if samples is None:
        raise StageError("int8 needs calibration samples", fix="declare samples.calibration")
    whole = files.read(model / FILE)
    io = options.get("io")
    work = _Static(model / FILE, EVERY if io else operators, samples)
    found, notes = None, FAILS if work.ranges else {}
    if io:
        made = files.parse(work.with_ranges(Kept(), True))
    elif options.get("on_mismatch") == "fail" or not work.ranges:
        made = work.quantized(Kept(), True)
    else:
        made, found = work.searched(limits_of(parity or {}))
    if not io:
        keep_floats(made, whole)
    restore_ports(made, whole)
    if io:
        finish_integer(made, dtype=io)
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)
    if found:
        places = {"float": model / FILE, "delivered": out / FILE}
        sizes = {form: path.stat().st_size for form, path in places.items()}
        notes = told(found, total=len(work.candidates), sizes=sizes)
    if notes:
        (out / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


class _Static:
    """A file on its way to int8, and the `ranges` of its tensors; none where it has no operator to
    quantize.
    """

    def __init__(self, path: Path, operators: tuple[str, ...], samples: Path) -> None:
        content = quantizable(path) if operators == EVERY else path.read_bytes()
        self._content = _allocatable(content, samples)
        self._operators, self._samples = operators, samples
        required = operators != QUANTIZABLE
        has = _has_operators(files.parse(self._content), operators, required=required)
        self.ranges = _ranges(self._content, operators, samples) if has else {}

    @cached_property
    def candidates(self) -> dict[str, int]:
        """The operators that may be kept in float."""
        return _candidates(self._content, self._operators)

    def searched(self, limits: Tolerance) -> tuple[Any, Found]:
        """The objects of the file within those limits, and what it keeps in float for it."""
        trial = Trial(self._content, self._samples, limits)
        content, found = Search(
            quantized=lambda kept, every: files.packed(self.quantized(kept, every)),
            room=trial.room,
            size=len,
            operators=lambda kept: len(self.candidates.keys() - kept.names),
            candidates=lambda: Candidates((list(self.candidates),)),
            measured=costs(
                trial, content=self._content, ranges=self.ranges, places=self.candidates
            ),
            hides=trial.hides,
            is_hybrid=True,
        ).found()
        return files.parse(content), found

    def quantized(self, kept: Kept, every: bool) -> Any:
        """The objects of the file in int8, with the ranges of every sample or of half of them."""
        made = files.parse(self.with_ranges(kept, every))
        if self._operators == QUANTIZABLE:
            quantize_weights(made, unfolded=kept.names if kept.is_float else ())
        return made

    def with_ranges(self, kept: Kept, every: bool) -> bytes:
        """The bytes of the file with the operators in int8."""
        given = self._biased if kept.corrected else self._content
        if not self.ranges:
            return given
        ranges = self.ranges if every else self._narrower
        return _with_ranges(given, self._operators, ranges, in_float=kept.names)

    @cached_property
    def _biased(self) -> bytes:
        return corrected(self._content, self._samples)

    @cached_property
    def _narrower(self) -> dict[str, Any]:
        return _ranges(self._content, self._operators, self._samples, some=half)


def _has_operators(made: Any, operators: tuple[str, ...], *, required: bool) -> bool:
    if operators == EVERY:
        return True
    wanted = {SCHEMA_NAMES.get(name, name) for name in operators}
    present = {
        files.operator_name(made, operator)
        for graph in made.subgraphs
        for operator in graph.operators
    }
    if required and not wanted & present:
        raise StageError(
            f"the model has no operator to quantize: none of {', '.join(operators)} among "
            f"{', '.join(sorted(present))}",
            fix="use tflite-fp16 or tflite-fp32 for this model",
        )
    return bool(wanted & present)


def _job(content: bytes, operators: tuple[str, ...], in_float: Collection[str] = ()) -> Any:
    """What is to be quantized: all `operators` but those that give the tensors `in_float`."""
    from ai_edge_quantizer import quantizer

    kept = QUANTIZABLE if operators == EVERY else operators
    job = quantizer.Quantizer(_with_sums_kept(content, kept))
    names = quantizer.qtyping.TFLOperationName
    for name in operators:
        job.add_static_config(
            regex=".*", operation_name=names(name), activation_num_bits=8, weight_num_bits=8
        )
    for name in [] if operators == EVERY else _before_softmax(files.parse(content)):
        job.add_dynamic_config(
            regex=re.escape(name), operation_name=names.FULLY_CONNECTED, num_bits=8
        )
    for scope in sorted(in_float):
        for name in operators:
            job.update_quantization_recipe(
                regex=f"^{re.escape(scope)};",
                operation_name=names(name),
                algorithm_key=quantizer.algorithm_manager.AlgorithmName.NO_QUANTIZE,
            )
    return job


def _ranges(
    content: bytes, operators: tuple[str, ...], samples: Path, *, some: Some = iter
) -> dict[str, Any]:
    """The range of every tensor over some of the samples."""
    return _calibrated(_job(content, operators), some(calibration(samples)))


def _allocatable(content: bytes, samples: Path) -> bytes:
    """The file, whose dynamic dimensions are those of a sample where 1 is too small for it to run:
    the quantizer prepares it before it is given any.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(model_content=content, num_threads=1).allocate_tensors()
    except (RuntimeError, ValueError):
        made = files.parse(content)
        graph = made.subgraphs[0]
        for sample in islice(calibration(samples), 1):
            for index in graph.inputs:
                tensor = graph.tensors[index]
                tensor.shape = list(sample[files.text(tensor.name)].shape)
        return files.packed(made)
    return content


def _with_ranges(
    content: bytes,
    operators: tuple[str, ...],
    ranges: Mapping[str, Any],
    in_float: Collection[str] = (),
) -> bytes:
    try:
        result = _job(content, operators, in_float).quantize(ranges, enable_progress_report=False)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise StageError(
            f"the model cannot be quantized to int8: {type(error).__name__}: {error}",
            fix="quantize fewer operators, as in `quantize: {operators: [CONV_2D]}`, or use "
            "tflite-int8-dynamic",
        ) from error
    return bytes(result.quantized_model)


def _candidates(content: bytes, operators: tuple[str, ...]) -> dict[str, int]:
    """The places of the operators that are quantized statically, by the tensor that each gives."""
    made = files.parse(content)
    names = {SCHEMA_NAMES.get(name, name) for name in operators}
    graph = made.subgraphs[0]
    found = {
        files.text(graph.tensors[operator.outputs[0]].name): place
        for place, operator in enumerate(graph.operators)
        if files.operator_name(made, operator) in names
    }
    for name in _before_softmax(made):
        found.pop(name, None)
    return found


def _calibrated(job: Any, samples: Iterable[Arrays]) -> dict[str, Any]:
    """The range of every tensor over the samples."""
    ranges: dict[str, Any] = {}
    for number, sample in enumerate(samples):
        # A call a sample: given several, the quantizer holds all of them in memory, carries the
        # state of recurrent operators over, and averages so that the first one counts most.
        try:
            found = job.calibrate({files.SIGNATURE: [sample]}, num_threads=1)
        except (RuntimeError, ValueError) as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in sample.items())
            raise StageError(
                f"LiteRT could not run calibration sample {number} ({shapes}): {error}",
                fix="where this is about shapes, a dynamic dimension has not survived the "
                "conversion: give the input fixed sizes",
            ) from error
        ranges = {name: _joined(ranges.get(name, found[name]), found[name]) for name in found}
    return ranges


def _before_softmax(made: Any) -> list[str]:
    """The outputs of the matrix products whose results are a softmax's input.

    They get int8 weights, but keep float results: where a sample's logits go beyond the range of
    all calibration samples, those of several classes would be cut to the same value, and a clear
    answer becomes a tie.
    """
    names = []
    for graph in made.subgraphs:
        makers = {index: operator for operator in graph.operators for index in operator.outputs}
        for operator in graph.operators:
            if files.operator_name(made, operator) != "SOFTMAX":
                continue
            maker = makers.get(operator.inputs[0])
            while maker is not None and files.operator_name(made, maker) == "RESHAPE":
                maker = makers.get(maker.inputs[0])
            if maker is not None and files.operator_name(made, maker) == "FULLY_CONNECTED":
                names.append(files.text(graph.tensors[maker.outputs[0]].name))
    return names


def _with_sums_kept(content: bytes, operators: tuple[str, ...]) -> bytes:
    """The file with the weights of those operators rounded so that filters keep their sums."""
    import numpy as np

    copy = bytearray(content)
    made = files.parse(copy)
    names = {SCHEMA_NAMES.get(name, name) for name in operators}
    done: set[int] = set()
    for graph in made.subgraphs:
        for operator in graph.operators:
            name = files.operator_name(made, operator)
            tensor = graph.tensors[operator.inputs[1]] if name in names else None
            if tensor is None or tensor.buffer in done:
                continue
            data = files.data_of(made, tensor)
            if data is not None and files.numpy_name(tensor.type) == "float32":
                weights = data.view(np.float32).reshape(files.signature_of(tensor))
                weights[...] = rounded(name, weights)
                done.add(tensor.buffer)
    return bytes(copy)


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The range that holds two ranges of a tensor."""
    import numpy as np

    join = {"min": np.minimum, "max": np.maximum}
    return {key: choose(one[key], other[key]) for key, choose in join.items() if key in other}
