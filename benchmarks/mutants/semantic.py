"""The table of semantic mutations: each makes another function of a network's float ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mutants import ends, layers
from mutants.graph import Array, Graph


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What some mutations ask of a model.

    ranges: of its inputs, by name, where they are declared. means: of its float outputs over the
        cases of the reference, along all axes but the last, by name.
    """

    ranges: Mapping[str, tuple[float, float]]
    means: Mapping[str, Array]


SEMANTIC: Mapping[str, Callable[[Graph, Facts], bool]] = {
    "channels swapped": lambda graph, _: layers.channels_swapped(graph),
    "BGR for RGB": lambda graph, _: ends.bgr(graph),
    "NHWC for NCHW": lambda graph, _: ends.other_layout(graph),
    "one off": lambda graph, _: ends.one_off(graph),
    "last activation missing": lambda graph, _: ends.last_activation_dropped(graph),
    "softmax too many": lambda graph, _: ends.softmax_added(graph),
    "outputs exchanged": lambda graph, _: ends.outputs_exchanged(graph),
    "classes one off": lambda graph, _: ends.classes_rolled(graph),
    "first bias dropped": lambda graph, _: layers.bias_dropped("first")(graph),
    "middle bias dropped": lambda graph, _: layers.bias_dropped("middle")(graph),
    "last bias dropped": lambda graph, _: layers.bias_dropped("last")(graph),
    "wrong epsilon": lambda graph, _: layers.epsilons(graph),
    "stale batch-norm statistics": lambda graph, _: layers.stale_statistics(graph),
    "dropout left on": lambda graph, _: layers.dropout_left_on(graph),
    "zero output": lambda graph, _: ends.zero_output(graph),
    "constant output": lambda graph, facts: ends.constant_output(graph, facts.means),
    "transposed weights": lambda graph, _: layers.transposed(graph),
    "Relu for Relu6": lambda graph, _: layers.relu6_to_relu(graph),
    "LeakyRelu for Relu": lambda graph, _: layers.relu_to_leaky(graph),
    "activation missing": lambda graph, _: layers.activation_dropped(graph),
    "pads shifted": lambda graph, _: layers.pads_shifted(graph),
    "pools exchanged": lambda graph, _: layers.pools_exchanged(graph),
    "gates exchanged": lambda graph, _: layers.gates_exchanged(graph),
    "inputs 0 to 255": lambda graph, facts: ends.bytes_for_range(graph, facts.ranges),
    "inputs 0 to 1": lambda graph, facts: ends.unit_for_range(graph, facts.ranges),
}
"""By name. Each gives False, and changes nothing, where the graph has nothing of its kind."""
