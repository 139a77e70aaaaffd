"""TFLite files as sources: what is read from them, and what is refused. No interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.tflite_file import completed, ports, read, tensors
from crosscast.targets.families import tflite_copy
from crosscast.targets.families import tflite_file as files

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def tensor(name: str, shape: tuple[int, ...], dtype: str = "float32", scale: Any = None) -> Any:
    made = schema.TensorT()
    made.name, made.type, made.buffer, made.hasRank = name, files.tensor_type(dtype), 0, True
    files.set_shape(made, shape)
    made.quantization = schema.QuantizationParametersT()
    if scale is not None:
        made.quantization.scale, made.quantization.zeroPoint = [scale], [-3]
    return made


def model(inputs: list[Any], outputs: list[Any], **signatures: int) -> Any:
    """Two subgraphs of those ports; the second one's operator calls the first."""
    graphs = []
    for _ in range(2):
        graph = schema.SubGraphT()
        graph.tensors = [tensor(files.text(t.name), files.signature_of(t), files.numpy_name(t.type),
                                None if t.quantization.scale is None else t.quantization.scale[0])
                         for t in (*inputs, *outputs)]  # fmt: skip
        graph.inputs = list(range(len(inputs)))
        graph.outputs = list(range(len(inputs), len(graph.tensors)))
        graph.operators = []
        graphs.append(graph)
    call = schema.OperatorT()
    call.inputs, call.outputs = graphs[1].inputs, graphs[1].outputs
    call.builtinOptions = schema.IfOptionsT()
    call.builtinOptionsType = schema.BuiltinOptions.IfOptions
    call.builtinOptions.thenSubgraphIndex, call.builtinOptions.elseSubgraphIndex = 0, 1
    graphs[1].operators = [call]
    made = schema.ModelT()
    made.subgraphs, made.buffers, made.version = graphs, [schema.BufferT()], 3
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.IF
    made.operatorCodes = [code]
    made.signatureDefs = [signed(key, graphs[number], number) for key, number in signatures.items()]
    return made


def signed(key: str, graph: Any, number: int) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, number
    for side in ("inputs", "outputs"):
        entries = []
        for place, index in enumerate(getattr(graph, side)):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{key}_{side}_{place}", index
            entries.append(entry)
        setattr(made, side, entries)
    return made


IMAGE, SCORES = tensor("serving_default_image:0", (-1, 8, 8, 3)), tensor("scores:0", (-1, 4))


def test_names_come_from_the_signature_that_is_meant() -> None:
    made = model([IMAGE], [SCORES], main=0, other=1)
    assert ports(made, None).inputs == ("main_inputs_0",)
    found = ports(made, "other")
    assert (found.subgraph, found.outputs) == (1, ("other_outputs_0",))
    with pytest.raises(StageError, match="no signature 'gone'") as caught:
        ports(made, "gone")
    assert caught.value.fix == "it has 'main', 'other'"


def test_names_without_a_signature_are_the_tensors_own() -> None:
    found = ports(model([IMAGE], [SCORES]), None)
    assert (found.key, found.inputs, found.outputs) == (None, ("image",), ("scores",))
    assert tensors(model([IMAGE], [SCORES]), found, "inputs") == (
        Tensor(name="image", shape=("batch", 8, 8, 3), dtype="float32"),
    )


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["StatefulPartitionedCall:0"], ("output",)),
        (["StatefulPartitionedCall:0", "StatefulPartitionedCall:1"], ("output_0", "output_1")),
        (["Identity", "other"], ("output_0", "output_1")),
        (["a:0", "a:1"], ("output_0", "output_1")),
        (["Identity"], ("Identity",)),
    ],
)
def test_names_that_tell_nothing_are_numbered(names: list[str], wanted: Any) -> None:
    outputs = [tensor(name, (1, 2)) for name in names]
    assert ports(model([IMAGE], outputs), None).outputs == wanted


def test_integers_that_stand_for_numbers_take_any_value() -> None:
    made = model([tensor("x", (1, 4), "int8", 0.5)], [tensor("y", (1, 4), "int8", 0.25)])
    found = completed(made, ports(made, None), Signature(inputs=()))
    assert found.inputs[0].quantization == (0.5, -3)
    assert found.inputs[0].range == (-128, 127)


