"""A look at an ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.init import names
from crosscast.pipeline.init.facts import Facts, Input
from crosscast.pipeline.init.limits import CONTROL, held_by, of_onnx
from crosscast.pipeline.init.onnx_trace import Graph, compared, operators, refined
from crosscast.pipeline.init.settle import runs, settled
from crosscast.pipeline.signature import Layout
from crosscast.pipeline.sources import onnx as source
from crosscast.pipeline.sources.onnx_file import external, read
from crosscast.pipeline.stages import simplify
from crosscast.targets.families import onnx as trees

LAYOUT: Layout = "nchw"


def look(keys: Mapping[str, Any], options: Mapping[str, Any]) -> Facts:
    """What the file says of itself, with sizes that it was run with.

    keys: of the config's source. options: those keys as stages take them.
    """
    path = Path(options["model"])
    model = read(path, weights=False)
    graph = Graph(model)
    found = [_input(value, graph) for value in model.graph.input if value.name not in graph.weights]
    freeze = _frozen(found, graph)
    kept = [one for one in found if one.name not in freeze]
    settings = {"freeze": freeze} if freeze else {}
    options = {**options, **settings}
    inputs, dims = settled(kept, sizes(kept), runs(options, LAYOUT))
    weights = weight_bytes(model, path)
    facts = Facts(
        source={**keys, **settings},
        inputs=inputs,
        dims=dims,
        operators=operators(graph),
        weights=weights,
        opset=trees.opset(model),
        held=held_by(operators(graph)),
        notes=_notes(model, freeze, graph),
    )
    if set(facts.operators) & set(CONTROL):
        facts = replace(facts, operators=_simplified(facts, options))
    return replace(facts, limits=of_onnx(facts.operators, inputs, weights))


def _simplified(facts: Facts, options: Mapping[str, Any]) -> Mapping[str, int]:
    """The operators that are left when the branches of constant conditions are folded."""
    with tempfile.TemporaryDirectory() as folder:
        tree, out = Path(folder, "tree"), Path(folder, "out")
        tree.mkdir()
        out.mkdir()
        try:
            source.export(
                to="onnx",
                source=options,
                signature=facts.signature(LAYOUT),
                outputs=None,
                opset=None,
                layout=None,
                program=None,
                out=tree,
            )
            simplify.run(inputs={"model": tree}, options={}, out=out)
        except StageError:
            return facts.operators  # the build will say what is wrong
        return operators(Graph(trees.load(out)))


def sizes(inputs: list[Input]) -> dict[str, tuple[Any, ...]]:
    """Candidates for each dynamic dimension, most wanted first."""
    found: dict[str, tuple[Any, ...]] = {}
    for one in inputs:
        for axis, dim in enumerate(one.shape):
            if isinstance(dim, str):
                candidates = names.sizes_of(
                    dim, axis=axis, shape=one.shape, dtype=one.dtype, owner=one.name
                )
                found.setdefault(dim, candidates)
    return found


def weight_bytes(model: Any, path: Path) -> int:
    """The bytes of all weights, external ones included."""
    return model.ByteSize() + sum(file.stat().st_size for file in external(model, path))  # type: ignore[no-any-return]


def _input(value: Any, graph: Graph) -> Input:
    from onnx import TensorProto, helper

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value without a type"
        raise StageError(f"input '{value.name}' of the ONNX file is a {kind}, not a tensor")
    kind = value.type.tensor_type.elem_type
    dtype = "string" if kind == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(kind).name
    shape = _shape(value, graph, dtype)
    bounds, why = names.range_of(value.name, dtype, shape)
    layout = names.layout_of(shape, LAYOUT) if dtype.startswith("float") else None
    made = Input(name=value.name, shape=shape, dtype=dtype, range=bounds, why=why, layout=layout)
    return refined(made, graph)


def _shape(value: Any, graph: Graph, dtype: str) -> tuple[int | str, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return _by_consumer(value.name, graph)
    sizes = tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim)
    if names.STATE.search(value.name) and len(sizes) == 3 and isinstance(sizes[0], int):
        sizes = (sizes[0], sizes[1] or "batch", sizes[2])  # (layers, batch, features)
    return tuple(
        size
        if isinstance(size, int)
        else names.dimension(size, axis=axis, shape=sizes, dtype=dtype, layout=LAYOUT)
        for axis, size in enumerate(sizes)
    )


def _by_consumer(name: str, graph: Graph) -> tuple[int | str, ...]:
    """The shape of an input that declares none, from the weights of the layer that takes it."""
    for use in graph.uses(name):
        shape = graph.shape(use.node.input[1]) if len(use.node.input) > 1 else ()
        if use.node.op_type == "Conv" and use.place == 0 and len(shape) == 4:
            group = next((item.i for item in use.node.attribute if item.name == "group"), 1)
            return ("batch", shape[1] * group, "height", "width")
        if use.node.op_type in ("Gemm", "MatMul") and use.place == 0 and len(shape) == 2:
            turned = any(item.name == "transB" and item.i for item in use.node.attribute)
            return ("batch", shape[1 if turned else 0])
    raise StageError(
        f"the ONNX file does not tell the shape of input '{name}'",
        fix=f"write the config by hand: `inputs: {{{name}: {{shape: […], dtype: …}}}}`",
    )


def _frozen(inputs: list[Input], graph: Graph) -> dict[str, int]:
    """The scalars that the graph compares with constants, with the first of those: a rate, a mode.

    A model without any other input keeps them.
    """
    scalars = [one for one in inputs if one.shape in ((), (1,)) and one.dtype.startswith("int")]
    found = {one.name: compared(graph, one.name) for one in scalars}
    frozen = {name: int(values[0]) for name, values in found.items() if values}
    return frozen if len(frozen) < len(inputs) else {}


def _notes(model: Any, freeze: Mapping[str, int], graph: Graph) -> tuple[str, ...]:
    maker = f", written by {model.producer_name}" if model.producer_name else ""
    notes = [f"An ONNX file of opset {trees.opset(model)}{maker}."]
    for name, value in freeze.items():
        others = ", ".join(f"{one:g}" for one in compared(graph, name))
        notes.append(
            f"Input '{name}' is frozen to {value}: the graph compares it with {others}, and is "
            "smaller without the branches of other values."
        )
    return tuple(notes)
