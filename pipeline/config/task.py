"""The config's section `task`: what the model is for, measured on labelled samples."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from crosscast.pipeline.config.fields import Model, SampleSet, existing_code, problem
from crosscast.pipeline.config.names import CODE, did_you_mean
from crosscast.pipeline.parity.task import METRIC, SHARES


def _known(value: str, info: ValidationInfo) -> str:
    if re.fullmatch(CODE, value):
        return existing_code(value, info)
    if not re.fullmatch(METRIC, value):
        named = ["top-1", "top-5", "mean-absolute-error", "cosine-ranking", "words"]
        hint = did_you_mean(value, named)
        raise problem(f"expected {', '.join(named)} or 'file.py:function', got {{got}}{hint}")
    return value


Metric = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "pattern": f"{METRIC}|{CODE}"})
]


class Task(Model):
    """What artifacts are worth at the model's task, against the source, on labelled samples."""

    samples: SampleSet = Field(
        description="'file.py:function' that yields (inputs, label), an .npz with an array `label` "
        "beside the inputs, or a folder of images with a sub-folder for each class; other samples "
        "than those of `calibration`."
    )
    metric: Metric = Field(
        description="How a sample is scored: top-1, top-5 (or any top-K), mean-absolute-error, "
        "words (1 - word error rate), cosine-ranking (whether the nearest other embedding has the "
        "same label), or 'file.py:function' of a function(outputs, label) that gives a number, "
        "the higher the better."
    )
    output: str | None = Field(
        default=None, description="Name of the output that is scored; default the first."
    )
    max_drop: Annotated[FiniteFloat, Field(gt=0)] = Field(
        description="How much worse than the source an artifact may be, in the metric's unit; for "
        "top-K, words and cosine-ranking a share, such as 0.01."
    )
    confidence: Annotated[FiniteFloat, Field(ge=0.5, lt=1)] = Field(
        default=0.95,
        description="Confidence of the interval of the drop, all of which must be accepted.",
    )

    @field_validator("max_drop")
    @classmethod
    def _share(cls, value: float, info: ValidationInfo) -> float:
        if value >= 1 and re.fullmatch(SHARES, info.data.get("metric", "")):
            raise problem("expected a share below 1, such as 0.01 for one in a hundred, got {got}")
        return value
