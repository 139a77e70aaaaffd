"""A source whose model takes images as they are decoded: the preprocessing is in its graph.

The images are uint8[batch, height, width, channels], RGB or gray, of the model's own size. Casting,
order of colours, scale, mean, std and layout become operators before the model; the reference
computes them in numpy and then runs the source's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.preprocess import WHITE, Preprocessing, values
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, axes, permute
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import NOTES, Kind, Session, read_notes
from crosscast.targets.families import onnx as trees

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.pipeline.sources import Source

SIGNATURE = "signature.json"


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What the fold of one input takes the place of: its tensor's own members, and the steps."""

    steps: Preprocessing
    dtype: str
    layout: Layout | None
    range: tuple[float, float] | None

    @classmethod
    def of(cls, tensor: Tensor, steps: Preprocessing) -> Self:
        """The fold of a declared input."""
        return cls(steps=steps, dtype=tensor.dtype, layout=tensor.layout, range=tensor.range)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return {
            "steps": self.steps.to_json(),
            "dtype": self.dtype,
            "layout": self.layout,
            "range": self.range,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        bounds = value["range"]
        return cls(
            steps=Preprocessing.from_json(value["steps"]),
            dtype=value["dtype"],
            layout=value["layout"],
            range=None if bounds is None else (bounds[0], bounds[1]),
        )

    def image(self, tensor: Tensor) -> Tensor:
        """What is fed in the tensor's place."""
        pixels = tensor.permuted("nhwc")
        return replace(pixels, dtype="uint8", layout="nhwc", range=(0.0, WHITE))

    def tensor(self, image: Tensor) -> Tensor:
        """The inverse of `image`."""
        tensor = image.permuted(self.layout)
        return replace(tensor, dtype=self.dtype, layout=self.layout, range=self.range)


class FoldedSource:
    """A source whose image inputs are pixels; see the protocol of sources.

    `source` and `signature` are the config's own in `signature`, where `source["fold"]` says what
    is folded; elsewhere `signature` is what `signature` gave.
    """

    kinds: tuple[Kind, ...] = ("onnx",)

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.toolchain: Toolchain = inner.toolchain

    def files(self, options: Mapping[str, Any]) -> dict[str, Path]:
        """The user's files that the source names, by key."""
        return self._inner.files(_bare(options))

    def signature(self, *, source: Mapping[str, Any], declared: Signature) -> Signature:
        """The inner source's, with pixels for what is folded."""
        whole = self._inner.signature(source=_bare(source), declared=declared)
        return _with_images(whole, _folds(source))

    def load(
        self, *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
    ) -> Reference:
        """The arithmetic in numpy, then the inner source's reference."""
        folds = _folds(source)
        plain = _without_images(signature, folds)
        session = self._inner.load(source=_bare(source), signature=plain, outputs=outputs)
        return Reference(session, signature, folds)

    def export(
        self,
        *,
        to: Kind,
        source: Mapping[str, Any],
        signature: Signature,
        outputs: Sequence[str] | None,
        opset: int | None,
        layout: Layout | None,
        program: Path | None,
        out: Path,
    ) -> dict[str, Any]:
        """Write the inner source's ONNX export with the arithmetic before it.

        program: an exported program of the inner source.
        """
        if to != "onnx":
            raise StageError(f"a model with folded preprocessing cannot be exported as {to}")
        folds = _folds(source)
        notes = self._inner.export(
            to="onnx",
            source=_bare(source),
            signature=_without_images(signature, folds),
            outputs=outputs,
            opset=opset,
            layout=None,
            program=program,
            out=out,
        )
        return {**notes, **_fold(out, folds, layout)}

    def dependencies(self) -> tuple[str, ...]:
        """The user's own files that were read in this process without being declared."""
        return self._inner.dependencies()


class Reference:
    """The source's own reference, `inner`, behind the arithmetic of its preprocessing."""

    def __init__(self, session: Session, signature: Signature, folds: Mapping[str, Folded]) -> None:
        self.inner = session
        self._folds = folds
        self.inputs = signature.inputs
        self.outputs = session.outputs

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        return self.inner.run(self.prepared(inputs))

    def prepared(self, inputs: Arrays) -> Arrays:
        """What the source's own reference is given."""
        prepared = dict(inputs)
        for tensor in self.inputs:
            if (fold := self._folds.get(tensor.name)) is not None:
                made = {tensor.name: values(inputs[tensor.name], fold.steps, fold.dtype)}
                prepared |= permute(made, tensors=(tensor,), layout=fold.layout)
        return prepared


def _bare(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "fold"}


def _folds(source: Mapping[str, Any]) -> dict[str, Folded]:
    return {name: Folded.from_json(entry) for name, entry in source["fold"].items()}


def _with_images(signature: Signature, folds: Mapping[str, Folded]) -> Signature:
    inputs = tuple(
        folds[tensor.name].image(tensor) if tensor.name in folds else tensor
        for tensor in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _without_images(signature: Signature, folds: Mapping[str, Folded]) -> Signature:
    inputs = tuple(
        folds[tensor.name].tensor(tensor) if tensor.name in folds else tensor
        for tensor in signature.inputs
    )
    return replace(signature, inputs=inputs)


# The graph


def _fold(tree: Path, folds: Mapping[str, Folded], layout: Layout | None) -> dict[str, Any]:
    """Put the arithmetic before the model of an ONNX tree; gives what its notes say of it."""
    from crosscast.pipeline.sources.onnx_layout import relayout

    text = (tree / SIGNATURE).read_text(encoding="utf-8")
    plain = Signature.from_json(json.loads(text))
    ours = _with_images(plain, folds)
    model = trees.load(tree)
    for name, fold in folds.items():
        image = next(tensor for tensor in ours.inputs if tensor.name == name)
        prefix(model, image, fold)
    notes = {"folded": sorted(folds)}
    for path in (tree / trees.MODEL, tree / trees.DATA):
        path.unlink(missing_ok=True)
    trees.save(relayout(model, ours, layout), tree)
    trees.check(tree, "the model with its preprocessing folded in")
    write_json(tree / SIGNATURE, ours.permuted(layout).to_json())
    write_json(tree / NOTES, read_notes(tree) | notes)
    return notes


def prefix(model: Any, image: Tensor, fold: Folded) -> None:
    """Put the steps from pixels to the input before the model's graph. Changes `model` itself.

    image: what is fed in place of the model's input of the same name.
    """
    import numpy as np
    from onnx import TensorProto, helper

    from crosscast.pipeline.sources.onnx_layout import renamed

    chain = _Chain(image.name)
    if fold.steps.color == "bgr":
        chain.constant("Gather", np.array([2, 1, 0], np.int64), axis=3)
    if fold.steps.is_arithmetic:
        chain.cast("float32", held="uint8")
        _scale_and_shift(chain, fold.steps)
    chain.cast(fold.dtype, held="float32" if fold.steps.is_arithmetic else "uint8")
    order = axes("nhwc", fold.layout)
    if order is not None:
        chain.add("Transpose", perm=order)
    inner = renamed(model.graph, image.name)
    nodes = [*chain.nodes(inner), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(chain.constants)
    value = next(value for value in model.graph.input if value.name == image.name)
    value.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.UINT8, list(image.shape)))


def _scale_and_shift(chain: _Chain, steps: Preprocessing) -> None:
    """(x * scale - mean) / std as one product and one sum."""
    import numpy as np

    mean, std = np.asarray(steps.mean or 0.0), np.asarray(steps.std or 1.0)
    factor, shift = steps.scale / std, -mean / std
    for operator, number, neutral in (("Mul", factor, 1.0), ("Add", shift, 0.0)):
        values = np.atleast_1d(number).astype(np.float32)
        if (values != neutral).any():
            chain.constant(operator, values[:1] if (values == values[0]).all() else values)


class _Chain:
    """Nodes one after another, from a graph's input on; their names begin with the input's."""

    def __init__(self, name: str) -> None:
        self.constants: list[Any] = []
        self._name = name
        self._made: list[tuple[str, list[str], dict[str, Any]]] = []

    def add(self, operator: str, *operands: str, **attributes: Any) -> None:
        """Append an operator on what the last one gives."""
        self._made.append((operator, list(operands), attributes))

    def constant(self, operator: str, value: NDArray[Any], **attributes: Any) -> None:
        """Append an operator whose second operand is constant."""
        from onnx import numpy_helper

        name = f"preprocess_{self._name}_{operator.lower()}_operand"
        self.constants.append(numpy_helper.from_array(value, name))
        self.add(operator, name, **attributes)

    def cast(self, dtype: str, *, held: str) -> None:
        """Append a cast, where `held` is not the dtype already."""
        import numpy as np
        from onnx import helper

        if dtype != held:
            self.add("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def nodes(self, end: str) -> list[Any]:
        """The nodes; the last one gives `end`."""
        from onnx import helper

        made = self._made or [("Identity", [], {})]
        names = [self._name, *(f"preprocess_{self._name}_{i}" for i in range(1, len(made))), end]
        return [
            helper.make_node(
                operator,
                [names[index], *operands],
                [names[index + 1]],
                name=f"preprocess_{self._name}_{operator.lower()}_{index}",
                **attributes,
            )
            for index, (operator, operands, attributes) in enumerate(made)
        ]
