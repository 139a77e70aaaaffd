"""Ranges of activations, measured on calibration samples that are read one at a time.

Least and greatest values are reduced inside the graph; the methods that look at how values are
distributed count them, in a second pass over the samples, into histograms whose ends the first
has found. So nothing that is kept grows with the number of samples, and their order is of no
consequence.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families.onnx import MODEL, save

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

Method = Literal["minmax", "entropy", "percentile"]
Range = tuple[float, float]
Samples = Callable[[], Iterator[Arrays]]
"""Gives the samples from the first one, each time it is called."""

LEVELS = 255
"""Steps of int8 between the ends of a range."""

BINS = 2048
"""Bins of a histogram: eight to each of the levels of int8."""

STEP = 16
"""Bins between two candidates for the end of a range: finer ones move it by less than 1 %."""

PERCENTILE = 99.999
"""Share of the values, in percent, that a range by percentiles spans: what ONNX Runtime takes."""


class Measured(NamedTuple):
    """The range of a tensor, and the mean of its squares."""

    low: float
    high: float
    power: float

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio that rounding to int8 leaves; infinite for a constant 0."""
        step = (max(self.high, 0.0) - min(self.low, 0.0)) / LEVELS
        if step == 0.0:
            return math.inf
        return 10 * math.log10(max(self.power, 1e-300) / (step * step / 12))


def sample_reader(*, samples: Path, names: set[str]) -> Samples:
    """The inputs `names` of the calibration samples of a tree."""
    from crosscast.pipeline.parity.samples import read_cases

    def read() -> Iterator[Arrays]:
        for case in read_cases(samples):
            yield {name: value for name, value in case.arrays.items() if name in names}

    return read


def measured(
    model: ModelProto, tensors: Sequence[str], *, samples: Samples, method: Method
) -> dict[str, Measured]:
    """What each of `tensors`, which are float32 tensors of the model, is like.

    A tensor that is not finite in some sample, or never has an element, is left out.
    Raises StageError where the model refuses a sample.
    """
    found = _extremes(model, tensors, samples) if tensors else {}
    if method == "minmax" or not found:
        return found
    counts = _histograms(model, found, samples)
    narrow = _by_entropy if method == "entropy" else _by_percentile
    return {
        name: Measured(*narrow(counts[name], one.low, one.high), one.power)
        for name, one in found.items()
    }


def _extremes(model: ModelProto, tensors: Sequence[str], samples: Samples) -> dict[str, Measured]:
    import numpy as np

    table = np.tile([0.0, 0.0, 0.0], (len(tensors), 1))
    filled = np.zeros(len(tensors))
    for values in run(_reduced(model, tensors), samples):
        low, high, squares, sizes = np.array(values, np.float64).reshape(-1, 4).T
        table[:, 0] = np.minimum(table[:, 0], low)
        table[:, 1] = np.maximum(table[:, 1], high)
        table[:, 2] += squares / np.maximum(sizes, 1)
        filled += sizes > 0
    return {
        name: Measured(float(low), float(high), float(squares / count))
        for name, (low, high, squares), count in zip(tensors, table, filled, strict=True)
        if count and np.isfinite([low, high, squares]).all()
    }


