from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families import tflite_float16, tflite_quantize
from crosscast.targets.families import tflite_runtime as runtime
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_finish import finish
from crosscast.targets.families.tflite_graph import Port

FLOAT32, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT32
WEIGHTS = np.arange(24, dtype=np.float32).reshape(6, 4) / 7


def port(name: str, alias: str, *shape: int | None, dtype: str = "float32") -> Port:
    return Port(name=name, alias=alias, shape=shape, dtype=dtype)


def empty() -> files.Editor:
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    model.subgraphs, model.metadata, model.signatureDefs = [schema.SubGraphT()], [], []
    graph = model.subgraphs[0]
    graph.tensors, graph.operators = [], []
    return files.Editor(model, graph)


def network(*, layout: tuple[int, ...] = (-1, 2, 3), shift: bool = False) -> Any:
    """Input (n, 4) -> matrix product with WEIGHTS -> reshaped to `layout` -> flattened."""
    editor = empty()
    source = editor.tensor("input_0", FLOAT32, (-1, 4))
    weights = editor.tensor("w", FLOAT32, (4, 6), WEIGHTS.T)
    product = editor.tensor("p", FLOAT32, (-1, 6))
    shaped = editor.tensor("s", FLOAT32, layout)
    flat = editor.tensor("output_0", FLOAT32, (-1,))
    operator = editor.operator("BATCH_MATMUL", [source, weights], product)
    operator.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
    operator.builtinOptions = schema.BatchMatMulOptionsT()
    fixed = (1, *layout[1:]) if shift else layout
    editor.graph.operators = [
        operator,
        editor.reshape(product, shaped, fixed),
        editor.reshape(shaped, flat, (-1,)),
    ]
    editor.graph.inputs, editor.graph.outputs = [source], [flat]
    return editor.model


def finished(path: Path, model: Any, *, inputs: Any = None, outputs: Any = None) -> Any:
    finish(
        model,
        inputs=inputs or [port("x", "input_0", None, 4)],
        outputs=outputs or [port("y", "output_0", None, 2, 3)],
    )
    path.mkdir(exist_ok=True)
    files.write(model, path / FILE)
    return runtime.open(artifact=path)


def names(model: Any) -> list[str]:
    return [files.operator_name(model, operator) for operator in model.subgraphs[0].operators]


def expected(array: Any) -> Any:
    return (array @ WEIGHTS.T).reshape(len(array), 2, 3)


@pytest.mark.parametrize(
    ("made", "left"),
    [
        (network(), ["FULLY_CONNECTED", "RESHAPE"]),
        (network(shift=True), ["FULLY_CONNECTED", "RESHAPE"]),
        # What is flattened has another shape: it is reshaped instead.
        (network(layout=(-1, 3, 2)), ["FULLY_CONNECTED", "RESHAPE", "RESHAPE"]),
    ],
    ids=["shape kept", "batch freed", "shape restored"],
)
def test_a_finished_file_has_the_declared_ports(tmp_path: Path, made: Any, left: list[str]) -> None:
    session = finished(tmp_path, made)
    assert names(made) == left
    assert [(t.name, t.shape, t.dtype) for t in session.inputs] == [("x", ("dim0", 4), "float32")]
    assert [(t.name, t.shape) for t in session.outputs] == [("y", ("dim0", 2, 3))]
    for rows in (1, 3):
        array = np.random.default_rng(rows).random((rows, 4), np.float32)
        np.testing.assert_allclose(session.run({"x": array})["y"], expected(array), rtol=1e-5)


def test_inputs_that_were_dropped_or_widened_are_declared_again(tmp_path: Path) -> None:
    editor = empty()
    source, scale = editor.tensor("input_1", FLOAT32, (2,)), editor.tensor("input_2", FLOAT32, (1,))
    flat = editor.tensor("output_0", FLOAT32, (2,))
    operator = editor.operator("MUL", [source, scale], flat)
    operator.builtinOptionsType = schema.BuiltinOptions.MulOptions
    operator.builtinOptions = schema.MulOptionsT()
    editor.graph.operators = [operator]
    editor.graph.inputs, editor.graph.outputs = [source, scale], [flat]
    ports = [
        port("unused", "input_0", None, 5, dtype="int64"),
        port("x", "input_1", 2),
        port("scale", "input_2"),
    ]
    session = finished(tmp_path, editor.model, inputs=ports, outputs=[port("y", "output_0", 2)])
    assert [(t.name, t.shape, t.dtype) for t in session.inputs] == [
        ("unused", ("dim0", 5), "int64"),
        ("x", (2,), "float32"),
        ("scale", (), "float32"),
    ]
    given = {
        "unused": np.zeros((3, 5), np.int64),
        "x": np.float32([1, 2]),
        "scale": np.asarray(3, np.float32),
    }
    np.testing.assert_array_equal(session.run(given)["y"], [3, 6])


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([port("x", "input_0", None, 4, dtype="int64")], None, "input 'x' is int64, which onnx2tf"),
        ([port("x", "input_0", 4, None)], None, r"input 'x' has shape \(4, -1\)"),
        (None, [port("y", "output_7", 2)], "lost the output 'y'"),
        (None, [port("y", "output_0", None, None, 4)], "several dynamic dimensions"),
        (None, [port("y", "output_0", None, 2, 3, dtype="int32")], "output 'y' is int32"),
    ],
)
def test_ports_that_cannot_be_restored_are_said(inputs: Any, outputs: Any, said: str) -> None:
    with pytest.raises(StageError, match=said):
        finish(
            network(),
            inputs=inputs or [port("x", "input_0", None, 4)],
            outputs=outputs or [port("y", "output_0", None, 2, 3)],
        )


