"""ONNX graphs as ML Programs: the saved packages, run by the evaluator, against ONNX Runtime and
against the cases of ONNX's own suite.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets import coreml_fp16 as target
from crosscast.targets.families import coreml, coreml_convert
from crosscast.targets.families.coreml_describe import About, describe
from crosscast.targets.families.onnx_mil import convert as onnx_mil

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
coremltools = pytest.importorskip("coremltools")
pytest.importorskip("torch")  # which the evaluator computes with
helper = onnx.helper
value = helper.make_tensor_value_info

RNG = np.random.default_rng(0)
CASES = {
    "argmax": ["test_argmax_keepdims_random_select_last_index"],
    "averagepool": ["test_averagepool_2d_ceil", "test_averagepool_2d_dilations",
                    "test_averagepool_2d_pads_count_include_pad"],
    "batch_normalization": ["test_batchnorm_example"],
    "convtranspose": ["test_convtranspose_output_shape", "test_convtranspose_pad"],
    "cumsum": ["test_cumsum_1d_reverse_exclusive"],
    "depthtospace": ["test_depthtospace_example"],
    "einsum": ["test_einsum_batch_matmul"],
    "gru": ["test_gru_with_initial_bias", "test_gru_batchwise"],
    "gatherelements": ["test_gather_elements_negative_indices"],
    "groupnormalization": ["test_group_normalization_example"],
    "lstm": ["test_lstm_batchwise"],
    "logsoftmax": ["test_logsoftmax_large_number"],
    "maxpool": ["test_maxpool_2d_ceil", "test_maxpool_2d_dilations"],
    "mod": ["test_mod_mixed_sign_float64", "test_mod_int64_fmod", "test_mod_mixed_sign_int8"],
    "onehot": ["test_onehot_negative_indices"],
    "pad": ["test_edge_pad", "test_wrap_pad"],
    "prelu": ["test_prelu_broadcast"],
    "rnn": ["test_simple_rnn_batchwise"],
    "reduce_log_sum_exp": ["test_reduce_log_sum_exp_negative_axes_keepdims_random"],
    "resize": ["test_resize_upsample_sizes_cubic",
               "test_resize_upsample_sizes_nearest_round_prefer_ceil_asymmetric"],
    "scatterelements": ["test_scatter_elements_with_reduction_min"],
    "slice": ["test_slice_neg_steps"],
    "split": ["test_split_variable_parts_1d_opset18"],
    "topk": ["test_top_k_smallest"],
}  # fmt: skip
"""Of ONNX's suite: those in which attributes, modes and dtypes go wrong most easily, by
its modules."""


def saved(model: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder


def package(tree: Path, signature: Signature, inputs: Sequence[Any] = ()) -> Any:
    """The session of the fp32 package of a tree."""
    types = inputs or coreml_convert._inputs(onnx_mil.input_tensors(signature))
    made = onnx_mil.converted(
        tree, signature, inputs=types, minimum="iOS16",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT32,
    )  # fmt: skip
    made.save(str(tree / coreml.MODEL))
    coreml_convert.normalise(tree / coreml.MODEL, lambda spec: describe(spec, signature, About()))
    return coreml.evaluated(artifact=tree)


def fed(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        for name, array in arrays.items()
    }


def expected(tree: Path, arrays: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        str(tree / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, arrays))


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[str], **held: Any) -> Any:
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in held.items()]
    ports = [value(name, 1, None) for name in outputs]
    inner = helper.make_graph(list(nodes), "g", list(inputs), ports, weights)
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def signature(*tensors: tuple[str, tuple[int | str, ...], str], **dims: Any) -> Signature:
    inputs = tuple(Tensor(name=name, shape=shape, dtype=dtype) for name, shape, dtype in tensors)
    return Signature(inputs=inputs, dims=dims)


def suite(module: str) -> dict[str, Any]:
    """The cases that one module of the suite makes as it is imported."""
    node = importlib.import_module("onnx.backend.test.case.node")
    importlib.import_module(f"{node.__name__}.{module}")
    return {case.name: case for case in node._NodeTestCases}


@pytest.mark.parametrize("name", [name for names in CASES.values() for name in names])
def test_the_suite_of_onnx(name: str, tmp_path: Path) -> None:
    module = next(key for key, names in CASES.items() if name in names)
    case = suite(module)[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ((inputs, outputs),) = case.data_sets
    given = dict(zip((port.name for port in model.graph.input), inputs, strict=True))
    first = next(iter(given))
    held = [onnx.numpy_helper.from_array(one, key) for key, one in given.items() if key != first]
    model.graph.initializer.extend(held)
    del model.graph.input[1:]
    array = np.asarray(given[first])
    declared = signature((first, array.shape, array.dtype.name))
    got = package(saved(model, tmp_path / "tree"), declared).run(fed({first: array}))
    for found, wanted in zip(got.values(), outputs, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(
            found.astype(np.float64), wanted.astype(np.float64), rtol=2e-3, atol=1e-5
        )


def test_dynamic_sizes_and_any_names_are_kept(tmp_path: Path) -> None:
    """Of the shipped target: fp16 inside, names that MIL does not have, sizes from Shape."""
    nodes = [
        helper.make_node("Shape", ["in/0"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "zero", "two"], ["lead"]),
        helper.make_node("Concat", ["lead", "split"], ["heads"], axis=0),
        helper.make_node("Reshape", ["in/0", "heads"], ["wide"]),
        helper.make_node("Transpose", ["wide"], ["moved"], perm=[0, 2, 1, 3]),
        helper.make_node("Softmax", ["moved"], ["state"]),
    ]
    held = {"zero": np.array([0]), "two": np.array([2]), "split": np.array([2, 4])}
    model = graph(nodes, [value("in/0", 1, ["batch", "steps", 8])], ["state"], **held)
    tree = saved(model, tmp_path / "tree")
    declared = signature(("in/0", ("batch", "steps", 8), "float32"), batch=(1, 4), steps=(1, 16))
    text = coreml_convert.json.dumps(
        Signature(
            inputs=declared.inputs,
            outputs=(Tensor(name="state", shape=("batch", 2, "steps", 4), dtype="float32"),),
            dims=declared.dims,
        ).to_json()
    )
    (tree / "signature.json").write_text(text)
    target.convert(model=tree, options={}, out=tmp_path / "out")
    again = tmp_path / "again"
    target.convert(model=tree, options={}, out=again)
    for path in sorted((tmp_path / "out").rglob("*")):
        same = again / path.relative_to(tmp_path / "out")
        assert path.is_dir() or path.read_bytes() == same.read_bytes()
    session = coreml.evaluated(artifact=tmp_path / "out")
    assert session.inputs == declared.inputs
    assert target.precision(artifact=tmp_path / "out").delivered == "fp16"
    for shape in ((1, 1, 8), (3, 5, 8)):
        x = RNG.normal(size=shape).astype(np.float32)
        (wanted,) = expected(tree, {"in/0": x})
        got = session.run({"in/0": x})["state"]
        assert got == pytest.approx(wanted, abs=2e-3)


def test_values_have_the_names_of_the_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["/body/Mul_output_0"]),
        helper.make_node("Split", ["/body/Mul_output_0"], ["half", "other"], num_outputs=2, axis=1),
        helper.make_node("Add", ["half", "other"], ["y"]),
    ]
    held = {"factor": np.array([2, 3, 4, 5], np.float32)}
    made = graph(nodes, [value("x", 1, [1, 4])], ["y"], **held)
    tree = saved(made, tmp_path / "tree")
    package(tree, signature(("x", (1, 4), "float32")))
    (block,) = coreml.spec_of(tree).mlProgram.functions["main"].block_specializations.values()
    found = {port.name for operation in block.operations for port in operation.outputs}
    assert {"_body_Mul_output_0", "half", "other", "y"} <= found


def test_enumerated_sizes(tmp_path: Path) -> None:
    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    tree = saved(graph(nodes, [value("x", 1, [1, 3, "h", "w"])], ["y"], w=weight), tmp_path / "t")
    sizes = coremltools.EnumeratedShapes(shapes=[(1, 3, 8, 8), (1, 3, 16, 12)])
    declared = signature(("x", (1, 3, "h", "w"), "float32"), h=(8, 16), w=(8, 12))
    session = package(tree, declared, [coremltools.TensorType(name="x", shape=sizes)])
    for shape in ((1, 3, 8, 8), (1, 3, 16, 12)):
        x = RNG.normal(size=shape).astype(np.float32)
        assert session.run({"x": x})["y"] == pytest.approx(expected(tree, {"x": x})[0], abs=1e-5)


def test_more_dimensions_than_core_ml_has_between_two_reshapes(tmp_path: Path) -> None:
    """How windows are cut out of an image."""
    nodes = [
        helper.make_node("Reshape", ["x", "six"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["b", "four"], ["y"]),
    ]
    held = {"six": np.array([-1, 2, 4, 2, 4, 3]), "four": np.array([-1, 4, 4, 3])}
    tree = saved(graph(nodes, [value("x", 1, ["n", 8, 8, 3])], ["y"], **held), tmp_path / "t")
    x = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    session = package(tree, signature(("x", ("n", 8, 8, 3), "float32"), n=(1, 4)))
    assert np.array_equal(session.run({"x": x})["y"], expected(tree, {"x": x})[0])


def conditional() -> Any:
    def branch(name: str, operator: str) -> Any:
        node = helper.make_node(operator, ["x", "two"], [f"{name}_y"])
        return helper.make_graph([node], name, [], [value(f"{name}_y", 1, None)])

    branches = {"then_branch": branch("a", "Mul"), "else_branch": branch("b", "Sub")}
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    held = {"two": np.float32([2]), "zero": np.float32(0)}
    return graph(nodes, [value("x", 1, [4])], ["y"], **held)


def doubling() -> Any:
    """Doubles until the sum is above 100, five times at most."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "v"], ["w"]),
            helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "hundred"], ["still"]),
        ],
        "body",
        [value("i", 7, []), value("going", 9, []), value("v", 1, [4])],
        [value("still", 9, []), value("w", 1, [4])],
    )
    nodes = [helper.make_node("Loop", ["n", "start", "x"], ["y"], body=body)]
    held = {"n": np.int64(5), "start": np.array(True), "hundred": np.float32(100)}
    return graph(nodes, [value("x", 1, [4])], ["y"], **held)


