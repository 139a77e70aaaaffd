"""The key `release`: where releases go, who signs them, how far one may fall behind the last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationInfo,
    WithJsonSchema,
)

from crosscast.pipeline.config.devices import Profile
from crosscast.pipeline.config.fields import Model, problem
from crosscast.pipeline.config.names import CHANNEL
from crosscast.pipeline.config.schedule import Hooks, ScheduleOrCron

PEM = "-----BEGIN "
"""How a key begins that is given itself, in place of its file."""

PERCENT = r"^([0-9]+(?:\.[0-9]+)?) ?%$"


def _share(value: object) -> object:
    """The number that "5%" stands for."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(PERCENT, value, re.ASCII)
    if match is None:
        raise problem("expected a share such as '5%' or 0.05, got {got}")
    return float(match[1]) / 100


def _from_config(place: str, info: ValidationInfo) -> str:
    """A path as an absolute one, seen from the config's directory; a url or key as it is."""
    if not place or not info.context or "://" in place or place.startswith(PEM):
        return place
    return str(Path(info.context["path"]).parent / place)


Share = Annotated[
    FiniteFloat,
    Field(ge=0),
    BeforeValidator(_share),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": PERCENT}]}
    ),
]
Place = Annotated[str, AfterValidator(_from_config)]


class Gates(Model):
    """How far a release may fall behind the one before it, target by target. `null` leaves a
    quantity out; what vanishes or changes in the interface is never left out.
    """

    max_size_growth: Share | None = Field(
        default=0.05, description="Growth of the model's files, as a share: 5% or 0.05."
    )
    max_latency_growth: Share | None = Field(
        default=0.1,
        description="Growth of the time of a call, as a share, measured in turns with the release "
        "before in one process; refused only where the noise of the measurement cannot explain it.",
    )
    max_snr_drop_db: Annotated[FiniteFloat, Field(ge=0)] | None = Field(
        default=3.0,
        description="Drop of an output's worst signal-to-noise ratio, in dB; 3 dB is noise of "
        "twice the power.",
    )
    max_metric_drop: Annotated[FiniteFloat, Field(ge=0)] | None = Field(
        default=0.01,
        description="Drop of the score on labelled samples, in the metric's own unit.",
    )


class ReleasePolicy(Model):
    """Where releases go, who signs them, and what is asked of them."""

    registry: Place = Field(
        default="",
        description="Where releases are published: a directory, or the url of a registry; default "
        "only where artifacts are written.",
    )
    channel: str | None = Field(
        default=None,
        pattern=CHANNEL,
        description="Channel that names a new release at once, such as beta.",
    )
    key: Place = Field(
        default="",
        description="Private key that signs, which `crosscast keygen` makes: a PEM file, or its "
        "text from a variable, such as ${RELEASE_KEY:-}; default unsigned.",
    )
    schedule: ScheduleOrCron | None = Field(
        default=None,
        description="When `crosscast schedule` releases the model by itself: a cron expression, "
        "or more.",
    )
    hooks: Hooks = Field(default=Hooks(), description="Who is told how a release has ended.")
    gates: Gates = Field(default=Gates(), description="Limits against the release before this one.")
    devices: dict[str, Profile] = Field(
        default={},
        description="Devices of your own, by name, which come with the release: whoever pulls it "
        "names them as those that everybody has.",
    )
