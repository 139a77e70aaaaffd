"""The .ort format: an ONNX model as ONNX Runtime's mobile builds load it, optimised beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import SAID, Options, Precision
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_norms, onnx_runtime
from crosscast.targets.families import onnx_ort_file as files
from crosscast.targets.families.onnx_audit import audit
from crosscast.targets.families.onnx_held import FLOAT_KINDS, Held, Node
from crosscast.targets.families.onnx_runtime import OnnxSession, held_in

MODEL = "model.ort"
LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}


class OrtOptions(Options):
    """Options of the conversion to .ort."""

    optimization: Literal["none", "basic", "extended"] = Field(
        default="extended",
        description="What is optimised beforehand; the file is loaded as it is. Layouts that only "
        "some processors have are never chosen.",
    )


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:
    """Write `model.ort`, as ONNX Runtime's own converter does; equal models give equal bytes.

    Constants are not folded: that would store weights in float that were not.
    """
    import onnxruntime

    chosen = OrtOptions.model_validate(options)
    if (model / family.DATA).exists():
        raise StageError(
            "ort: the model's weights lie beside it; the format keeps one file below 2 GiB",
            fix="start from a smaller precision, such as `from: onnx-int8`",
        )
    made, said = family.load(model), ""
    if onnx_runtime.precision(artifact=model).delivered == "fp32":
        made, said = onnx_norms.steadied(made, tree=model)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, LEVELS[chosen.optimization]
    )
    settings.optimized_model_filepath = str(out / MODEL)
    settings.add_session_config_entry("session.save_model_format", "ORT")
    settings.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(
            made.SerializeToString() if said else model / family.MODEL,
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],
        )
    except Exception as error:
        raise StageError(f"ort: ONNX Runtime cannot convert the model: {error}") from error
    path = out / MODEL
    path.write_bytes(files.canonical(path.read_bytes()))
    family.carry(model, out, **({SAID: said} if said else {}))


def open(*, artifact: Path) -> OnnxSession:
    """Load the artifact in ONNX Runtime."""
    return OnnxSession(artifact / MODEL)


def precision(*, artifact: Path) -> Precision:
    """Audit the file itself, as `onnx_runtime.precision` does. Raises StageError where it cannot be
    read.
    """
    try:
        return audit(_held((artifact / MODEL).read_bytes()))
    except ImportError:
        raise
    except Exception as error:
        raise StageError(f"{MODEL} cannot be read as a model: {error}") from error


def _held(content: bytes) -> Held:
    constants: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    nodes: list[Node] = []
    results: set[str] = set()
    for graph in _graphs(files.read(content).Model().Graph()):
        tensors = (graph.Initializers(index) for index in range(graph.InitializersLength()))
        constants |= {tensor.Name().decode(): tensor for tensor in tensors}
        values = (graph.NodeArgs(index) for index in range(graph.NodeArgsLength()))
        dtypes |= {
            value.Name().decode(): FLOAT_KINDS.get(files.element_type(value), "")
            for value in values
        }
        nodes += [_node(graph.Nodes(index)) for index in range(graph.NodesLength())]
        results |= {graph.Outputs(index).decode() for index in range(graph.OutputsLength())}
    return Held(
        constants={
            name: held_in(tensor.DataType(), prod(_shape(tensor)))
            for name, tensor in constants.items()
        },
        nodes=nodes,
        dtypes=dtypes,
        results=results,
        read=lambda name: _values(constants[name]),
    )


def _shape(tensor: Any) -> list[int]:
    return [tensor.Dims(axis) for axis in range(tensor.DimsLength())]


def _values(tensor: Any) -> Any:
    """A constant's values; of those in less than a byte, the bytes."""
    import numpy as np

    name, _ = held_in(tensor.DataType(), 0)
    raw = np.frombuffer(tensor.RawDataAsNumpy(), np.uint8)
    return raw if name in ("int4", "uint4") else raw.view(name).reshape(_shape(tensor))


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and those inside its control flow."""
    yield graph
    for index in range(graph.NodesLength()):
        node = graph.Nodes(index)
        for place in range(node.AttributesLength()):
            inner = node.Attributes(place).G()
            if inner is not None:
                yield from _graphs(inner)


def _node(node: Any) -> Node:
    attributes = (node.Attributes(place) for place in range(node.AttributesLength()))
    return Node(
        operator=node.OpType().decode(),
        inputs=[node.Inputs(index).decode() for index in range(node.InputsLength())],
        outputs=[node.Outputs(index).decode() for index in range(node.OutputsLength())],
        name=(node.Name() or b"").decode(),
        numbers={entry.Name().decode(): entry.I() for entry in attributes},
    )