@pytest.mark.parametrize("make", [conditional, doubling])
@pytest.mark.parametrize("scale", [0.5, -3.0, 20.0])
def test_control_flow(make: Any, scale: float, tmp_path: Path) -> None:
    tree = saved(make(), tmp_path / "tree")
    x = np.full(4, scale, np.float32)
    got = package(tree, signature(("x", (4,), "float32"))).run({"x": x})["y"]
    assert got == pytest.approx(expected(tree, {"x": x})[0])


@pytest.mark.parametrize("way", ["forward", "bidirectional"])
def test_a_gru_over_a_sequence_of_any_length(way: str, tmp_path: Path) -> None:
    ways = 2 if way == "bidirectional" else 1
    held = {
        "w": RNG.normal(size=(ways, 9, 5)), "r": RNG.normal(size=(ways, 9, 3)),
        "b": RNG.normal(size=(ways, 18)),
    }  # fmt: skip
    node = helper.make_node(
        "GRU", ["x", "w", "r", "b"], ["y", "h"], hidden_size=3, direction=way,
        linear_before_reset=1,
    )  # fmt: skip
    held = {name: array.astype(np.float32) for name, array in held.items()}
    tree = saved(graph([node], [value("x", 1, ["s", 2, 5])], ["y", "h"], **held), tmp_path / "t")
    session = package(tree, signature(("x", ("s", 2, 5), "float32"), s=(1, 32)))
    for steps in (1, 7):
        x = RNG.normal(size=(steps, 2, 5)).astype(np.float32)
        got = session.run({"x": x})
        for name, wanted in zip(got, expected(tree, {"x": x}), strict=True):
            assert got[name] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "regressor", "linear", "boosted"])
