"""Weights in int8 whose errors cancel, and biases that take back what is left on average.

An error of a weight, times what its input channel is like on average, is an offset that all
samples share. Where channels differ much (one of 12, most near 1, as in PP-OCR's detector), keeping
the sums of filters does not prevent it (weights alone in int8: 23 dB, 28 dB with this). The idea is
that of Nagel et al., Data-Free Quantization (ICCV 2019), with means measured on samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from crosscast.targets.families import onnx_compensation, onnx_weights
from crosscast.targets.families.onnx_calibrate import Samples, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

COPY = "/int8"
"""Ends the name of a copy that is read in int8."""

SERVED = ("Conv", "Gemm")
"""Operators that have a bias."""


class Rounding:
    """What int8 makes of a model's weights, and what it adds on average.

    make: gives the float model. typed: the same with weights rounded, which share their names.
    wanted: the nodes whose weights are int8; where these have 8 bits and a scale for each channel,
    their errors are made to cancel on the samples.
    """

    def __init__(
        self,
        make: Callable[[], ModelProto],
        typed: ModelProto,
        samples: Samples,
        *,
        wanted: Callable[[NodeProto], bool],
        per_channel: bool,
        compensates: bool,
    ) -> None:
        self._make, self._typed, self._samples = make, typed, samples
        self._wanted, self._per_channel = wanted, per_channel
        self._compensates = compensates

    @cached_property
    def rounded(self) -> dict[str, NDArray[Any]]:
        """The weights as they are in int8, by name."""
        kept = onnx_weights.as_int8(self._typed, wanted=self._wanted, per_channel=self._per_channel)
        return kept | self._compensated

    @cached_property
    def _compensated(self) -> dict[str, NDArray[Any]]:
        if not self._compensates:
            return {}
        return onnx_compensation.compensated(self._make(), self._samples, wanted=self._wanted)

    @cached_property
    def _means(self) -> dict[str, NDArray[Any]]:
        return means(self._make(), self._samples)

    def correct(self, model: ModelProto, spared: Collection[str]) -> None:
        """Give a copy of `typed` its weights that are `spared` in float, the others so that their
        errors cancel, and biases that make up for what these add.
        """
        own = onnx_weights.arrays(self._make().graph)
        exact = {name: values for name, values in own.items() if name in spared}
        onnx_weights.replace(model.graph, self._compensated | exact)
        left = {name: one for name, one in self.rounded.items() if name not in spared}
        corrected(model, exact=own, rounded=left, found=self._means)


def means(model: ModelProto, samples: Samples) -> dict[str, NDArray[Any]]:
    """The mean of each channel of what operators with a bias read, over the samples, by tensor."""
    import numpy as np
    import onnx

    watched = onnx_weights.copied(model)
    del watched.graph.output[:]
    read: dict[str, str] = {}
    for node in _served(model):
        name = node.input[0]
        if name in read:
            continue
        read[name] = name if node.op_type == "Gemm" else f"{name}/means"
        watched.graph.output.append(onnx.helper.make_tensor_value_info(read[name], 1, None))
        if node.op_type != "Gemm":
            pool = onnx.helper.make_node("GlobalAveragePool", [name], [read[name]])
            watched.graph.node.append(pool)
    sums: dict[str, Any] = {}
    count = 0
    for values in run(watched, samples) if read else ():
        count += 1
        for name, value in zip(read, values, strict=True):
            rows = value.reshape(value.shape[0], -1)
            sums[name] = sums.get(name, 0.0) + rows.mean(axis=0, dtype=np.float64)
    return {name: total / count for name, total in sums.items()}


def corrected(
    model: ModelProto,
    *,
    exact: Mapping[str, NDArray[Any]],
    rounded: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
) -> None:
    """Take back, in place, what weights that are `rounded` instead of `exact` add on average.

    found: the channels' means of what operators read, by tensor.
    """
    from onnx import numpy_helper

    names = onnx_weights.names_of(model.graph)
    own = onnx_weights.floats(model.graph)
    for node in _served(model):
        weight, source = node.input[1], node.input[0].removesuffix(COPY)
        biased = len(node.input) > 2 and node.input[2] != ""
        if weight not in rounded or source not in found or (biased and node.input[2] not in own):
            continue
        offset = _offset(node, rounded[weight] - exact[weight], found[source])
        bias = numpy_helper.to_array(own[node.input[2]]) if biased else 0.0
        name = onnx_weights.free(f"{node.name}_corrected", names)
        values = (bias - offset).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[2:] = [name]
    onnx_weights.drop_unread(model.graph)


def _served(model: ModelProto) -> list[NodeProto]:
    """The nodes that have a bias, constant weights, and inputs whose channels come second."""
    weights = onnx_weights.floats(model.graph)
    return [
        node
        for node in model.graph.node
        if node.op_type in SERVED
        and node.input[1] in weights
        and not onnx_weights.attribute(node, "transA", 0)
        and onnx_weights.attribute(node, "alpha", 1.0) == 1.0
        and onnx_weights.attribute(node, "beta", 1.0) == 1.0
    ]


def _offset(node: NodeProto, error: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
    """The mean of what the errors of a node's weights add, by output channel."""
    if node.op_type == "Gemm":
        turned = error if onnx_weights.attribute(node, "transB", 0) else error.T
        product: NDArray[Any] = turned @ mean
        return product
    flat = error.reshape(*error.shape[:2], -1).sum(axis=2, dtype="float64")
    groups = int(onnx_weights.attribute(node, "group", 1))
    grouped = flat.reshape(groups, -1, flat.shape[1])
    offsets: NDArray[Any] = (grouped @ mean.reshape(groups, -1, 1)).reshape(-1)
    return offsets
