"""What the operators of an ONNX or ORT file compute in, by the kernels of ONNX Runtime's CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from crosscast.targets.base import Computing, Delivered
from crosscast.targets.families.onnx_held import (
    BYTES,
    DELIVERED,
    FLOAT_KINDS,
    FLOATS,
    STORED,
    Held,
    Node,
)

FLOATING = frozenset(
    (
        "Conv", "ConvTranspose", "DeformConv", "FusedConv", "NhwcFusedConv",
        "MatMul", "Gemm", "Einsum", "FusedMatMul", "FusedGemm", "TransposeMatMul",
        "MatMulNBits", "LSTM", "GRU", "RNN",
        "Attention", "MultiHeadAttention", "GroupQueryAttention",
    )
)  # fmt: skip
"""Operators that sum products of floats."""

INTEGER = frozenset(
    (
        "ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul", "QGemm",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention",
    )
)  # fmt: skip
"""Those that sum products of integers."""

SUMMING = FLOATING | INTEGER
"""Operators that sum products."""

FUSED = {"Conv": True, "Gemm": False, "MatMul": False}
"""Operators that ONNX Runtime computes in int8 between DequantizeLinear and QuantizeLinear, by
whether it asks for the latter (onnxruntime/core/optimizer/qdq_transformer)."""

CLIPPED = ("Relu", "Clip")
"""What may lie between such an operator and QuantizeLinear, whose range does the same."""

KEPT = (
    "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze",
    "Flatten", "Identity",
)  # fmt: skip
"""What weights go through on their way to an operator."""

SCALED = ("Mul", "Sub")
"""What gives stored numbers back, beside DequantizeLinear."""

NO_FLOATS = frozenset(
    (
        "Shape", "Size", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And",
        "Or", "IsNaN", "IsInf", "ArgMax", "ArgMin", "NonZero", "QuantizeLinear",
    )
)  # fmt: skip
"""Operators that give no floats whatever they take."""


def computing(held: Held) -> tuple[Computing, ...]:
    """The operators that compute, in the file's order."""
    graph = _Graph(held)
    return tuple(graph.computing(node) for node in held.nodes if node.operator in SUMMING)


class _Graph:
    """A file's values, by what gives them and what reads them."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.makers = {name: node for node in held.nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = {}
        for node in held.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.floats = _floats(held)

    def computing(self, node: Node) -> Computing:
        """What an operator computes in."""
        sizes = Counter[Delivered]()
        for precision, size in self._weights(node):
            sizes[precision] += size
        return Computing(
            name=node.name or next(filter(None, node.outputs), node.operator),
            operator=node.operator,
            arithmetic="int8" if self._in_integers(node) else self._float(node),
            stored=sizes.most_common(1)[0][0] if sizes else None,
            size=sizes.total(),
        )

    def _weights(self, node: Node) -> Iterator[tuple[Delivered, int]]:
        data, plain = STORED.get(node.operator, (range(len(node.inputs)), ()))
        for index in (*data, *plain):
            origin = self._origin(node.inputs[index]) if index < len(node.inputs) else ""
            dtype, size = self.held.constants.get(origin, ("", 0))
            packed = node.operator == "MatMulNBits" and index in data
            if packed and node.numbers.get("bits") != 8:
                yield "int4", size
            elif dtype in DELIVERED:
                yield DELIVERED[dtype], size

    def _origin(self, name: str) -> str:
        """The constant that a value is made of alone; empty where there is none."""
        while name not in self.held.constants:
            maker = self.makers.get(name)
            if maker is None:
                return ""
            if maker.operator in SCALED:
                return next(filter(self._is_stored, map(self._origin, maker.inputs)), "")
            if maker.operator not in KEPT or not maker.inputs:
                return ""
            name = maker.inputs[0]
        return name

    def _is_stored(self, origin: str) -> bool:
        return self.held.constants.get(origin, ("", 0))[0] in BYTES

    def _in_integers(self, node: Node) -> bool:
        if node.operator in INTEGER:
            return True
        if node.operator not in FUSED:
            return False
        given = all(self._is_level(name) for name in node.inputs if name)
        return given and (not FUSED[node.operator] or self._is_quantized(node.outputs[0]))

    def _is_level(self, name: str) -> bool:
        """Whether a value is what DequantizeLinear gives of numbers of no less than 8 bits."""
        maker = self.makers.get(name)
        if maker is None or maker.operator != "DequantizeLinear":
            return False
        dtype, _ = self.held.constants.get(maker.inputs[0], ("int8", 0))
        return dtype in (*BYTES, "int32")

    def _is_quantized(self, name: str) -> bool:
        """Whether a value goes to one QuantizeLinear and nowhere else."""
        readers = self.readers.get(name, [])
        if name in self.held.results or len(readers) != 1:
            return False
        if readers[0].operator in CLIPPED:
            return self._is_quantized(readers[0].outputs[0])
        return readers[0].operator == "QuantizeLinear"

    def _float(self, node: Node) -> Delivered:
        """What an operator that sums products of floats computes in."""
        found = (self.floats.get(name, "") for name in (*node.inputs, *node.outputs))
        return DELIVERED[next(filter(None, found), "float32")]


def _floats(held: Held) -> Mapping[str, str]:
    """Numpy's names of float types, by value: what the file tells, and what follows from it.

    An operator gives floats of the type that it takes; a conversion says what it gives.
    """
    found = {name: dtype for name, (dtype, _) in held.constants.items() if dtype in FLOATS}
    found |= {name: dtype for name, dtype in held.dtypes.items() if dtype}
    for node in held.nodes:
        if node.operator == "Cast":
            dtype = FLOAT_KINDS.get(node.numbers.get("to", 0), "")
        else:
            dtype = next((found[name] for name in node.inputs if name in found), "")
        if dtype and node.operator not in NO_FLOATS:
            for name in node.outputs:
                found.setdefault(name, dtype)
    return found