def test_scikit_learn(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = RNG.normal(size=(80, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int) + (x[:, 2] > 1)
    made = {
        "classifier": RandomForestClassifier(7, max_depth=5, random_state=0),
        "regressor": RandomForestRegressor(7, max_depth=5, random_state=0),
        "linear": make_pipeline(StandardScaler(), LogisticRegression()),
        "boosted": GradientBoostingClassifier(n_estimators=5, random_state=0),
    }[kind].fit(x, y)
    types = [("x", skl2onnx.common.data_types.FloatTensorType([None, 6]))]
    options = {"zipmap": False} if hasattr(made, "predict_proba") else None
    model = skl2onnx.to_onnx(made, initial_types=types, options=options, target_opset=18)
    tree = saved(model, tmp_path / "tree")
    session = package(tree, signature(("x", ("n", 6), "float32"), n=(1, 80)))
    for found, wanted in zip(session.run({"x": x}).values(), expected(tree, {"x": x}), strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


def test_what_core_ml_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "where"], "pool", kernel_shape=[2, 2])]
    tree = saved(graph(nodes, [value("x", 1, [1, 1, 4, 4])], ["y", "where"]), tmp_path / "tree")
    with pytest.raises(StageError, match=r"operator MaxPool \(layer pool\): its indices are used"):
        package(tree, signature(("x", (1, 1, 4, 4), "float32")))
