"""Resize.

By MIL's own operators where these sample as is asked for, otherwise as what it is: a gathering of
elements along each axis, or a product with a matrix of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import (
    axis_of,
    cast,
    elements,
    kind,
    moved,
    rank,
    shape,
)

SAMPLING = {
    "half_pixel": "UNALIGN_CORNERS",
    "pytorch_half_pixel": "UNALIGN_CORNERS",
    "align_corners": "STRICT_ALIGN_CORNERS",
    "asymmetric": "DEFAULT",
}
"""MIL's names of the ways of its linear interpolation."""

COORDINATES = (*SAMPLING, "half_pixel_symmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
DYNAMIC = (
    "set minimum: iOS17, which resizes to sizes that are computed, declare the sizes of the inputs "
    "as fixed, or remove this target"
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the output's coordinates are the input's, and what is between its elements."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    outside: bool


def resize(node: Node) -> Operand:
    """Resize of a tensor along any of its axes."""
    node.only("extrapolation_value", 0.0)
    way = _way(node)
    x = node.x(0)
    axes = node.attribute("axes", list(range(rank(x))))
    axes = [axis_of(node, axis, rank(x)) for axis in axes]
    dtype = kind(x)
    if dtype != "fp32" and way.mode != "nearest":
        raise node.refused(f"{way.mode} interpolation of {node.dtype()} numbers")
    if node.has(3) and not _settled(node, x, axes):
        return _to_computed(node, cast(node, x, "fp32"), way, axes)
    targets = _targets(node, x, axes)
    if node.attribute("antialias", 0) and any(scale < 1 for _, scale in targets.values()):
        raise node.refused("attribute antialias=1 is not supported where sizes shrink")
    _require_agreement(node, x, way, targets)
    targets = {axis: target for axis, target in targets.items() if not _same(x, axis, target)}
    if not targets:
        return node.mb.identity(x=x)
    if dtype == "fp32":
        made = _native(node, x, way, targets)
        if made is not None:
            return made
    for axis, (length, scale) in targets.items():
        found = shape(x)[axis]
        if not isinstance(found, int) or not isinstance(length, int):
            raise node.refused(
                f"attribute coordinate_transformation_mode={way.coordinates} with mode={way.mode} "
                "of a size that is only known as the model runs",
                DYNAMIC,
            )
        x = _along(node, x, axis, found, length, scale, way)
    return x


def _require_agreement(
    node: Node, x: Operand, way: Way, targets: Mapping[int, tuple[Any, float]]
) -> None:
    """Raise StageError where ONNX's reference and ONNX Runtime differ: with scales that give no
    whole size, one aligns the corners of the exact size, the other those of the rounded one.
    """
    for axis, (length, scale) in targets.items():
        found = shape(x)[axis]
        aligned = way.coordinates == "align_corners" and isinstance(length, int)
        if aligned and length != found * scale:
            raise node.refused(
                f"attribute coordinate_transformation_mode=align_corners with a scale of {scale} "
                f"of {found} elements, which runtimes take differently",
                "give sizes instead of scales",
            )


def positions(found: int, length: int, scale: float, coordinates: str) -> Any:
    """Where each element of the output lies in the input."""
    at = np.arange(length, dtype=np.float64)
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "align_corners":
        return at * (found - 1) / (length - 1) if length > 1 else np.zeros(1)
    if coordinates == "pytorch_half_pixel" and length == 1:
        return np.zeros(1)
    middle = (at + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        middle += found / 2 * (1 - length / (scale * found))
    return middle


def nearest(places: Any, found: int, way: str) -> Any:
    """The element next to each place."""
    rounded = {
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
        "floor": np.floor(places),
        "ceil": np.ceil(places),
    }[way]
    return np.clip(rounded, 0, found - 1).astype(np.int32)


def weights(places: Any, found: int, way: Way) -> Any:
    """What each element of the input adds to each of the output: [found, length]."""
    base = np.floor(places)
    part = places - base
    if way.mode == "linear":
        taps = {0: 1 - part, 1: part}
    else:
        taps = {step: _cubic(np.abs(part - step), way.cubic) for step in (-1, 0, 1, 2)}
    result = np.zeros((found, len(places)), np.float64)
    columns = np.arange(len(places))
    for step, weight in taps.items():
        at = (base + step).astype(np.int64)
        inside = (at >= 0) & (at < found)
        kept = np.where(inside, weight, 0.0) if way.outside else weight
        np.add.at(result, (np.clip(at, 0, found - 1), columns), kept)
    if way.outside:
        result /= result.sum(axis=0)
    return result.astype(np.float32)


def _cubic(distance: Any, a: float) -> Any:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _way(node: Node) -> Way:
    way = Way(
        mode=node.attribute("mode", "nearest"),
        coordinates=node.attribute("coordinate_transformation_mode", "half_pixel"),
        nearest=node.attribute("nearest_mode", "round_prefer_floor"),
        cubic=node.attribute("cubic_coeff_a", -0.75),
        outside=bool(node.attribute("exclude_outside", 0)),
    )
    if way.mode not in ("nearest", "linear", "cubic"):
        raise node.refused(f"attribute mode={way.mode} is not supported")
    if way.coordinates not in COORDINATES:
        raise node.refused(
            f"attribute coordinate_transformation_mode={way.coordinates} is not supported"
        )
    if way.nearest not in NEAREST:
        raise node.refused(f"attribute nearest_mode={way.nearest} is not supported")
    return way


def _targets(node: Node, x: Operand, axes: list[int]) -> dict[int, tuple[Any, float]]:
    """The size and the scale of each axis; no size where that of the input is not known."""
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    found = [shape(x)[axis] for axis in axes]
    if node.has(3):
        wanted = elements(node.operand(3)) or []
        scales = [
            1.0 if length == one else length / one
            for length, one in zip(wanted, found, strict=True)
        ]
        if policy != "stretch":
            if policy not in ("not_larger", "not_smaller"):
                raise node.refused(f"attribute keep_aspect_ratio_policy={policy} is not supported")
            shared = min(scales) if policy == "not_larger" else max(scales)
            scales = [shared] * len(scales)
            wanted = [int(np.floor(shared * one + 0.5)) for one in found]
        return dict(zip(axes, zip(wanted, scales, strict=True), strict=True))
    scales = [float(one) for one in np.ravel(node.constant(2, "scales"))]
    lengths = [
        int(np.floor(one * scale)) if isinstance(one, int) else None
        for one, scale in zip(found, scales, strict=True)
    ]
    return dict(zip(axes, zip(lengths, scales, strict=True), strict=True))


def _settled(node: Node, x: Operand, axes: list[int]) -> bool:
    """Whether the sizes are known: each a number, or that which the input has."""
    wanted = elements(node.operand(3))
    return wanted is not None and all(
        one == shape(x)[axis] or (isinstance(one, int) and isinstance(shape(x)[axis], int))
        for one, axis in zip(wanted, axes, strict=True)
    )


def _same(x: Operand, axis: int, target: tuple[Any, float]) -> bool:
    length, scale = target
    return scale == 1 and (length is None or length == shape(x)[axis])


def _native(
    node: Node, x: Operand, way: Way, targets: Mapping[int, tuple[Any, float]]
) -> Operand | None:
    """By MIL's operators for the last two axes; None where they do something else."""
    dims = rank(x)
    if dims < 3 or dims > 5 or set(targets) - {dims - 1, dims - 2}:
        return None
    lengths, scales = zip(
        *(targets.get(axis, (shape(x)[axis], 1.0)) for axis in (dims - 2, dims - 1)), strict=True
    )
    whole = all(scale == int(scale) for scale in scales)
    rounds = way.nearest.startswith("round") and way.coordinates.endswith("half_pixel")
    floors = way.nearest == "floor" and way.coordinates == "asymmetric"
    if way.mode == "nearest" and whole and (rounds or floors):
        return node.mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=int(scales[0]), scale_factor_width=int(scales[1])
        )
    if way.mode != "linear" or way.coordinates not in SAMPLING or way.outside:
        return None
    sizes = shape(x)[-2:]
    if not all(isinstance(one, int) for one in (*lengths, *sizes)):
        return _scaled(node, x, way, scales)
    exact = all(
        scale * size == length for scale, size, length in zip(scales, sizes, lengths, strict=True)
    )
    alone = way.coordinates == "pytorch_half_pixel" and 1 in lengths
    if alone or (not exact and way.coordinates != "align_corners"):
        return None
    return node.mb.resize_bilinear(
        x=x,
        target_size_height=lengths[0],
        target_size_width=lengths[1],
        sampling_mode=SAMPLING[way.coordinates],
    )


def _scaled(node: Node, x: Operand, way: Way, scales: tuple[float, ...]) -> Operand | None:
    """Linear, of sizes that are not known: by whole factors, as MIL takes the factor anew from the
    sizes.
    """
    if any(scale != int(scale) for scale in scales) or way.coordinates == "asymmetric":
        return None
    return node.mb.upsample_bilinear(
        x=x,
        scale_factor_height=int(scales[0]),
        scale_factor_width=int(scales[1]),
        align_corners=way.coordinates == "align_corners",
    )


def _along(
    node: Node, x: Operand, axis: int, found: int, length: int, scale: float, way: Way
) -> Operand:
    places = positions(found, length, scale, way.coordinates)
    if way.mode == "nearest":
        chosen = nearest(places, found, way.nearest)
        return node.mb.gather(x=x, indices=chosen, axis=axis)
    matrix, dims = weights(places, found, way), rank(x)
    if axis == dims - 2:
        return node.mb.matmul(x=np.ascontiguousarray(matrix.T), y=x)
    order = [at for at in range(dims) if at != axis] + [axis]
    back = [order.index(at) for at in range(dims)]
    return moved(node, node.mb.matmul(x=moved(node, x, order), y=matrix), back)


def _to_computed(node: Node, x: Operand, way: Way, axes: list[int]) -> Operand:
    """To sizes that the model computes: iOS 17 has an operator for it."""
    dims = rank(x)
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    node.only("antialias", 0)
    if way.coordinates == "pytorch_half_pixel":
        raise node.refused(
            "attribute coordinate_transformation_mode=pytorch_half_pixel to computed sizes, of "
            "which one may be 1",
            "declare the sizes of the inputs as fixed, export the model with scale factors, or "
            "remove this target",
        )
    if (
        way.mode != "linear"
        or way.coordinates not in SAMPLING
        or way.outside
        or policy != "stretch"
    ):
        raise node.refused(f"mode={way.mode}, coordinates {way.coordinates}, to computed sizes")
    if node.system < 17:
        raise node.refused("to sizes that the model computes, before iOS 17", DYNAMIC)
    if axes not in (list(range(dims)), [dims - 2, dims - 1]):
        raise node.refused(f"attribute axes={axes} is not supported with computed sizes")
    wanted = node.x(3)
    if len(axes) == dims:
        wanted = node.mb.slice_by_index(x=wanted, begin=[dims - 2], end=[dims])
    return node.mb.resize(
        x=x,
        shape=wanted,
        resized_dims=np.uint32(2),
        interpolation_mode="LINEAR",
        sampling_mode=SAMPLING[way.coordinates],
    )


TABLE: Mapping[str, Operator] = {"Resize": resize}
