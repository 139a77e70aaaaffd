"""The precisions of the TFLite family on real networks, run by LiteRT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file
from test_tflite import (
    NETWORKS,
    SQUARE,
    Net,
    bilstm,
    classifier,
    detector,
    draw,
    encoder,
    export,
    floats,
    ids,
    volume,
)
from torch import nn

from crosscast.pipeline.errors import StageError
from crosscast.targets import tflite_int8, tflite_int8_dynamic
from crosscast.targets.families import (
    tflite_dynamic,
    tflite_file,
    tflite_hybrid,
    tflite_ports,
    tflite_quantize,
)

pytestmark = [
    pytest.mark.e2e,
    # the quantizer's calibration keeps all tensors, and the interpreter says so
    pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors:UserWarning"),
]

INT8_DB = 20.0
FIXED = {"image": floats(1, 3, 32, 32)}


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 8), nn.LeakyReLU(0.1), nn.Linear(8, 32), nn.Sigmoid())


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.MaxPool2d(3, 2, 1), nn.Hardswish(), nn.Conv2d(16, 8, 1)
    )


def read_further() -> nn.Module:
    """Outputs that matrix products read: a product's own and those of an operator in float; two of
    the products share their weights.
    """

    def run(net: Any, x: Any) -> Any:
        code = net["encode"](x)
        mean, spread = code.chunk(2, 1)
        return net["decode"](mean), mean, spread, code, net["decode"](spread), net["last"](code)

    return Net(run, encode=nn.Linear(32, 16), decode=nn.Linear(8, 32), last=nn.Linear(16, 4))


SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "classifier": (classifier, FIXED),
    "detector": (detector, FIXED),
    "pooled": (pooled, FIXED),
    "autoencoder": (autoencoder, {"x": floats(1, 32)}),
}
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bilstm": (bilstm, {"x": floats(1, 9, 12)}),
    "encoder": (encoder, {"ids": ids("batch", 16), "mask": ids("batch", 16)}),
    "volume": (volume, {"x": floats("batch", 2, 6, 8, 10)}),
    "classifier of any batch": (classifier, SQUARE),
    "read further": (read_further, {"x": floats("batch", 32)}),
}


def convert(name: str, path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fp32 file of a network, in a worker as builds make it."""
    from crosscast.pipeline.executors.local import LocalExecutor
    from crosscast.pipeline.executors.outcome import Limits, Task
    from crosscast.pipeline.stages import reference_to

    build, inputs = (SMALL | OTHERS)[name]
    monkeypatch.setitem(NETWORKS, name, (build, inputs))
    tree = path / "onnx"
    tree.mkdir()
    export(name, tree)
    with LocalExecutor(cache=overlays.parent) as executor:
        executor.submit(
            Task(
                id="convert",
                module="crosscast.pipeline.stages.convert",
                toolchain=tflite_int8.toolchain["onnx"],
                inputs={"model": tree},
                options={"function": reference_to(tflite_int8.convert), "options": {}},
                out=path / "whole",
                log=path / "log",
                limits=Limits(timeout=300, memory=4 * 1024**3),
            )
        )
        done = None
        while done is None:
            done = executor.wait(300)
    assert done.status == "ok", done.message
    return path / "whole"


def samples(path: Path, inputs: dict[str, Any], count: int = 8) -> Path:
    path.mkdir()
    cases = []
    for index in range(count):
        save_file(draw(inputs, {"batch": 1}, 100 + index), path / f"{index}.safetensors")
        cases.append({"name": str(index), "origin": "real", "file": f"{index}.safetensors"})
    (path / "cases.json").write_text(json.dumps(cases))
    return path


def wanted(path: Path, arrays: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(path / "onnx/model.onnx").run(None, arrays))


def decibels(reference: Any, found: Any) -> float:
    error = np.square(reference.astype(np.float64) - found).mean()
    return math.inf if error == 0 else 10 * math.log10(np.square(reference).mean() / error)


