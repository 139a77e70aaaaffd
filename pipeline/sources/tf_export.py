"""From a TensorFlow model to a tree: traced once, in inference mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Layout, Signature, Tensor, axes
from crosscast.pipeline.sources import tf_onnx
from crosscast.pipeline.sources.onnx_layout import relayout
from crosscast.pipeline.sources.tf_model import Reference, brief
from crosscast.pipeline.sources.tf_recurrent import as_operators, unrolled
from crosscast.pipeline.toolchain import Toolchain
from crosscast.pipeline.worker.usercode import place
from crosscast.targets.base import NOTES, Kind
from crosscast.targets.families import onnx as trees
from crosscast.targets.families.tensorflow import PRELOAD, SAVED_MODEL, SERVING, SIGNATURE, keys

TENSORFLOW = Toolchain(
    name="tensorflow",
    preload=PRELOAD,
    distributions=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx", "onnxruntime", "numpy"),
    extra="tensorflow",
)

WRITES = re.compile(r"Assign\w*VariableOp|Resource(Scatter|Apply)\w+|Lookup\w+(Insert|Import)V2")
"""Operators that change what the next call finds."""

CALLS = ("StatefulPartitionedCall", "PartitionedCall")
COMPILED = "_XlaMustCompile"
SUFFIX = "_uncompiled"


def export(
    reference: Reference,
    signature: Signature,
    *,
    to: Kind,
    opset: int | None,
    layout: Layout | None,
    out: Path,
) -> dict[str, Any]:
    """Write a tree of kind `to` under `out` and return its notes."""
    ours = replace(signature, inputs=reference.inputs, outputs=reference.outputs)
    notes = dict(reference.loaded.notes)
    if to == "saved_model":
        with unrolled(reference.loaded.owner):
            _write_saved_model(reference, ours, layout, out)
    elif to == "onnx":
        with as_operators(reference.loaded.owner):
            function = traced(reference, ours, None)
            model = tf_onnx.converted(function, ours, opset=opset)
        trees.save(relayout(model, ours, layout), out)
        trees.check(out, "the exported model")
        tf_onnx.try_out(out, ours.permuted(layout))
        notes |= {trees.EXPORTER: "tf2onnx", "opset": trees.opset(model)}
    else:
        raise StageError(f"a TensorFlow model cannot be exported as {to}")
    write_json(out / SIGNATURE, ours.permuted(layout).to_json())
    write_json(out / NOTES, notes)
    return notes


def traced(reference: Reference, signature: Signature, layout: Layout | None) -> Any:
    """The model as one concrete function without variables: the outputs, in order, for the inputs
    in order, all in `layout`.

    Raises StageError where the model cannot be traced, or keeps state from call to call.
    """
    import tensorflow as tf

    wanted = signature.permuted(layout)

    def serve(*tensors: Any) -> list[Any]:
        given = _permuted(tensors, wanted.inputs, signature.inputs)
        found = tuple(reference.flat(given).values())
        results = _permuted(found, signature.outputs, wanted.outputs)
        return [tf.identity(result) for result in results]  # an output may be an input as well

    try:
        made = tf.function(serve, input_signature=specs(wanted), autograph=False)
        function = made.get_concrete_function()
        _refuse_state(function)
        return _inlined(_frozen(function))
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"the model cannot be traced into a graph: {brief(error)} ({place(error)})",
            fix="let it compute with TensorFlow's or Keras' operations only, whatever the values "
            "and sizes of its inputs; or declare a dynamic dimension with a fixed size",
        ) from error


def _frozen(function: Any) -> Any:
    """The function with constants for variables, and the functions that it calls written out."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )


def _inlined(frozen: Any) -> Any:
    """The function without the calls that were to be compiled by XLA, which TensorFlow leaves as
    they are: grouped convolutions in Keras.
    """
    import tensorflow as tf

    graph = frozen.graph.as_graph_def()
    if not any(node.op in CALLS for node in graph.node):
        return frozen
    _uncompile(graph)
    feeds = [tensor.name for tensor in frozen.inputs]
    fetches = [tensor.name for tensor in frozen.outputs]
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    return _frozen(wrapped.prune(feeds, fetches))


def _uncompile(graph: Any) -> None:
    """Forget in a GraphDef what is to be compiled, under new names: the old ones are taken."""
    for node in _nodes(graph):
        node.attr.pop(COMPILED, None)
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name:
                    called.name += SUFFIX
    for function in graph.library.function:
        function.signature.name += SUFFIX
        for key in (COMPILED, "_noinline"):
            function.attr.pop(key, None)
    del graph.library.gradient[:]


def specs(signature: Signature) -> list[Any]:
    """What the function takes; a dimension whose least and greatest size are equal is fixed."""
    import tensorflow as tf

    return [
        tf.TensorSpec([size(dim, signature) for dim in tensor.shape], tensor.dtype, name=key)
        for tensor, key in zip(signature.inputs, keys(signature.inputs, "input"), strict=True)
    ]


def size(dim: int | str, signature: Signature) -> int | None:
    """A dimension's fixed size; None where it is dynamic."""
    if isinstance(dim, int):
        return dim
    low, high = signature.dims.get(dim, (0, 1))
    return low if low == high else None


def _permuted(
    tensors: tuple[Any, ...], found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]
) -> tuple[Any, ...]:
    import tensorflow as tf

    orders = [axes(a.layout, b.layout) for a, b in zip(found, wanted, strict=True)]
    return tuple(
        tensor if order is None else tf.transpose(tensor, order)
        for tensor, order in zip(tensors, orders, strict=True)
    )


def _refuse_state(function: Any) -> None:
    """Raise StageError for what a stateless artifact cannot do."""
    for node in _nodes(function.graph.as_graph_def()):
        if WRITES.fullmatch(node.op):
            raise StageError(
                f"the model writes to a variable when it is called (operator {node.op}, layer "
                f"{node.name}), which an artifact cannot do",
                fix="take the state as an input and return it as an output",
            )


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _write_saved_model(
    reference: Reference, signature: Signature, layout: Layout | None, out: Path
) -> None:
    """Write the frozen function with one serving signature."""
    import tensorflow as tf

    frozen = traced(reference, signature, layout)
    names = keys(signature.outputs, "output")

    def serve(*tensors: Any) -> dict[str, Any]:
        found = frozen(*tensors)
        found = found if isinstance(found, list | tuple) else [found]
        return dict(zip(names, found, strict=True))

    module = tf.Module()
    module.serve = tf.function(
        serve, input_signature=specs(signature.permuted(layout)), autograph=False
    )
    folder = out / SAVED_MODEL
    signatures = {SERVING: module.serve.get_concrete_function()}
    # gradients serve training only, and those of activations capture what cannot be saved
    chosen = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=signatures, options=chosen)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # it holds a random number
