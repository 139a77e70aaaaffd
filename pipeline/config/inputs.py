"""What goes into a model, as the config declares it: names, shapes, dtypes, ranges, layouts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator

from crosscast.pipeline.config.fields import Dtype, Model, problem
from crosscast.pipeline.config.names import NAME
from crosscast.pipeline.config.preprocess import Preprocess, image_layout, misfit
from crosscast.pipeline.signature import STRING, Layout, Tensor

BATCH_SIZES = (1, 4)
OTHER_SIZES = (1, 64)


def _dimension(size: int | str) -> int | str:
    if size in Input.model_fields:
        raise problem("{got} is a key of every input; give the dimension another name")
    return size


def _ordered_sizes(sizes: list[int]) -> list[int]:
    if sizes[0] > sizes[1]:
        raise problem("expected [least, greatest], got {got}")
    if any(size % step for step in sizes[2:] for size in sizes[:2]):
        raise problem("expected [least, greatest, step] with multiples of the step, got {got}")
    return sizes


FLOAT_LIMITS = {
    "float16": 65504.0,
    "float32": (2 - 2**-23) * 2.0**127,
    "float64": sys.float_info.max,
}


def _limits(dtype: str) -> tuple[float, float]:
    """The least and greatest value of a numeric dtype, without the time that numpy takes."""
    if dtype in FLOAT_LIMITS:
        return -FLOAT_LIMITS[dtype], FLOAT_LIMITS[dtype]
    bits = int(dtype.strip("uint"))
    if dtype.startswith("u"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


Size = Annotated[int, Field(ge=1)]
DimensionName = Annotated[str, Field(pattern=NAME)]
Dimension = Annotated[Size | DimensionName, AfterValidator(_dimension)]
Sizes = Annotated[list[Size], Field(min_length=2, max_length=3), AfterValidator(_ordered_sizes)]


class Input(Model):
    """One input. A dynamic dimension is a name in `shape`; a key of that name gives its
    [least, greatest] size (default: [1, 4] for 'batch' and for any first dimension, else [1, 64]),
    or [least, greatest, step] where sizes have to be multiples of a step.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Sizes] = Field(init=False)

    shape: list[Dimension] = Field(
        description="Sizes of the dimensions, in order; a name stands for a dynamic one."
    )
    dtype: Dtype = Field(description="Element type, by numpy's name, or 'string'.")
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="[low, high] of the values that the model is made for."
    )
    values: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="Strings that made inputs are drawn from; by default a few neutral words.",
    )
    layout: Layout | None = Field(
        default=None,
        description="Layout of a rank-4 image input; by default the source framework's own where "
        "the dtype is a float, and with `preprocess` what the place of the channels tells.",
    )
    preprocess: Preprocess | None = Field(
        default=None, description="How an image becomes this input."
    )

    fed_by: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Output that gives this input its value in the next call (a state, as of a "
        "recurrent model on a stream); artifacts are then run step after step on their own state.",
    )

    @field_validator("range")
    @classmethod
    def _range_fits(
        cls, value: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        dtype = info.data.get("dtype")
        if value is None or dtype is None:
            return value
        if dtype in ("bool", STRING):
            more = "; 'values' lists what it takes" if dtype == STRING else ""
            raise problem(f"a {dtype} input has no range{more}")
        if value[0] >= value[1]:
            raise problem("expected [low, high] with low below high, got {got}")
        least, greatest = _limits(dtype)
        if value[0] < least or value[1] > greatest:
            raise problem(f"not within [{least}, {greatest}] of {dtype}: {{got}}")
        return value

    @field_validator("values")
    @classmethod
    def _values_fit(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value is not None and info.data.get("dtype", STRING) != STRING:
            raise problem("only a string input has values; a number has a 'range'")
        if value is not None and any("\0" in text for text in value):
            raise problem("a string cannot hold a NUL character: {got}")
        return value

    @field_validator("layout")
    @classmethod
    def _layout_fits(cls, value: Layout | None, info: ValidationInfo) -> Layout | None:
        rank = len(info.data.get("shape", "nchw"))
        if value is not None and rank != 4:
            raise problem(f"only an input of 4 dimensions has a layout, this one has {rank}")
        return value

    @field_validator("preprocess")
    @classmethod
    def _preprocess_fits(cls, value: Preprocess | None, info: ValidationInfo) -> Preprocess | None:
        given = info.data
        if value is not None and {"shape", "dtype", "range", "layout"} <= given.keys():
            wrong = misfit(
                value.steps(),
                shape=given["shape"],
                dtype=given["dtype"],
                layout=given["layout"],
                bounds=given["range"],
            )
            if wrong:
                raise problem(wrong)
        return value

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """The declared [least, greatest] of dynamic dimensions, by name."""
        declared = (self.__pydantic_extra__ or {}).items()
        return {name: (sizes[0], sizes[1]) for name, sizes in declared}

    def steps(self) -> Mapping[str, int]:
        """What the sizes of dimensions have to be multiples of, by name, where it is declared."""
        declared = (self.__pydantic_extra__ or {}).items()
        return {name: sizes[2] for name, sizes in declared if len(sizes) > 2}

    def tensor(self, name: str, *, layout: Layout) -> Tensor:
        """Under that name; `layout` is the source framework's own."""
        own = layout if len(self.shape) == 4 and self.dtype.startswith("float") else None
        bounds = self.range
        if self.preprocess is not None:
            steps = self.preprocess.steps()
            own = image_layout(self.shape, steps.channels) or layout
            bounds = bounds or steps.range(self.dtype)
        return Tensor(
            name=name,
            shape=tuple(self.shape),
            dtype=self.dtype,
            layout=self.layout or own,
            range=bounds,
            values=None if self.values is None else tuple(self.values),
            fed_by=self.fed_by,
        )