def _reduced(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """The model with least and greatest value, sum of squares and size of each tensor for outputs.

    A zero is put to each, which int8 represents anyhow: nothing can be reduced to no value.
    """
    import numpy as np
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    flat, zero = "calibrate/flat", "calibrate/zero"
    for name, array in ((flat, np.array([-1])), (zero, np.zeros(1, np.float32))):
        watched.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    make = onnx.helper.make_node
    for index, name in enumerate(tensors):
        line, filled = f"calibrate/line/{index}", f"calibrate/filled/{index}"
        watched.graph.node.append(make("Reshape", [name, flat], [line]))
        watched.graph.node.append(make("Concat", [line, zero], [filled], axis=0))
        for operator in ("ReduceMin", "ReduceMax", "ReduceSumSquare"):
            output = f"calibrate/{operator}/{index}"
            watched.graph.node.append(make(operator, [filled], [output], keepdims=0))
            watched.graph.output.append(onnx.helper.make_tensor_value_info(output, 1, []))
        size = f"calibrate/size/{index}"
        watched.graph.node.append(make("Size", [name], [size]))
        watched.graph.output.append(onnx.helper.make_tensor_value_info(size, 7, []))
    return watched


def _histograms(
    model: ModelProto, found: dict[str, Measured], samples: Samples
) -> dict[str, NDArray[Any]]:
    """How often values lie in each of BINS equal parts of a tensor's range."""
    import numpy as np
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in found:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    counts = {name: np.zeros(BINS, np.int64) for name in found}
    for values in run(watched, samples):
        for (name, one), value in zip(found.items(), values, strict=True):
            # Clipped activations give many zeros and ends, which are exact and would outweigh.
            some = value[(value != 0) & (value > one.low) & (value < one.high)]
            counts[name] += np.histogram(some, BINS, range=_widened(one.low, one.high))[0]
    return counts


def _widened(low: float, high: float) -> Range:
    """A range that a histogram can have: of some width."""
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def run(model: ModelProto, samples: Samples) -> Iterator[list[NDArray[Any]]]:
    """The model's outputs for each sample."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # Both keep memory for each shape that they have seen.
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        session = onnxruntime.InferenceSession(
            Path(scratch) / MODEL, options, providers=["CPUExecutionProvider"]
        )
        for sample in samples():
            try:
                yield session.run(None, sample)
            except Exception as error:
                raise refused(error) from error


def refused(error: Exception) -> StageError:
    """What is said of a sample that the model cannot take."""
    return StageError(
        f"onnx-int8: the model refuses a calibration sample: {error}",
        fix="make the samples' shapes and dtypes those of the model's inputs",
    )


def _by_percentile(counts: NDArray[Any], low: float, high: float) -> Range:
    """What is left when as many of the greatest values as of the least are cut off."""
    import numpy as np

    edges = np.linspace(*_widened(low, high), BINS + 1)
    shares = np.cumsum(counts) / max(int(counts.sum()), 1)
    cut = (100.0 - PERCENTILE) / 200.0
    first, last = np.searchsorted(shares, [cut, 1.0 - cut])
    return float(edges[first]), min(float(edges[last + 1]), high)


def _by_entropy(counts: NDArray[Any], low: float, high: float) -> Range:
    """The range whose quantized distribution diverges least from the measured one.

    As in Migacz, 8-bit inference with TensorRT (GTC 2017): what lies beyond a candidate is counted
    at its end, and Kullback and Leibler's divergence chooses between candidates.
    """
    import numpy as np

    edges = np.linspace(*_widened(low, high), BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    peak = max(abs(low), abs(high))
    if peak == 0.0:
        return low, high
    magnitudes, _ = np.histogram(np.abs(centres), BINS, range=(0.0, peak), weights=counts)
    levels = 128 if low < 0 < high else 256
    candidates = range(levels, BINS + 1, STEP)
    best = min(candidates, key=lambda end: _divergence(magnitudes, end, levels))
    end = peak * best / BINS
    return max(low, -end), min(high, end)


def _divergence(counts: NDArray[Any], end: int, levels: int) -> float:
    """Of the distribution clipped at bin `end` from itself in `levels` levels."""
    import numpy as np

    inside = counts[:end]
    clipped = inside.copy()
    clipped[-1] += counts[end:].sum()
    groups = np.arange(end) * levels // end
    filled = inside > 0
    totals = np.bincount(groups, inside, levels)
    sizes = np.maximum(np.bincount(groups, filled, levels), 1)
    spread = np.where(filled, (totals / sizes)[groups], 0.0)
    wanted = clipped / clipped.sum()
    given = np.maximum(spread / max(spread.sum(), 1e-30), 1e-12)
    some = wanted > 0
    return float((wanted[some] * np.log(wanted[some] / given[some])).sum())
