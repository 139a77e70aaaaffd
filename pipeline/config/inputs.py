"""What goes into a model, as the config declares it: names, shapes, dtypes, ranges, layouts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator

from crosscast.pipeline.config.fields import NAME, Dtype, Model, problem
from crosscast.pipeline.signature import Layout, Tensor

BATCH_SIZES = (1, 4)
OTHER_SIZES = (1, 64)


def _dimension(size: int | str) -> int | str:
    if size in Input.model_fields:
        raise problem("{got} is a key of every input; give the dimension another name")
    return size


def _ordered_sizes(sizes: tuple[int, int]) -> tuple[int, int]:
    if sizes[0] > sizes[1]:
        raise problem("expected [least, greatest], got {got}")
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
Sizes = Annotated[tuple[Size, Size], AfterValidator(_ordered_sizes)]


class Input(Model):
    """One input. A dynamic dimension is a name in `shape`; a key of that name gives its
    [least, greatest] size (default: [1, 4] for 'batch' and for any first dimension, else [1, 64]).
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Sizes] = Field(init=False)

    shape: list[Dimension] = Field(
        description="Sizes of the dimensions, in order; a name stands for a dynamic one."
    )
    dtype: Dtype = Field(description="Element type, by numpy's name.")
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="[low, high] of the values that the model is made for."
    )
    layout: Layout | None = Field(
        default=None,
        description="Layout of a rank-4 image input; by default the source framework's own where "
        "the dtype is a float.",
    )

    @field_validator("range")
    @classmethod
    def _range_fits(
        cls, value: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        dtype = info.data.get("dtype")
        if value is None or dtype is None:
            return value
        if dtype == "bool":
            raise problem("a bool input has no range")
        if value[0] >= value[1]:
            raise problem("expected [low, high] with low below high, got {got}")
        least, greatest = _limits(dtype)
        if value[0] < least or value[1] > greatest:
            raise problem(f"not within [{least}, {greatest}] of {dtype}: {{got}}")
        return value

    @field_validator("layout")
    @classmethod
    def _layout_fits(cls, value: Layout | None, info: ValidationInfo) -> Layout | None:
        rank = len(info.data.get("shape", "nchw"))
        if value is not None and rank != 4:
            raise problem(f"only an input of 4 dimensions has a layout, this one has {rank}")
        return value

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """The declared [least, greatest] of dynamic dimensions, by name."""
        return self.__pydantic_extra__ or {}

    def tensor(self, name: str, *, layout: Layout) -> Tensor:
        """Under that name; `layout` is the source framework's own."""
        own = layout if len(self.shape) == 4 and self.dtype.startswith("float") else None
        return Tensor(
            name=name,
            shape=tuple(self.shape),
            dtype=self.dtype,
            layout=self.layout or own,
            range=self.range,
        )