def test_a_float_input_that_is_quantized_at_once_has_the_range_that_is_kept() -> None:
    made = model([tensor("x", (1, 4))], [tensor("q", (1, 4), "int8", 0.5)])
    quantize = schema.OperatorT()
    quantize.inputs, quantize.outputs, quantize.opcodeIndex = [0], [1], 0
    made.operatorCodes[0].builtinCode = schema.BuiltinOperator.QUANTIZE
    made.subgraphs[0].operators = [quantize]
    found = completed(made, ports(made, None), Signature(inputs=()))
    assert found.inputs[0].range == (-62.5, 65.0)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("image", ("batch", 8, 8, 3), "int8"), "as int8 .*, the TFLite file has float32"),
        (("image", ("batch", 9, 8, 3), "float32"), r"as float32 \[batch, 9, 8, 3\], the TFLite"),
        (("picture", ("batch", 8, 8, 3), "float32"), "no input 'picture'; it has 'image'"),
    ],
)
def test_conflicts_are_refused(declared: Any, message: str) -> None:
    name, shape, dtype = declared
    made = model([IMAGE], [SCORES])
    given = Signature(inputs=(Tensor(name=name, shape=shape, dtype=dtype),), dims={"batch": (1, 4)})
    with pytest.raises(StageError, match=message):
        completed(made, ports(made, None), given)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    files.write(model([IMAGE], [SCORES]), path)
    assert len(read(path).subgraphs) == 2
    whole = path.read_bytes()
    for content in (whole[:30], bytes(8) + whole[8:], b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(StageError, match="is not a TFLite model, or a truncated one"):
            read(path)


def test_ports_are_named_and_signed() -> None:
    made = model([IMAGE], [SCORES], main=0)
    made.subgraphs[0].tensors.append(tensor("picture", (1,)))
    tflite_copy.name_ports(made, subgraph=0, inputs=["picture"], outputs=["classes"])
    graph = made.subgraphs[0]
    assert [t.name for t in graph.tensors] == ["picture", "classes", "picture_inner_2"]
    assert [entry.signatureKey for entry in made.signatureDefs] == [files.SIGNATURE]


def test_the_subgraph_that_is_meant_becomes_the_first() -> None:
    made = model([IMAGE], [SCORES], main=0, other=1)
    tflite_copy.name_ports(made, subgraph=1, inputs=["a"], outputs=["b"])
    options = made.subgraphs[0].operators[0].builtinOptions
    assert (options.thenSubgraphIndex, options.elseSubgraphIndex) == (1, 0)


def test_a_tensor_that_is_two_ports_is_refused() -> None:
    made = model([IMAGE], [SCORES])
    made.subgraphs[0].outputs = [0]
    with pytest.raises(StageError, match="gives one tensor out twice, or an input as it came"):
        tflite_copy.name_ports(made, subgraph=0, inputs=["a"], outputs=["b"])


@pytest.mark.parametrize(("held", "wanted"), [("int8", "fp16"), ("float16", "int8")])
def test_lost_precision_is_not_made_up_for(held: str, wanted: Any, tmp_path: Path) -> None:
    made = model([IMAGE], [SCORES])
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.FULLY_CONNECTED
    made.operatorCodes.append(code)
    made.subgraphs = made.subgraphs[:1]
    editor = files.Editor(made, made.subgraphs[0])
    weights = editor.tensor("w", files.tensor_type(held), (4, 4), np.ones((4, 4), held))
    made.subgraphs[0].operators = [editor.operator("FULLY_CONNECTED", [0, weights, -1], 1)]
    files.write(made, tmp_path / "model.tflite")
    with pytest.raises(StageError, match="already: its float32 weights are lost"):
        tflite_copy.shipped_as_it_is(tmp_path, wanted, tmp_path / "out")
    own: Any = "int8" if held == "int8" else "fp16"
    assert tflite_copy.shipped_as_it_is(tmp_path, own, tmp_path / "out")
    before, after = (folder / "model.tflite" for folder in (tmp_path, tmp_path / "out"))
    assert before.read_bytes() == after.read_bytes()
