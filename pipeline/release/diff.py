"""What differs between two releases: numbers, interfaces, targets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crosscast.pipeline.manifest import MANIFEST, VECTORS
from crosscast.pipeline.release.document import BUILD, DEVICES, Release
from crosscast.pipeline.release.latency import Timing

Level = Literal["major", "minor"]
"""What a change of the interface asks of the version."""

NOT_MODEL = (MANIFEST, VECTORS, "USAGE.md")
"""Files of an artifact that a device does not load."""

BEST_SNR_DB = 100.0
"""Better ones are not told apart: above 100 dB honest conversions differ by the order in which they
add (see `parity.tolerance`, fp32)."""

CALLERS_KEEP = {
    "labels": "the names of the classes",
    "preprocessing": "the preprocessing that callers have to do",
}
"""Parts of an artifact that callers rely on as much as on the shapes, by what they are."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A quantity of a target in two releases.

    of: the output, for an SNR; the metric, for a score. worse: by how much it has become worse, at
    least, where it is measured with noise; in the unit of its limit, a share for size and latency.
    """

    target: str
    quantity: Literal["size", "latency", "snr", "metric"]
    of: str = ""
    before: float
    after: float
    worse: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something else that has changed. level: what it asks of the version, None for nothing."""

    target: str
    text: str
    level: Level | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that differs, and the numbers that do not."""

    before: str
    after: str
    numbers: tuple[Number, ...]
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def compare(
    before: Release, after: Release, *, timings: Mapping[str, Timing] | None = None
) -> Comparison:
    """Hold a release against an earlier one. timings: by target, where they were measured."""
    old, new = before.content["artifacts"], after.content["artifacts"]
    numbers: list[Number] = []
    changes = [
        *(_gone(name) for name in old if name not in new),
        *(_added(name) for name in new if name not in old),
    ]
    for name in (name for name in new if name in old):
        numbers += [_size(name, old[name], new[name]), *snrs(name, old[name], new[name])]
        numbers += _metric(name, old[name], new[name])
        changes += _interface(name, old[name], new[name])
        timing = (timings or {}).get(name)
        if timing is not None and timing.unmeasured:
            changes.append(Change(target=name, text=f"latency not measured: {timing.unmeasured}"))
        elif timing is not None:
            numbers.append(_latency(name, timing))
    changes += _devices(before, after)
    return Comparison(
        before=f"{before.model} {before.version}",
        after=f"{after.model} {after.version}",
        numbers=tuple(numbers),
        changes=tuple(changes),
    )


def describe(comparison: Comparison) -> str:
    """What there is to read of a comparison, a line each."""
    found: list[Number | Change] = [*comparison.numbers, *comparison.changes]
    width = max((len(entry.target) for entry in found), default=0)
    lines = [f"{comparison.before} -> {comparison.after}"]
    for target in dict.fromkeys(entry.target for entry in found):
        for entry in (entry for entry in found if entry.target == target):
            asks = (
                f"  (a {entry.level} change)" if isinstance(entry, Change) and entry.level else ""
            )
            lines.append(f"  {target:<{width}}  {entry.text}{asks}")
    return "\n".join(lines)


def contents(before: Release, after: Release) -> list[str]:
    """What differs in all that makes the identity of a release, causes first: names of parts of
    release.json, of source files, of files.
    """
    old, new = (_leaves(release.content) for release in (before, after))
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def model_size(artifact: Mapping[str, Any]) -> int:
    """Bytes of the files that a device loads."""
    return sum(file["size"] for file in artifact["files"] if file["path"] not in NOT_MODEL)


def same_model(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the files that a device loads are the same."""
    old, new = (
        {
            file["path"]: file["sha256"]
            for file in artifact["files"]
            if file["path"] not in NOT_MODEL
        }
        for artifact in (before, after)
    )
    return old == new


