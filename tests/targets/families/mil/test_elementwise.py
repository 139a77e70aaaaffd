"""Elementwise operators, activations, normalizations and reductions against torch."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from crosscast.pipeline.errors import Unproven

torch = pytest.importorskip("torch")
functional = torch.nn.functional
table = pytest.importorskip("crosscast.targets.families.mil.ops.table")


def op(name: str, opset: int = 15, **arguments: Any) -> Any:
    return table.operator(name, opset).function(**arguments)


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted), atol=tolerance, rtol=tolerance)


X = torch.tensor([-2.5, -1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 1.5, 2.5])


@pytest.mark.parametrize(
    "name",
    [
        "abs",
        "atan",
        "ceil",
        "cos",
        "cosh",
        "erf",
        "exp",
        "exp2",
        "floor",
        "round",
        "sign",
        "sin",
        "sinh",
        "square",
        "tan",
        "tanh",
    ],
)
def test_unary(name: str) -> None:
    close(op(name, x=X), getattr(torch, name)(X))


def test_halves_round_to_even() -> None:
    assert op("round", x=X).tolist() == [-2, -2, 0, 0, 0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "default", "wanted"),
    [
        ("inverse", 1e-4, lambda x: 1 / x),
        ("log", 1e-45, torch.log),
        ("rsqrt", 1e-12, torch.rsqrt),
    ],
)
def test_what_is_added_for_stability(name: str, default: float, wanted: Any) -> None:
    x = torch.tensor([0.5, 1.0, 3.0])
    close(op(name, x=x), wanted(x + default))
    close(op(name, x=x, epsilon=0.5), wanted(x + 0.5))


def test_bounds() -> None:
    close(op("clip", x=X, alpha=-1.0, beta=2.0), X.clamp(-1, 2))
    close(op("threshold", x=X, alpha=0.25), X.clamp(min=0.25))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("int32", [-2, -1, 0, 0, 0, 0, 0, 1, 2]),
        ("bool", [True, True, True, True, False, True, True, True, True]),
        ("uint8", [254, 255, 0, 0, 0, 0, 0, 1, 2]),
    ],
)
def test_cast(dtype: str, wanted: list[Any]) -> None:
    assert op("cast", x=X, dtype=dtype).tolist() == wanted


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(Unproven, match="evaluator has no cast with dtype 'fp8'"):
        op("cast", x=X, dtype="fp8")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("add", torch.add),
        ("sub", torch.sub),
        ("mul", torch.mul),
        ("real_div", torch.div),
        ("floor_div", torch.floor_divide),
        ("mod", torch.remainder),
        ("pow", torch.pow),
        ("maximum", torch.maximum),
        ("minimum", torch.minimum),
        ("equal", torch.eq),
        ("not_equal", torch.ne),
        ("greater", torch.gt),
        ("greater_equal", torch.ge),
        ("less", torch.lt),
        ("less_equal", torch.le),
    ],
)
def test_binary_broadcasts(name: str, wanted: Any) -> None:
    x, y = torch.tensor([[1.5, -2.0, 3.0]]), torch.tensor([[2.0], [-1.0], [3.0]])
    close(op(name, x=x, y=y), wanted(x, y))


def test_integers_divide_and_take_remainders_as_python_does() -> None:
    x, y = torch.tensor([7, -7, 7, -7], dtype=torch.int32), torch.tensor([2, 2, -2, -2])
    assert op("floor_div", x=x, y=y).tolist() == [3, -4, -4, 3]
    assert op("mod", x=x, y=y).tolist() == [1, 1, -1, -1]


def test_quotients_of_integers_are_refused_where_they_are_not_told() -> None:
    y = torch.tensor([2, 2])
    assert op("real_div", x=torch.tensor([7, -8]), y=y).tolist() == [3, -4]
    with pytest.raises(Unproven, match="evaluator has no real_div with a quotient of integers"):
        op("real_div", x=torch.tensor([7, -7]), y=y)


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logical(name: str) -> None:
    x, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    wanted = getattr(torch, f"logical_{name}")(x, y)
    close(op(f"logical_{name}", x=x, y=y), wanted)


ACTIVATIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "relu": ({}, torch.relu),
    "relu6": ({}, functional.relu6),
    "elu": ({"alpha": 0.7}, lambda x: functional.elu(x, 0.7)),
    "leaky_relu": ({"alpha": 0.1}, lambda x: functional.leaky_relu(x, 0.1)),
    "clamped_relu": (
        {"alpha": 0.1, "beta": 1.0},
        lambda x: functional.leaky_relu(x, 0.1).clamp(max=1),
    ),
    "linear_activation": ({"alpha": 2.0, "beta": 1.0}, lambda x: 2 * x + 1),
    "scaled_tanh": ({"alpha": 2.0, "beta": 0.5}, lambda x: 2 * torch.tanh(0.5 * x)),
    "sigmoid": ({}, torch.sigmoid),
    "sigmoid_hard": ({"alpha": 0.2, "beta": 0.5}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "silu": ({}, functional.silu),
    "softplus": ({}, functional.softplus),
    "softsign": ({}, functional.softsign),
    "thresholded_relu": ({"alpha": 0.5}, lambda x: torch.where(x >= 0.5, x, 0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    arguments, wanted = ACTIVATIONS[name]
    close(op(name, x=X, **arguments), wanted(X))


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("EXACT", functional.gelu),
        ("TANH_APPROXIMATION", lambda x: functional.gelu(x, approximate="tanh")),
        ("SIGMOID_APPROXIMATION", lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_gelu(mode: str, wanted: Any) -> None:
    close(op("gelu", x=X, mode=mode), wanted(X))


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_activations_by_channel(rank: int) -> None:
    x = torch.randn(2, 3, *[4, 2, 3][: rank - 2])
    alpha, beta = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5])
    close(op("prelu", x=x, alpha=alpha), functional.prelu(x, alpha))
    along = (3, *[1] * (rank - 2))
    wanted = alpha.reshape(along) * functional.softplus(beta.reshape(along) * x)
    close(op("softplus_parametric", x=x, alpha=alpha, beta=beta), wanted)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_softmax(axis: int) -> None:
    x = torch.randn(3, 4, 5)
    close(op("softmax", x=x, axis=axis), x.softmax(axis))


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_batch_norm(rank: int) -> None:
    x = torch.randn(2, 3, *[4, 2, 3][: rank - 2])
    mean, variance, gamma, beta = torch.randn(3), torch.rand(3), torch.randn(3), torch.randn(3)
    given = {"mean": mean, "variance": variance, "epsilon": 1e-3}
    close(op("batch_norm", x=x, **given), functional.batch_norm(x, mean, variance, eps=1e-3))
    wanted = functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)
    close(op("batch_norm", x=x, gamma=gamma, beta=beta, **given), wanted)


@pytest.mark.parametrize("rank", [3, 4])
def test_instance_norm(rank: int) -> None:
    x, gamma, beta = torch.randn(2, 3, *[4, 5][: rank - 2]), torch.randn(3), torch.randn(3)
    found = op("instance_norm", x=x, gamma=gamma, beta=beta, epsilon=1e-2)
    close(found, functional.instance_norm(x, weight=gamma, bias=beta, eps=1e-2))


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 1e-1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_layer_norm(count: int, epsilon: float) -> None:
    x = torch.randn(2, 3, 4, 5)
    shape = x.shape[-count:]
    gamma, beta = torch.randn(shape), torch.randn(shape)
    axes = list(range(-count, 0))
    found = op("layer_norm", x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    close(found, functional.layer_norm(x, shape, gamma, beta, epsilon))


def test_layer_norm_over_axes_in_the_middle() -> None:
    x, gamma = torch.randn(2, 3, 4), torch.randn(3)
    wanted = functional.layer_norm(x.mT, (3,), gamma).mT
    close(op("layer_norm", x=x, axes=[1], gamma=gamma), wanted)


def test_l2_norm_is_over_the_last_three_axes() -> None:
    x = torch.randn(2, 2, 3, 4, 5)
    wanted = x / (x.square().flatten(2).sum(-1)[..., None, None, None] + 0.5).sqrt()
    close(op("l2_norm", x=x, epsilon=0.5), wanted)


@pytest.mark.parametrize(("rank", "size"), [*product((4, 5), (2, 3, 4, 5))])
def test_local_response_norm(rank: int, size: int) -> None:
    x = torch.randn(2, 6, *[4, 5, 3][: rank - 2])
    given = {"size": size, "alpha": 0.5, "beta": 0.75, "k": 2.0}
    wanted = functional.local_response_norm(x, size, 0.5, 0.75, 2.0)
    close(op("local_response_norm", x=x, **given), wanted)
    if rank == 4:
        close(op("local_response_norm", x=x[0], **given), wanted[0])


REDUCTIONS: dict[str, Any] = {
    "reduce_l1_norm": lambda x, a, k: x.abs().sum(a, k),
    "reduce_l2_norm": lambda x, a, k: torch.linalg.vector_norm(x, dim=a, keepdim=k),
    "reduce_log_sum": lambda x, a, k: x.sum(a, k).log(),
    "reduce_log_sum_exp": lambda x, a, k: x.logsumexp(a, k),
    "reduce_max": lambda x, a, k: x.amax(a, k),
    "reduce_mean": lambda x, a, k: x.mean(a, k),
    "reduce_min": lambda x, a, k: x.amin(a, k),
    "reduce_sum": lambda x, a, k: x.sum(a, k),
    "reduce_sum_square": lambda x, a, k: x.square().sum(a, k),
}


@pytest.mark.parametrize("axes", [[0], [1, -1], [0, 1, 2], None])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str, axes: list[int] | None, keep: bool) -> None:
    x = torch.rand(2, 3, 4) + 0.1
    wanted = REDUCTIONS[name](x, axes or [0, 1, 2], keep)
    close(op(name, x=x, axes=axes, keep_dims=keep), wanted)


def test_reduce_prod() -> None:
    x = torch.randn(2, 3, 4)
    close(op("reduce_prod", x=x, axes=[0, -1]), x.prod(2).prod(0))
    close(op("reduce_prod", x=x, keep_dims=True), x.prod().reshape(1, 1, 1))


@pytest.mark.parametrize(("name", "axis"), [*product(("argmax", "argmin"), (0, 1, -1))])
def test_reduction_to_places(name: str, axis: int) -> None:
    x = torch.randn(3, 4, 5)
    found = op(f"reduce_{name}", x=x, axis=axis, keep_dims=True)
    close(found, getattr(torch, name)(x, axis, True))


@pytest.mark.parametrize(("left", "right"), [*product((False, True), (False, True))])
def test_matmul_transposes_matrices_and_no_vectors(left: bool, right: bool) -> None:
    x, y, z = torch.randn(2, 3, 4), torch.randn(4, 5), torch.randn(4)
    given_x, given_y = (x.mT if left else x), (y.mT if right else y)
    close(op("matmul", x=given_x, y=given_y, transpose_x=left, transpose_y=right), x @ y)
    close(op("matmul", x=given_x, y=z, transpose_x=left, transpose_y=right), x @ z)


def test_linear() -> None:
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    close(op("linear", x=x, weight=weight, bias=bias), functional.linear(x, weight, bias))


def test_integers_among_floats_are_multiplied_as_floats() -> None:
    x, weight = torch.tensor([[0.5, 1.5]]), torch.tensor([[2, 4]], dtype=torch.int32)
    close(op("linear", 17, x=x, weight=weight, bias=torch.tensor([1])), [[8.0]])
    close(op("matmul", 17, x=weight, y=x, transpose_y=True), [[7.0]])


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchu", "a b c d , a d c e -> a b c e"])
def test_einsum(equation: str) -> None:
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 5, 4, 6)
    wanted = torch.einsum("nchw,nwhu->nchu", x, y)
    close(op("einsum", values=[x, y], equation=equation), wanted)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention(mask: str | None) -> None:
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
    given = {"bool": torch.rand(4, 5) > 0.3, "float": torch.randn(4, 5), None: None}[mask]
    given = given | (torch.arange(5) == 0) if mask == "bool" else given
    found = op("scaled_dot_product_attention", 18, query=q, key=k, value=v, attn_mask=given)
    close(found, functional.scaled_dot_product_attention(q, k, v, given))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantize_rounds_halves_to_even_and_saturates(dtype: str) -> None:
    x = torch.tensor([[-300.0, 0.25, 0.75], [1.25, 300.0, math.pi]])
    scale, point = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1, 2, 3])
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    given = {"scale": scale, "zero_point": point, "axis": 1}
    found = op("quantize", 17, input=x, output_dtype=dtype, **given)
    close(found, ((x / scale).round() + point).clamp(low, high))
    close(op("dequantize", 17, input=found, **given), (found - point) * scale)


def test_scalars_quantize_as_torch_does() -> None:
    x = torch.randn(4, 5)
    wanted = torch.fake_quantize_per_tensor_affine(x, 0.02, 3, -128, 127)
    given = {"scale": torch.tensor(0.02), "zero_point": torch.tensor(3)}
    found = op("quantize", 17, input=x, output_dtype="int8", **given)
    close(op("dequantize", 17, input=found, **given), wanted)