@pytest.mark.parametrize("io", ["int8", "uint8"])
@pytest.mark.parametrize("name", SMALL)
def test_every_operator_in_int8(
    name: str, io: str, tmp_path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(name, tmp_path, overlays, monkeypatch)
    inputs = SMALL[name][1]
    tflite_quantize.to_int8(
        model=whole,
        options={"io": io},
        samples=samples(tmp_path / "samples", inputs),
        out=tmp_path / "out",
    )
    session = tflite_int8.open(artifact=tmp_path / "out")
    arrays = draw(inputs, {"batch": 1}, 7)
    given = {}
    for tensor in session.inputs:
        assert tensor.dtype == io
        assert tensor.quantization
        scale, zero = tensor.quantization
        info = np.iinfo(io)
        steps = np.rint(arrays[tensor.name] / scale) + zero
        given[tensor.name] = np.clip(steps, info.min, info.max).astype(io)
    found = session.run(given)
    for tensor, reference in zip(session.outputs, wanted(tmp_path, arrays), strict=True):
        assert tensor.dtype == io
        assert tensor.quantization
        scale, zero = tensor.quantization
        value = (found[tensor.name].astype(np.float32) - zero) * scale
        assert decibels(reference, value) >= INT8_DB


def test_outputs_that_are_read_further_stay_float(
    tmp_path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert("read further", tmp_path, overlays, monkeypatch)
    inputs = OTHERS["read further"][1]
    calibration = samples(tmp_path / "samples", inputs)
    tflite_quantize.to_int8(model=whole, options={}, samples=calibration, out=tmp_path / "out")
    session = tflite_int8.open(artifact=tmp_path / "out")
    declared = tflite_int8.open(artifact=whole)
    assert (session.inputs, session.outputs) == (declared.inputs, declared.outputs)
    arrays = draw(inputs, {"batch": 2}, 7)
    found = session.run(arrays)
    assert tflite_int8.precision(artifact=tmp_path / "out").delivered == "int8"
    for value, reference in zip(found.values(), wanted(tmp_path, arrays), strict=True):
        assert value.dtype == np.float32
        assert decibels(reference, value) >= INT8_DB


def relu(dtype: str) -> Any:
    """y = relu(x), of int8 numbers in steps of 1/16 or of floats."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    model.subgraphs, graph.tensors = [graph], []
    editor = tflite_file.Editor(model, graph)
    kind = tflite_file.tensor_type(dtype)
    graph.inputs, graph.outputs = (
        [editor.tensor("x", kind, [-1, 4])],
        [editor.tensor("y", kind, [-1, 4])],
    )
    if dtype == "int8":
        for tensor in graph.tensors:
            tensor.quantization = tflite_file.quantization([1 / 16], 0)
    graph.operators = [editor.operator("RELU", graph.inputs, graph.outputs[0], version=2)]
    return model


def test_int8_ports_of_a_float_model_become_float(tmp_path: Path) -> None:
    whole, made = relu("float32"), relu("int8")
    tflite_ports.keep_floats(made, whole)
    tflite_ports.restore_ports(made, whole)
    tflite_file.write(made, tmp_path / "model.tflite")
    session = tflite_int8.open(artifact=tmp_path)
    for tensor, name in zip((*session.inputs, *session.outputs), "xy", strict=True):
        assert (tensor.name, tensor.dtype, tensor.shape[1:]) == (name, "float32", (4,))
    x = np.array([[-1, 0.5, 1, 2], [3, -2, 0, 0.25]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))


def test_operators_that_stay_in_float_are_named(
    tmp_path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert("bilstm", tmp_path, overlays, monkeypatch)
    calibration = samples(tmp_path / "samples", OTHERS["bilstm"][1])
    with pytest.raises(StageError, match="remain in float: BIDIRECTIONAL_SEQUENCE_LSTM"):
        tflite_quantize.to_int8(
            model=whole, options={"io": "int8"}, samples=calibration, out=tmp_path / "out"
        )


@pytest.mark.parametrize("name", OTHERS)
def test_int8_weights_need_no_samples(
    name: str, tmp_path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(name, tmp_path, overlays, monkeypatch)
    tflite_hybrid.to_int8(model=whole, options={}, samples=None, out=tmp_path / "out")
    assert tflite_int8_dynamic.precision(artifact=tmp_path / "out").delivered == "int8"
    arrays = draw(OTHERS[name][1], {"batch": 2}, 7)
    found = tflite_int8_dynamic.open(artifact=tmp_path / "out").run(arrays)
    for value, reference in zip(found.values(), wanted(tmp_path, arrays), strict=True):
        assert decibels(reference, value) >= INT8_DB


def test_weights_of_another_scale_are_seen(
    tmp_path: Path, overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert("encoder", tmp_path, overlays, monkeypatch)
    tflite_hybrid.to_int8(model=whole, options={}, samples=None, out=tmp_path / "out")
    made = tflite_file.read(tmp_path / "out/model.tflite")
    for tensor in made.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.scale = np.asarray(tensor.quantization.scale) * 1.2
    tflite_file.write(made, tmp_path / "out/model.tflite")
    arrays = draw(OTHERS["encoder"][1], {"batch": 2}, 7)
    found = tflite_int8_dynamic.open(artifact=tmp_path / "out").run(arrays)
    references = wanted(tmp_path, arrays)
    assert decibels(references[0], next(iter(found.values()))) < INT8_DB


def test_nothing_to_quantize_is_said(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.subgraphs = [graph]
    with pytest.raises(StageError, match="nothing that could be quantized"):
        tflite_dynamic.quantize_weights(model)
