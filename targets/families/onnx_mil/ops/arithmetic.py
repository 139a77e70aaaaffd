"""Arithmetic, of floats and of integers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.activations import plain
from crosscast.targets.families.onnx_mil.values import axis_of, cast, kind, known, rank

SMALL = {"uint8": (0, 256), "int8": (128, 256), "uint16": (0, 65536), "int16": (32768, 65536)}
"""Integers that MIL holds as int32: what is added before the remainder of what is taken."""

WIDE = ("uint32", "uint64")
CASTS = {
    "float16": "fp32", "float32": "fp32", "float64": "fp32",
    "int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32",
    "int32": "int32", "int64": "int32", "bool": "bool",
}  # fmt: skip
"""The dtypes of MIL for numpy's."""


def wrapped(node: Node, value: Operand, dtype: str) -> Operand:
    """An integer result as its ONNX dtype has it, which overflows sooner than int32."""
    if dtype in WIDE:
        raise node.refused(f"{dtype} arithmetic, which Core ML has not", "use int64 instead")
    if dtype not in SMALL:
        return value
    shift, modulus = SMALL[dtype]
    shifted = node.mb.add(x=value, y=np.int32(shift)) if shift else value
    remainder = node.mb.mod(x=shifted, y=np.int32(modulus))
    return node.mb.sub(x=remainder, y=np.int32(shift)) if shift else remainder


def binary(name: str) -> Operator:
    """An operator of two operands, with broadcasting, which MIL has under `name`."""

    def lowered(node: Node) -> Operand:
        made = getattr(node.mb, name)(x=node.x(0), y=node.x(1))
        return wrapped(node, made, node.dtype())

    return lowered


def divide(node: Node) -> Operand:
    """Of floats; of integers, towards zero."""
    x, y = node.x(0), node.x(1)
    if kind(x) == "fp32":
        return node.mb.real_div(x=x, y=y)
    if node.dtype() in WIDE:
        raise node.refused(f"{node.dtype()} arithmetic, which Core ML has not")
    if node.dtype() in ("uint8", "uint16") or (_is_size(x) and known(y) and np.all(y > 0)):
        return node.mb.floor_div(x=x, y=y)
    whole = node.mb.floor_div(x=node.mb.abs(x=x), y=node.mb.abs(x=y))
    return node.mb.mul(x=whole, y=node.mb.mul(x=node.mb.sign(x=x), y=node.mb.sign(x=y)))


def modulo(node: Node) -> Operand:
    """The remainder: of the divisor's sign, or with fmod=1 of the dividend's."""
    mb, x, y = node.mb, node.x(0), node.x(1)
    if node.dtype() in WIDE:
        raise node.refused(f"{node.dtype()} arithmetic, which Core ML has not")
    if not node.attribute("fmod", 0):
        return mb.mod(x=x, y=y)
    if known(x):
        x = mb.const(val=x)
    return mb.mul(x=mb.sign(x=x), y=mb.mod(x=mb.abs(x=x), y=mb.abs(x=y)))


def power(node: Node) -> Operand:
    """X to the power of y, in the dtype of x."""
    mb, x, y = node.mb, node.x(0), node.x(1)
    dtype = kind(x)
    if known(y) and y.size == 1 and float(y.reshape(-1)[0]) == 2:
        return wrapped(
            node, mb.mul(x=x, y=x) if rank(y) <= rank(x) else mb.pow(x=x, y=y), node.dtype()
        )
    if dtype == "fp32":
        exponent = y.astype(np.float32) if known(y) else cast(node, y, "fp32")
        return mb.pow(x=x, y=exponent)
    if kind(y) == dtype:
        return wrapped(node, mb.pow(x=x, y=y), node.dtype())
    raised = mb.pow(x=_float(node, x), y=_float(node, y))
    return wrapped(node, cast(node, raised, dtype), node.dtype())


def several(name: str) -> Operator:
    """An operator of any number of operands, with broadcasting."""

    def lowered(node: Node) -> Operand:
        made = reduce(lambda x, y: getattr(node.mb, name)(x=x, y=y), node.every())
        if known(made) or len(node) == 1:
            return node.mb.identity(x=made)
        return wrapped(node, made, node.dtype())

    return lowered


def mean(node: Node) -> Operand:
    """The mean of the operands."""
    total = reduce(lambda x, y: node.mb.add(x=x, y=y), node.every())
    return node.mb.real_div(x=total, y=np.float32(len(node)))


def of_integers(name: str) -> Operator:
    """An operator of one operand that MIL has under `name`, for integers too."""

    def lowered(node: Node) -> Operand:
        return wrapped(node, getattr(node.mb, name)(x=node.x()), node.dtype())

    return lowered


def negative(node: Node) -> Operand:
    """-x."""
    minus = np.float32(-1) if kind(node.x()) == "fp32" else np.int32(-1)
    return wrapped(node, node.mb.mul(x=node.x(), y=minus), node.dtype())


def reciprocal(node: Node) -> Operand:
    """1 / x; MIL's own `inverse` adds an epsilon."""
    return node.mb.real_div(x=np.float32(1), y=node.x())


