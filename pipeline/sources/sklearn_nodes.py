"""Writing ONNX nodes inside a converter of skl2onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

VERSIONS = {"com.microsoft": 1, "ai.onnx.ml": 3}
"""Of the operators beside the standard ones."""


class Nodes:
    """Adds nodes and constants to the graph that skl2onnx is writing; gives their names."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def node(
        self,
        kind: str,
        *inputs: str,
        domain: str = "",
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node of one output; gives the output's name."""
        return self.several(kind, *inputs, domain=domain, outputs=outputs, **attributes)[0]

    def several(
        self,
        kind: str,
        *inputs: str,
        domain: str = "",
        outputs: Sequence[str] | None = None,
        count: int = 1,
        **attributes: Any,
    ) -> list[str]:
        """Add a node of `count` outputs; gives their names."""
        made = list(outputs or [self._scope.get_unique_variable_name(kind) for _ in range(count)])
        self._container.add_node(
            kind,
            list(inputs),
            made,
            op_domain=domain,
            op_version=VERSIONS.get(domain),
            name=self._scope.get_unique_operator_name(kind),
            **attributes,
        )
        return made

    def constant(self, array: NDArray[Any], *, double: bool = False) -> str:
        """Add a constant of floats."""
        from onnx import TensorProto

        kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
        return self._constant(kind, array.shape, array.ravel().tolist())

    def integers(self, values: Sequence[int]) -> str:
        """Add a vector of int64."""
        from onnx import TensorProto

        return self._constant(TensorProto.INT64, [len(values)], list(values))

    def scalar(self, value: int) -> str:
        """Add an int64 without dimensions."""
        from onnx import TensorProto

        return self._constant(TensorProto.INT64, [], [value])

    def strings(self, values: Sequence[str]) -> str:
        """Add a vector of strings."""
        from onnx import TensorProto

        encoded = [value.encode("utf-8") for value in values]
        return self._constant(TensorProto.STRING, [len(values)], encoded)

    def _constant(self, kind: int, shape: Sequence[int], values: list[Any]) -> str:
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, list(shape), values)
        return name
