"""Element by element: unary and binary operators."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor, unknown

INTEGERS = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
FLOATS = ("fp16", "fp32", "fp64")


def _unary(compute: Op) -> Op:
    def unary(*, x: Tensor) -> Tensor:
        return compute(x)

    return unary


def inverse(*, x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


def log(*, x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return (x + epsilon).log()


def rsqrt(*, x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return (x + epsilon).rsqrt()


def threshold(*, x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


def clip(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def cast(*, x: Tensor, dtype: str) -> Tensor:
    """Floats lose their fraction; bits of integers beyond the dtype's are cut off."""
    if dtype in FLOATS:
        return x.float()
    if dtype == "bool":
        return x != 0
    if dtype not in INTEGERS:
        raise unknown("cast", "dtype", dtype)
    if dtype in ("int32", "int64"):
        return x.to(getattr(torch, dtype))
    low, high = INTEGERS[dtype]
    return (x.to(torch.int64) - low) % (high - low + 1) + low


def real_div(*, x: Tensor, y: Tensor) -> Tensor:
    """Integers give the quotient without its fraction; to which side, below zero, is not told."""
    if x.is_floating_point():
        return x / y
    down = torch.div(x, y, rounding_mode="floor")
    if not torch.equal(down, torch.div(x, y, rounding_mode="trunc")):
        raise unknown("real_div", "a quotient of integers", "below zero, with a fraction")
    return down


def power(*, x: Tensor, y: Tensor) -> Tensor:
    return x.pow(y) if x.is_floating_point() else x.double().pow(y.double())


def _logical(compute: Op) -> Op:
    def logical(*, x: Tensor, y: Tensor) -> Tensor:
        return compute(x.bool(), y.bool())

    return logical


def _binary(compute: Op) -> Op:
    def binary(*, x: Tensor, y: Tensor) -> Tensor:
        return compute(x, y)

    return binary


UNARY = (
    "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor",
    "round", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
)  # fmt: skip
"""Those that torch has by the same name; `round` takes halves to the even number."""

BINARY: Mapping[str, Op] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
}
LOGICAL: Mapping[str, Op] = {
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

OPS: Mapping[str, Op | Since] = {
    **{name: _unary(getattr(torch, name)) for name in UNARY},
    **{name: _binary(compute) for name, compute in BINARY.items()},
    **{name: _logical(compute) for name, compute in LOGICAL.items()},
    "logical_not": _unary(torch.logical_not),
    "inverse": inverse,
    "log": log,
    "rsqrt": rsqrt,
    "threshold": threshold,
    "clip": clip,
    "cast": cast,
    "real_div": real_div,
    "pow": power,
}