def logarithm(node: Node) -> Operand:
    """log(x), without the epsilon that MIL would add."""
    return node.mb.log(x=node.x(), epsilon=np.float32(0))


def arc_sinh(node: Node) -> Operand:
    """sign(x) · log(|x| + sqrt(x² + 1))."""
    mb, size = node.mb, node.mb.abs(x=node.x())
    root = mb.sqrt(x=mb.add(x=mb.square(x=size), y=np.float32(1)))
    made = mb.log(x=mb.add(x=size, y=root), epsilon=np.float32(0))
    return mb.mul(x=mb.sign(x=node.x()), y=made)


def arc_cosh(node: Node) -> Operand:
    """log(x + sqrt(x² - 1))."""
    mb, x = node.mb, node.x()
    root = mb.sqrt(x=mb.sub(x=mb.square(x=x), y=np.float32(1)))
    return mb.log(x=mb.add(x=x, y=root), epsilon=np.float32(0))


def clip(node: Node) -> Operand:
    """Between two bounds, each of them optional."""
    x = node.x(0)
    low = node.x(1) if node.has(1) else None
    high = node.x(2) if node.has(2) else None
    fixed = [one for one in (low, high) if one is not None]
    if kind(x) == "fp32" and len(fixed) == 2 and all(known(one) and one.size == 1 for one in fixed):
        alpha, beta = (np.float32(one.reshape(-1)[0]) for one in fixed)
        if np.isfinite(alpha) and np.isfinite(beta) and alpha <= beta:
            return node.mb.clip(x=x, alpha=alpha, beta=beta)
    made = x
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            made = getattr(node.mb, name)(x=made, y=bound)
    return node.mb.identity(x=x) if made is x else made


def to_dtype(node: Node) -> Operand:
    """Cast: towards zero from floats to integers; not 0 is True."""
    from onnx import helper

    node.ignore("saturate", "round_mode")  # of float8, which is refused
    wanted = helper.tensor_dtype_to_np_dtype(node.attribute("to")).name
    return _cast(node, wanted)


def to_its_dtype(node: Node) -> Operand:
    """CastLike: to the dtype of the second operand."""
    node.ignore("saturate", "round_mode")
    return _cast(node, node.dtype(1))


def cumulative(node: Node) -> Operand:
    """CumSum along one axis."""
    x = node.x()
    axis = axis_of(node, node.ints(1, "axis")[0], rank(x))
    made = node.mb.cumsum(
        x=x,
        axis=axis,
        exclusive=bool(node.attribute("exclusive", 0)),
        reverse=bool(node.attribute("reverse", 0)),
    )
    return wrapped(node, made, node.dtype())


def _cast(node: Node, wanted: str) -> Operand:
    x, dtype = node.x(), CASTS.get(wanted)
    if dtype is None:
        raise node.refused(f"to {wanted}, which Core ML has not")
    if node.dtype() not in (*CASTS, ""):
        raise node.refused(f"from {node.dtype()}, which Core ML has not")
    if dtype == "bool" and kind(x) != "bool":
        zero = np.float32(0) if kind(x) == "fp32" else np.int32(0)
        return node.mb.not_equal(x=x, y=zero)
    if kind(x) == dtype:
        return wrapped(node, node.mb.identity(x=x), _narrower(node.dtype(), wanted))
    return wrapped(node, node.mb.cast(x=x, dtype=dtype), _narrower(node.dtype(), wanted))


def _narrower(found: str, wanted: str) -> str:
    """The dtype that a cast has to be wrapped to; empty where every value fits."""
    if wanted not in SMALL or found == wanted or found in ("", "bool"):
        return ""
    fits = found in SMALL and np.can_cast(found, wanted)
    return "" if fits else wanted


def _float(node: Node, value: Operand) -> Any:
    return value.astype(np.float32) if known(value) else cast(node, value, "fp32")


def _is_size(value: Operand) -> bool:
    """Whether a value is made of sizes, which are positive."""
    return not known(value) and value.sym_val is not None


TABLE: Mapping[str, Operator] = {
    "Abs": of_integers("abs"),
    "Acos": plain("acos"),
    "Acosh": arc_cosh,
    "Add": binary("add"),
    "Asin": plain("asin"),
    "Asinh": arc_sinh,
    "Atan": plain("atan"),
    "Atanh": plain("atanh"),
    "Cast": to_dtype,
    "CastLike": to_its_dtype,
    "Ceil": plain("ceil"),
    "Clip": clip,
    "Cos": plain("cos"),
    "Cosh": plain("cosh"),
    "CumSum": cumulative,
    "Div": divide,
    "Erf": plain("erf"),
    "Exp": plain("exp"),
    "Floor": plain("floor"),
    "Log": logarithm,
    "Max": several("maximum"),
    "Mean": mean,
    "Min": several("minimum"),
    "Mod": modulo,
    "Mul": binary("mul"),
    "Neg": negative,
    "Pow": power,
    "Reciprocal": reciprocal,
    "Round": plain("round"),
    "Sign": of_integers("sign"),
    "Sin": plain("sin"),
    "Sinh": plain("sinh"),
    "Sqrt": plain("sqrt"),
    "Sub": binary("sub"),
    "Sum": several("add"),
    "Tan": plain("tan"),
}