def test_reduced_precision_is_not_allowed_and_nothing_unused_is_left(tmp_path: Path) -> None:
    made = network()
    note = schema.MetadataT()
    note.name, note.buffer = b"reduced_precision_support", len(made.buffers)
    made.metadata, made.description = [note], "of today"
    made.buffers.append(schema.BufferT())
    finished(tmp_path, made)
    again = files.read(tmp_path / FILE)
    assert not again.metadata
    assert not again.description
    assert {files.text(t.name) for t in again.subgraphs[0].tensors} == {
        "x", "p", "y", "w_turned", "s_shape",
    }  # fmt: skip
    assert len(again.buffers) == 3


def test_equal_models_are_equal_files_with_aligned_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name, network())
    content = (tmp_path / "a" / FILE).read_bytes()
    assert content == (tmp_path / "b" / FILE).read_bytes()
    assert content.index(WEIGHTS.tobytes()) % files.ALIGNMENT == 0


def test_float16_is_stored_where_it_fits(tmp_path: Path) -> None:
    made = network()
    session = finished(tmp_path / "t", made)
    tflite_float16.to_float16(model=tmp_path / "t", options={}, samples=None, out=tmp_path / "h")
    audit = runtime.precision(artifact=tmp_path / "h")
    assert (audit.delivered, audit.weights) == ("fp16", {"float16": 48})
    array = np.random.default_rng(0).random((2, 4), np.float32)
    half = runtime.open(artifact=tmp_path / "h").run({"x": array})["y"]
    np.testing.assert_allclose(half, session.run({"x": array})["y"], rtol=2e-3)


def test_values_beyond_float16_stay(tmp_path: Path) -> None:
    made = network()
    large = (WEIGHTS.T * 1e6).astype(np.float32).tobytes()
    buffer = made.buffers[made.subgraphs[0].tensors[1].buffer]
    buffer.data = np.frombuffer(large, np.uint8)
    finished(tmp_path, made)
    with pytest.raises(StageError, match="no weights that float16 could store"):
        tflite_float16.to_float16(model=tmp_path, options={}, samples=None, out=tmp_path / "h")


def test_the_audit_goes_by_the_weights_of_arithmetic(tmp_path: Path) -> None:
    finished(tmp_path, network())
    audit = runtime.precision(artifact=tmp_path)
    assert (audit.delivered, audit.weights) == ("fp32", {"float32": 96})


def test_int8_without_samples_or_operators_is_refused(tmp_path: Path) -> None:
    finished(tmp_path, network())
    options = tflite_quantize.StaticOptions().model_dump()
    with pytest.raises(StageError, match="calibration samples"):
        tflite_quantize.to_int8(model=tmp_path, options=options, samples=None, out=tmp_path / "q")
    with pytest.raises(StageError, match="none of CONV_2D among FULLY_CONNECTED, RESHAPE"):
        tflite_quantize.to_int8(
            model=tmp_path, options={"operators": ["CONV_2D"]}, samples=tmp_path, out=tmp_path / "q"
        )


def test_inputs_that_do_not_fit_are_said(tmp_path: Path) -> None:
    session = finished(tmp_path, network())
    with pytest.raises(StageError, match=r"could not run the model on x \(2, 5\)"):
        session.run({"x": np.zeros((2, 5), np.float32)})


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(StageError, match="LiteRT cannot load"):
        runtime.open(artifact=tmp_path)


def test_a_result_is_no_constant(tmp_path: Path) -> None:
    model = network()
    graph = model.subgraphs[0]
    stale = schema.BufferT()
    stale.data = np.zeros(24, np.uint8)
    model.buffers.append(stale)
    product = next(tensor for tensor in graph.tensors if tensor.name == "p")
    product.buffer = len(model.buffers) - 1
    session = finished(tmp_path, model)
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(session.run({"x": array})["y"], expected(array), rtol=1e-5)
    made = files.read(tmp_path / FILE)
    computed = {index for operator in made.subgraphs[0].operators for index in operator.outputs}
    assert all(files.data_of(made, made.subgraphs[0].tensors[index]) is None for index in computed)


def test_all_operators_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="of LiteRT's int8 kernels some fail"):
        tflite_quantize.StaticOptions(operators="all")  # type: ignore[arg-type]
