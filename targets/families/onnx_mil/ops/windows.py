"""Padding of convolutions and pooling. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosscast.targets.families.onnx_mil.node import Node

AUTOMATIC = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a window moves over the spatial dimensions; `pads` in MIL's order: before and after each
    dimension in turn. same: MIL's name of the automatic padding, where the sizes that it depends
    on are not known.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    same: str = ""

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements the window spans in each dimension."""
        return tuple(
            (size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)
        )


def window_of(node: Node, kernel: Sequence[int], sizes: Sequence[Any]) -> Window:
    """The window that the attributes of a convolution or pooling describe.

    sizes: of the spatial dimensions: an int, or anything else where it is not known.
    """
    count = len(kernel)
    strides = tuple(node.attribute("strides", [1] * count))
    dilations = tuple(node.attribute("dilations", [1] * count))
    way = node.attribute("auto_pad", "NOTSET")
    given = node.attribute("pads", [0] * (2 * count))
    window = Window(kernel=tuple(kernel), strides=strides, dilations=dilations, pads=())
    same = ""
    if way == "NOTSET":
        pads = interleaved(given)
    elif way == "VALID":
        pads = (0,) * (2 * count)
    elif way not in AUTOMATIC:
        raise node.refused(f"attribute auto_pad={way} is not supported")
    elif all(isinstance(size, int) for size in sizes):
        pads = same_pads(sizes, strides, window.reach, lower=way == "SAME_LOWER")
    else:
        pads, same = (0,) * (2 * count), AUTOMATIC[way]
    if min(pads, default=0) < 0:
        raise node.refused(f"attribute pads={given}: negative padding is not supported")
    return Window(kernel=tuple(kernel), strides=strides, dilations=dilations, pads=pads, same=same)


def interleaved(pads: Sequence[int]) -> tuple[int, ...]:
    """ONNX's begins and ends, as before and after each dimension in turn."""
    half = len(pads) // 2
    return tuple(value for pair in zip(pads[:half], pads[half:], strict=True) for value in pair)


def same_pads(
    sizes: Sequence[int], strides: Sequence[int], reach: Sequence[int], *, lower: bool
) -> tuple[int, ...]:
    """The padding by which each dimension gets ceil(size / stride) windows."""
    pads: list[int] = []
    for size, stride, span in zip(sizes, strides, reach, strict=True):
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        small, large = total // 2, total - total // 2
        pads += (large, small) if lower else (small, large)
    return tuple(pads)


def ceil_pads(sizes: Sequence[int], window: Window) -> tuple[int, ...]:
    """What is to be added behind each dimension so that the last, incomplete window counts; one
    that would begin in the padding does not.
    """
    extra = []
    for axis, size in enumerate(sizes):
        before, after = window.pads[2 * axis : 2 * axis + 2]
        stride, span = window.strides[axis], window.reach[axis]
        windows = -(-(size + before + after - span) // stride) + 1
        if (windows - 1) * stride >= size + before:
            windows -= 1
        extra.append(max((windows - 1) * stride + span - (size + before + after), 0))
    return tuple(extra)
