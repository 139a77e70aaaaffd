"""How an image becomes an input, as the config declares it, and whether the input can be so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from crosscast.pipeline.config.fields import Model, problem
from crosscast.pipeline.preprocess import WHITE, Color, Fit, Interpolation, Preprocessing
from crosscast.pipeline.signature import Layout

RANGE_SLACK = 1e-6
"""Of a range's width: what float32 arithmetic may step over."""

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
FRACTION = re.compile(rf"\s*({NUMBER})\s*/\s*({NUMBER})\s*")


def _fraction(value: object) -> object:
    """The number that a text such as '1/255' stands for; anything else as it is."""
    match = FRACTION.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and (match is None or float(match[2]) == 0):
        raise problem("expected a number or a fraction such as '1/255', got {got}")
    return float(match[1]) / float(match[2]) if match else value


Side = Annotated[int, Field(ge=1, le=65_535)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Number = Annotated[
    FiniteFloat,
    BeforeValidator(_fraction),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": FRACTION.pattern}]}
    ),
]
Scale = Annotated[Number, Field(gt=0)]


class Preprocess(Model):
    """How an image becomes this input: decoded, turned as its EXIF says, brought to RGB or gray,
    resized, cropped; then x = (pixels * scale - mean) / std in float32, in the input's dtype and
    layout.
    """

    resize: Side | tuple[Side, Side] | None = Field(
        default=None,
        description="Length of the shorter side after resizing, or exactly [height, width].",
    )
    fit: Fit = Field(
        default="stretch",
        description="How an image of another aspect ratio gets to [height, width]: stretched, or "
        "scaled to fit, centred and padded (letterbox).",
    )
    pad: Annotated[int, Field(ge=0, le=WHITE)] = Field(
        default=0, description="Value of the pixels that letterbox pads with."
    )
    interpolation: Interpolation = Field(
        default="bilinear", description="Filter of the resizing, Pillow's; it is antialiased."
    )
    crop: Side | tuple[Side, Side] | None = Field(
        default=None, description="Side, or [height, width], of the crop about the centre."
    )
    color: Color = Field(default="rgb", description="Order of the channels.")
    scale: Scale = Field(
        default=1.0, description="What pixels (0 to 255) are multiplied by, such as '1/255'."
    )
    mean: Number | list[Number] | None = Field(
        default=None,
        description="What is subtracted after scaling: a number, or one for each channel in the "
        "order of `color`.",
    )
    std: Scale | list[Scale] | None = Field(
        default=None, description="What is divided by after that: a number, or one a channel."
    )

    @field_validator("mean", "std")
    @classmethod
    def _one_a_channel(cls, value: Any, info: ValidationInfo) -> Any:
        color = info.data.get("color", "rgb")
        wanted = 1 if color == "gray" else 3
        if isinstance(value, list) and len(value) != wanted:
            raise problem(f"expected {wanted} for {color}, or one number for all, got {{got}}")
        return value

    @field_validator("fit")
    @classmethod
    def _fits_a_size(cls, value: Fit, info: ValidationInfo) -> Fit:
        if value == "letterbox" and not isinstance(info.data.get("resize", ()), tuple):
            raise problem("letterbox needs 'resize: [height, width]'")
        return value

    @field_validator("crop")
    @classmethod
    def _within_the_resized(cls, value: Any, info: ValidationInfo) -> Any:
        resized = info.data.get("resize")
        if value is None or resized is None:
            return value
        small = any(a > b for a, b in zip(_pair(value), _pair(resized), strict=True))
        if small and (isinstance(resized, tuple) or max(_pair(value)) > resized):
            raise problem("{got} is more than 'resize' leaves of every image")
        return value

    def steps(self) -> Preprocessing:
        """As the stages take it."""
        return Preprocessing(
            resize=self.resize,
            fit=self.fit,
            pad=self.pad,
            interpolation=self.interpolation,
            crop=None if self.crop is None else _pair(self.crop),
            color=self.color,
            scale=self.scale,
            mean=_numbers(self.mean),
            std=_numbers(self.std),
        )


def image_layout(shape: Sequence[int | str], channels: int) -> Layout | None:
    """The layout of an image input that its shape tells; None where it could be either."""
    first, last = shape[1] == channels, shape[3] == channels
    if first == last:
        return None
    return "nchw" if first else "nhwc"


def misfit(
    steps: Preprocessing,
    *,
    shape: Sequence[int | str],
    dtype: str,
    layout: Layout | None,
    bounds: tuple[float, float] | None,
) -> str:
    """Why such an input cannot be what the steps give; empty where it can, as far as is known."""
    if len(shape) != 4:
        return f"only an input of 4 dimensions is an image, this one has {len(shape)}"
    if dtype in ("int8", "bool", "string"):
        return f"an image cannot become {dtype}; declare a float or uint8 input"
    if not dtype.startswith("float") and steps.is_arithmetic:
        return f"scale, mean and std need a float input, this one is {dtype}"
    return _misshapen(steps, shape, layout) or _out_of(bounds, steps.range(dtype))


def _misshapen(steps: Preprocessing, shape: Sequence[int | str], layout: Layout | None) -> str:
    found = layout or image_layout(shape, steps.channels)
    text = f"[{', '.join(map(str, shape))}]"
    channels, *sides = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}[found or "nchw"]
    if isinstance(shape[channels], int) and shape[channels] != steps.channels:
        return f"{steps.color} has {steps.channels} channels; the input's shape is {text}"
    wanted = [shape[axis] for axis in sides]
    made = steps.size() or ("any", "any")
    if any(isinstance(size, int) and size != got for size, got in zip(wanted, made, strict=True)):
        return (
            f"it gives images of {made[0]} x {made[1]}, the input's shape is {text}; "
            "make 'crop: [height, width]' or 'resize: [height, width]' what it takes"
        )
    return ""


def _out_of(bounds: tuple[float, float] | None, made: tuple[float, float]) -> str:
    low, high = made
    if bounds is None:
        return ""
    slack = RANGE_SLACK * max(bounds[1] - bounds[0], high - low)
    if low < bounds[0] - slack or high > bounds[1] + slack:
        return (
            f"it gives values from {low:.6g} to {high:.6g}, "
            f"which the input's range [{bounds[0]:g}, {bounds[1]:g}] does not hold"
        )
    return ""


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _numbers(value: float | list[float] | None) -> tuple[float, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
