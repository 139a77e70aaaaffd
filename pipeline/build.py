"""The commands' work: build a config, forecast a build, verify an artifact on its own."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import CrosscastError, ParityError, StageError, ToolchainError
from crosscast.pipeline.events import (
    BuildFinished,
    Event,
    Message,
    StepCached,
    StepFinished,
    Subscriber,
)
from crosscast.pipeline.executors.local import Limits, LocalExecutor, Outcome, Task
from crosscast.pipeline.fetch import fetch, missing
from crosscast.pipeline.planner import plan, runtime_options
from crosscast.pipeline.runner import Forecast, Ledger, Runner, Settings, forecast, worst
from crosscast.pipeline.stages import STAGES
from crosscast.pipeline.store import Store
from crosscast.targets import TARGETS
from crosscast.targets.base import Target, described
from crosscast.targets.families.preprocessing import images


def build(
    config: Config, *, store: Store, settings: Settings, emit: Subscriber, only: Collection[str]
) -> int:
    """Build the config's targets (or those in `only`); gives the exit code."""
    started = time.monotonic()
    counts = {StepFinished: 0, StepCached: 0}

    def counted(event: Event) -> None:
        if type(event) in counts:
            counts[type(event)] += 1
        emit(event)

    planned = plan(config, only=only)
    for download in missing(config.source.downloads(), store=store):
        fetch(download, store=store, tell=lambda text: emit(Message(text=text)))
    ledger = Ledger(planned, store, scope=str(config.path), force=settings.force)
    with (
        store.workspace() as workspace,
        LocalExecutor(
            cache=store.root,
            threads=settings.threads,
            on_message=lambda text: emit(Message(text=text)),
        ) as executor,
    ):
        runner = Runner(
            ledger, executor=executor, workspace=workspace, settings=settings, emit=counted
        )
        results = runner.run()
    code = worst({result.code for result in results.values()})
    emit(
        BuildFinished(
            code=code,
            seconds=round(time.monotonic() - started, 3),
            ran=counts[StepFinished],
            cached=counts[StepCached],
        )
    )
    return code


def preview(config: Config, *, store: Store, only: Collection[str], force: bool) -> list[Forecast]:
    """What `build` would do with each step, and why."""
    ledger = Ledger(plan(config, only=only), store, scope=str(config.path), force=force)
    fetched = [
        Forecast(step=f"fetch {download.path.name}", action="run", reason="not in the cache")
        for download in missing(config.source.downloads(), store=store)
    ]
    return [*fetched, *forecast(ledger)]


def verify(artifact: Path, *, store: Store, settings: Settings) -> dict[str, Any]:
    """Run an artifact on its own test vectors, without its source; gives the verdict.

    Raises ParityError where a file is not the one that was proven, StageError where the worker
    did not succeed, ToolchainError where the target's runtime is not installed.
    """
    manifest = manifests.read(artifact)
    manifests.check_files(artifact, manifest)
    target = TARGETS.get(manifest["target"])
    if target is None:
        raise ToolchainError(
            f"{artifact}: target '{manifest['target']}' is not known here",
            fix="`crosscast targets` lists those that are; a plug-in may be missing",
        )
    with store.workspace() as workspace, LocalExecutor(cache=store.root) as executor:
        reference = workspace.directory("reference")
        _write_reference(artifact, manifest, reference)
        out = workspace.directory("verdict")
        executor.submit(
            Task(
                id="verify",
                module=STAGES["verify"],
                toolchain=target.runtime,
                inputs={"model": artifact, "reference": reference},
                options={
                    **runtime_options(target),
                    "precision_asked": _asked(target, manifest),
                    "layout": None,
                    "io": manifest.get("io"),
                    "pixels": images(manifest.get("preprocessing") or {}),
                    "labels": _labels(manifest) if described(target) else [],
                    "parity": manifest["verdict"].get("parity", {}),
                },
                out=out,
                log=store.log(str(artifact.absolute()), "verify"),
                limits=Limits(
                    timeout=settings.timeout, memory=settings.step_memory or settings.memory
                ),
            )
        )
        outcome = executor.wait()
        _raise_unless_ok(outcome)
        verdict: dict[str, Any] = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    return with_task(verdict, manifest["verdict"].get("task"))


def with_task(verdict: dict[str, Any], built: dict[str, Any] | None) -> dict[str, Any]:
    """The verdict beside what the build found on labelled samples, which an artifact has none of.

    What was not proven then is not proven by its vectors either.
    """
    if built is None:
        return verdict
    metric, was = built["metric"], built["status"]
    told = f"{metric} on labelled samples, not measured again, was '{was}' when it was built"
    if verdict["status"] == "passed" and was != "passed":
        changed = {"status": "unverified", "reason": told}
    else:
        separator = "; " if verdict["status"] == "passed" else "\n"
        changed = {"reason": f"{verdict['reason']}{separator}{told}"}
    return verdict | changed | {"task_when_built": built}


def _labels(manifest: dict[str, Any]) -> list[str]:
    told = manifest.get("labels") or {"names": []}
    return list(told["names"])


def _asked(target: Target, manifest: dict[str, Any]) -> str:
    """What the audit must find; a source that is quantized itself ships as it is."""
    if target.precision_asked is None:
        return str(manifest["precision"]["asked"])
    own: str | None = manifest["export"].get("precision")
    return own if own and target.precision_asked == "fp32" else target.precision_asked


def verdict_code(verdict: dict[str, Any]) -> int:
    """The exit code of a verdict: 0 only where it passed."""
    return 0 if verdict["status"] == "passed" else ParityError.exit_code


def _write_reference(artifact: Path, manifest: dict[str, Any], out: Path) -> None:
    """Lay the artifact's vectors out as the `reference` stage would: in the source's dtypes."""
    (out / manifests.VECTORS).symlink_to((artifact / manifests.VECTORS).absolute())
    manifests.write_json(out / "cases.json", manifest["vectors"]["cases"])
    source = manifest["vectors"]["dtypes"]
    told = {
        side: [{**tensor, "dtype": source[side][tensor["name"]]} for tensor in manifest[side]]
        for side in ("inputs", "outputs")
    }
    manifests.write_json(out / "signature.json", {**told, "dims": manifest["dims"]})


def _raise_unless_ok(outcome: Outcome | None) -> None:
    if outcome is None:
        raise StageError("verification did not end")
    if outcome.status != "ok":
        error: CrosscastError = StageError(
            f"verification did not end well [{outcome.status}]: {outcome.message}\n"
            f"  log: {outcome.log}",
            fix=outcome.fix,
        )
        if outcome.exit_code == ToolchainError.exit_code:
            error = ToolchainError(outcome.message, fix=outcome.fix)
        raise error
