"""What an artifact is worth at its task, held against what its source is worth. Pure.

Source and artifact are scored on the same labelled samples, each sample by itself, and higher is
better. The drop is the mean of source - artifact, with an interval that the truth is in with a
certain confidence: all of it must lie within what is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Self

from crosscast.pipeline.parity.intervals import enough, interval

if TYPE_CHECKING:
    from crosscast.pipeline.parity.samples import Case

SHARES = r"^(top-[1-9][0-9]{0,5}|cosine-ranking|words)$"
"""Metrics whose scores are shares of 1."""

UNBOUNDED = "mean-absolute-error"
METRIC = rf"{SHARES}|^{UNBOUNDED}$"
"""Those that have a name."""

SCORES = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """metric, output, classes: how a sample is scored, see `scores`.

    max_drop: how much worse the artifact may be, in the metric's unit. confidence: of the interval.
    """

    metric: str
    output: str | None
    classes: Sequence[str]
    max_drop: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled samples, and what the source scores on each.

    sha256: of the samples and their labels.
    """

    cases: Callable[[], Iterator[Case]]
    source: Sequence[float]
    sha256: str
    accepted: Accepted


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What was found on `samples` labelled ones.

    source, artifact: mean scores; an error is a negative score. drop: source - artifact, between
    `low` and `high` with `confidence`, by `method`; None where nothing is known of it.
    share: whether scores are shares of 1.
    needed: about how many samples would decide; None where these do, or no number would.
    sha256: of the samples and their labels.
    """

    metric: str
    output: str | None
    samples: int
    source: float
    artifact: float
    drop: float
    low: float | None
    high: float | None
    method: str
    confidence: float
    max_drop: float
    share: bool
    needed: int | None
    sha256: str

    @property
    def status(self) -> Literal["passed", "failed", "unverified"]:
        """Whether the drop is accepted, is not, or cannot be told."""
        if self.low is None or self.high is None:
            return "unverified"
        if self.high <= self.max_drop:
            return "passed"
        return "failed" if self.low > self.max_drop else "unverified"

    @property
    def reason(self) -> str:
        """In words."""
        if self.status == "unverified":
            return self._undecided()
        end = "" if self.status == "passed" else "; quantize less, or keep more of it in float"
        return f"{self.line}{end}"

    @property
    def line(self) -> str:
        """The numbers."""
        drop, most = self._text(self.drop), self._text(self.max_drop)
        return (
            f"{self.metric} is {self._text(self.artifact)} on {self.samples} labelled samples,"
            f" the source's {self._text(self.source)}: a drop of {drop}{self._ends()}, at most"
            f" {most} is accepted"
        )

    def _ends(self) -> str:
        if self.low is None or self.high is None:
            return ""
        low, high = self._text(self.low), self._text(self.high)
        return f" ({low} to {high} with {100 * self.confidence:.4g} % confidence)"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form, its numbers rounded to what does not change from run to run."""
        rounded = {
            key: float(f"{value:.5g}") + 0.0 if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }
        return {"status": self.status, **rounded}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{key: entry for key, entry in value.items() if key != "status"})

    def _undecided(self) -> str:
        if self.low is None or self.high is None:
            same = self._text(self.source)
            return f"{self.metric} is {same} on every labelled sample: that tells nothing of others"
        low, high, most = map(self._text, (self.low, self.high, self.max_drop))
        told = (
            f"{self.metric}: {self.samples} labelled samples cannot tell a drop of {low} from one"
            f" of {high}, and at most {most} is accepted"
        )
        least = f"accept a max_drop of {_up(self.high):g}"
        return (
            f"{told}: about {self.needed} would, or {least}" if self.needed else f"{told}; {least}"
        )

    def _text(self, value: float) -> str:
        return f"{100 * value:.3g} %" if self.share else f"{value:.4g}"


def compared(
    source: Sequence[float], artifact: Sequence[float], *, accepted: Accepted, sha256: str
) -> TaskResult:
    """The result of scores, of which there is one for each sample on both sides.

    Scores of a function of the user's are taken for shares where all lie between 0 and 1. The
    most that errors can differ by is taken to be the spread of all that were seen.
    """
    differences = [one - other for one, other in zip(source, artifact, strict=True)]
    least, greatest = min(*source, *artifact), max(*source, *artifact)
    share = accepted.metric != UNBOUNDED and least >= 0 and greatest <= 1
    span = 1.0 if share else greatest - least
    settled: dict[str, Any] = {"span": span, "confidence": accepted.confidence}
    # scores that are all the same say nothing of those to come
    found = interval(differences, **settled) if span else None
    limit = accepted.max_drop
    undecided = found is not None and found.low <= limit < found.high
    return TaskResult(
        metric=accepted.metric.rpartition("/")[2],
        output=accepted.output,
        samples=len(differences),
        source=fmean(source),
        artifact=fmean(artifact),
        drop=fmean(differences),
        low=found.low if found else None,
        high=found.high if found else None,
        method=found.method if found else "none: all scores are the same",
        confidence=accepted.confidence,
        max_drop=limit,
        share=share,
        needed=enough(differences, **settled, limit=limit) if undecided else None,
        sha256=sha256,
    )


def _up(value: float) -> float:
    """Rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