def _leaves(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of a release.json to say where two differ."""
    parts = {key: content[key] for key in content if key not in (BUILD, "artifacts", "source")}
    sources = {f"source {name}": digest for name, digest in content["source"]["files"].items()}
    files = {
        f"{name}/{file['path']}": file["sha256"]
        for name, artifact in content["artifacts"].items()
        for file in artifact["files"]
    }
    return {**parts, **sources, **files}


def _gone(target: str) -> Change:
    return Change(target=target, text="is not in it any more", level="major")


def _added(target: str) -> Change:
    return Change(target=target, text="is new", level="minor")


def _devices(before: Release, after: Release) -> Iterator[Change]:
    """What has become of the devices that came with a release: people pull by their names."""
    old, new = (release.content.get(DEVICES, {}) for release in (before, after))
    for name in (name for name in old if old[name] != new.get(name)):
        told = "changed" if name in new else "is not in it any more"
        level: Level | None = None if name in new else "major"
        yield Change(target=f"device {name}", text=told, level=level)
    for name in (name for name in new if name not in old):
        yield Change(target=f"device {name}", text="is new")


def _size(target: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Number:
    before, after = model_size(old), model_size(new)
    growth = after / max(before, 1) - 1
    return Number(
        target=target,
        quantity="size",
        before=before,
        after=after,
        worse=growth,
        text=f"size {before:,} -> {after:,} bytes ({growth:+.1%})",
    )


def _latency(target: str, timing: Timing) -> Number:
    return Number(
        target=target,
        quantity="latency",
        before=timing.before,
        after=timing.after,
        worse=timing.low - 1,
        text=f"latency {timing.before * 1e3:.3g} -> {timing.after * 1e3:.3g} ms a call "
        f"({timing.ratio - 1:+.1%}; {timing.low - 1:+.1%} to {timing.high - 1:+.1%} with 99 % "
        "confidence)",
    )


def snrs(target: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Number]:
    """The worst SNR of each output that has one in both, as `release.json` tells of a target."""
    worst = new["verdict"].get("worst", {})
    for output, row in old["verdict"].get("worst", {}).items():
        before, after = _snr(row), _snr(worst.get(output))
        if before is None or after is None:
            continue
        yield Number(
            target=target,
            quantity="snr",
            of=output,
            before=before,
            after=after,
            worse=before - after,
            text=f"worst SNR of '{output}' {_db(before)} -> {_db(after)} dB",
        )


def _snr(row: Mapping[str, Any] | None) -> float | None:
    """The SNR of an output's worst case; None where it was not judged by one."""
    if row is None or not row.get("gated", True) or row["numbers"]["snr_db"] is None:
        return None
    return min(float(row["numbers"]["snr_db"]), BEST_SNR_DB)


def _db(value: float) -> str:
    return f"{value:.1f}" if value < BEST_SNR_DB else "over 100"


def _metric(target: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Number]:
    """The score on labelled samples, where both have one by the same metric."""
    before, after = (artifact["verdict"].get("task") for artifact in (old, new))
    if before and after and before["metric"] == after["metric"]:
        yield Number(
            target=target,
            quantity="metric",
            of=before["metric"],
            before=before["artifact"],
            after=after["artifact"],
            worse=before["artifact"] - after["artifact"],
            text=f"{before['metric']} {before['artifact']:g} -> {after['artifact']:g}",
        )


def _interface(target: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for side in ("inputs", "outputs"):
        yield from _tensors(target, side, old, new)
    for key, what in CALLERS_KEEP.items():
        if old.get(key) != new.get(key):
            yield Change(target=target, text=f"{what} changed", level="major")


def _tensors(
    target: str, side: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    before = [tensor["name"] for tensor in old[side]]
    after = [tensor["name"] for tensor in new[side]]
    if after[: len(before)] != before:
        text = f"{side} were {', '.join(before)}, now {', '.join(after)}"
        yield Change(target=target, text=text, level="major")
        return
    if more := after[len(before) :]:
        # Callers that do not know of an output leave it; an input they would have to give.
        level: Level = "major" if side == "inputs" else "minor"
        yield Change(target=target, text=f"{side} added: {', '.join(more)}", level=level)
    for its, mine in zip(old[side], new[side][: len(before)], strict=True):
        yield from _tensor(target, side, (its, old["dims"]), (mine, new["dims"]))


def _tensor(
    target: str,
    side: str,
    old: tuple[Mapping[str, Any], Mapping[str, Any]],
    new: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[Change]:
    """The changes of one input or output, each given with the ranges of its named dimensions."""
    (its, its_dims), (mine, my_dims) = old, new
    what = f"{side[:-1]} '{its['name']}'"
    for key in ("dtype", "layout"):
        if its.get(key) != mine.get(key):
            text = f"{what}: {key} was {its.get(key)}, now {mine.get(key)}"
            yield Change(target=target, text=text, level="major")
    before, after = _sizes(its["shape"], its_dims), _sizes(mine["shape"], my_dims)
    if before != after:
        text = f"{what}: shape was {_shape(its['shape'], its_dims)}, "
        text += f"now {_shape(mine['shape'], my_dims)}"
        yield Change(target=target, text=text, level="minor" if _within(before, after) else "major")


def _sizes(shape: Sequence[int | str], dims: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """The least and greatest size of each dimension; of an undeclared one nothing is known."""
    ranges = [(size, size) if isinstance(size, int) else dims.get(size, (0, 0)) for size in shape]
    return [(least, greatest) for least, greatest in ranges]


def _within(inner: list[tuple[int, int]], outer: list[tuple[int, int]]) -> bool:
    """Whether shapes that were taken before are taken still."""
    return len(inner) == len(outer) and all(
        low <= its_low and its_high <= high
        for (its_low, its_high), (low, high) in zip(inner, outer, strict=True)
    )


def _shape(shape: Sequence[int | str], dims: Mapping[str, Sequence[int]]) -> str:
    sizes = zip(shape, _sizes(shape, dims), strict=True)
    told = [str(size) if size in ends else f"{size} {ends[0]}-{ends[1]}" for size, ends in sizes]
    return f"[{', '.join(told)}]"
