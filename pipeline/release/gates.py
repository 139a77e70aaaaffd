"""Whether a release may follow the one before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from semver import Version

from crosscast.pipeline.config.release import Gates
from crosscast.pipeline.errors import GateError
from crosscast.pipeline.release.diff import Comparison, Level, Number

LIMITS: Mapping[str, str] = {
    "size": "max_size_growth",
    "latency": "max_latency_growth",
    "snr": "max_snr_drop_db",
    "metric": "max_metric_drop",
}
"""The key of the limit, by quantity."""

ROUNDING = 1e-9
"""That a number may be over its limit by: 1.05 - 1 is more than 0.05 in floating point."""

RANK: Mapping[Level | None, int] = {None: 0, "minor": 1, "major": 2}


def refusals(comparison: Comparison, *, gates: Gates, before: str, after: str) -> list[str]:
    """Why the release may not be, a line each; none where it may.

    before, after: the two versions.
    """
    found = [_over(number, gates) for number in comparison.numbers]
    step = bump(Version.parse(before), Version.parse(after))
    found += [
        f"{change.target}: {change.text}: asks for a {change.level} version, {before} -> {after} "
        "is less"
        for change in comparison.changes
        if RANK[change.level] > RANK[step]
    ]
    return [text for text in found if text]


def require(refused: list[str], *, before: str) -> None:
    """Raise GateError where there are refusals."""
    if refused:
        raise GateError(
            "\n".join([f"refused against {before}:", *(f"  {text}" for text in refused)]),
            fix="mend the model; raise the version (--bump) for a change of the interface, or set "
            "another limit for a number, under `release: gates:`",
        )


def bump(before: Version, after: Version) -> Level | None:
    """What changes of the interface the versions allow for, by Semantic Versioning 2.0.0.

    While the major version is 0, the minor one stands for it (clause 4, as everybody reads it).
    After a pre-release of a version anything may still change (clause 9).
    """
    same = before.to_tuple()[:3] == after.to_tuple()[:3]
    if after.major > before.major or (before.prerelease and same):
        return "major"
    if after.minor > before.minor:
        return "minor" if before.major else "major"
    return None if before.major else "minor"


def _over(number: Number, gates: Gates) -> str:
    key = LIMITS[number.quantity]
    limit: float | None = getattr(gates, key)
    if limit is None or number.worse <= limit + ROUNDING:
        return ""
    is_share = number.quantity in ("size", "latency")
    told = f"{100 * limit:.4g} %" if is_share else f"{limit:.4g}"
    return f"{number.target}: {number.text}: over {key}, {told}"
