"""The commands' work: build a config, forecast a build, verify an artifact on its own."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import (
    ConfigError,
    CrosscastError,
    ParityError,
    StageError,
    ToolchainError,
)
from crosscast.pipeline.events import (
    BuildFinished,
    Event,
    Message,
    StepCached,
    StepFinished,
    Subscriber,
)
from crosscast.pipeline.executors.local import LocalExecutor, Outcome, Task
from crosscast.pipeline.fetch import fetch, missing
from crosscast.pipeline.graph import File, Output, Plan, Step
from crosscast.pipeline.ledger import Forecast, Ledger, forecast
from crosscast.pipeline.planner import plan, runtime_options
from crosscast.pipeline.runner import Runner, Settings, worst
from crosscast.pipeline.stages import STAGES
from crosscast.pipeline.store import Store, Workspace
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets import TARGETS
from crosscast.targets.base import Target, described, narrowed
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
    with LocalExecutor(cache=store.root) as executor:
        return verify_by(executor, artifact, store=store, settings=settings)


def verify_by(
    executor: LocalExecutor, artifact: Path, *, store: Store, settings: Settings, scope: str = ""
) -> dict[str, Any]:
    """`verify` by an executor that is there. scope: what its log is kept by, default its path."""
    manifest = manifests.read(artifact)
    with _readable(artifact):
        manifests.check_files(artifact, manifest)
    with store.workspace() as workspace:
        bench = _Bench(artifact, manifest, store, settings, workspace, executor, scope)
        verdict = bench.verdict()
    with _readable(artifact):
        return with_task(verdict, manifest["verdict"].get("task"))


def explain(
    artifact: Path, *, config: Path | None, store: Store, settings: Settings, emit: Subscriber
) -> dict[str, Any]:
    """Where the error of an artifact comes from, as it is in the worst case of its test vectors.

    config: what it was built from, None for what the store remembers. Its files may be others than
    those that were proven. Raises ConfigError where there is no config or it gives another model by
    now, StageError where a worker did not succeed, ToolchainError where the target's runtime is not
    installed or the target cannot show what it computes.
    """
    manifest = manifests.read(artifact)
    target = _target(artifact, manifest)
    built = _built_from(artifact, manifest, config, store)
    for download in missing(built.source.downloads(), store=store):
        fetch(download, store=store, tell=lambda text: emit(Message(text=text)))
    planned = plan(built, only=[manifest["target"]])
    ends = planned.targets[manifest["target"]]
    if not ends.explain:
        raise ToolchainError(
            f"{artifact}: target '{manifest['target']}' cannot show what it computes on the way",
            fix="explain the artifact that it was made from",
        )
    _require_same_source(artifact, manifest, planned.step(ends.package), store)
    step = planned.step(ends.explain)
    with store.workspace() as workspace, LocalExecutor(cache=store.root) as executor:
        bench = _Bench(artifact, manifest, store, settings, workspace, executor)
        network = bench.network(planned, step, scope=str(built.path), emit=emit)
        verdict = bench.verdict()
        found = bench.run(
            "explain",
            toolchain=step.toolchain,
            inputs={**network, "verdict": workspace.path("verify")},
            options={**step.options, "layout": None, "narrowed": narrowed(target)},
        )
    return {"status": verdict["status"], "reason": verdict["reason"], **found}


@dataclass(frozen=True)
class _Bench:
    """An artifact's stages, run one by one on its own test vectors."""

    artifact: Path
    manifest: dict[str, Any]
    store: Store
    settings: Settings
    workspace: Workspace
    executor: LocalExecutor
    scope: str = ""

    def verdict(self) -> dict[str, Any]:
        """What `verify` finds."""
        target = _target(self.artifact, self.manifest)
        with _readable(self.artifact):
            _write_reference(self.artifact, self.manifest, self.workspace.directory("reference"))
            options = {
                **runtime_options(target),
                "precision_asked": _asked(target, self.manifest),
                "layout": None,
                "io": self.manifest.get("io"),
                "pixels": images(self.manifest.get("preprocessing") or {}),
                "labels": _labels(self.manifest) if described(target) else [],
                "parity": self.manifest["verdict"].get("parity", {}),
            }
        return self.run("verify", toolchain=target.runtime, inputs={}, options=options)

    def run(
        self,
        stage: str,
        *,
        toolchain: Toolchain,
        inputs: Mapping[str, Path],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The JSON that a stage writes of the artifact."""
        out = self.workspace.directory(stage)
        outcome = self.executor.run(
            Task(
                id=stage,
                module=STAGES[stage],
                toolchain=toolchain,
                inputs={
                    "model": self.artifact,
                    "reference": self.workspace.path("reference"),
                    **inputs,
                },
                options=options,
                out=out,
                log=self.store.log(self.scope or str(self.artifact.absolute()), stage),
                limits=self.settings.limits,
            )
        )
        _raise_unless_ok(outcome, stage)
        written: dict[str, Any] = json.loads(next(out.glob("*.json")).read_text(encoding="utf-8"))
        return written

    def network(
        self, planned: Plan, step: Step, *, scope: str, emit: Subscriber
    ) -> dict[str, Path]:
        """The float network that an artifact is explained by, and the model that it is made from
        where that shows its tensors instead, built where they are not in the store: the inputs of
        the step `explain`.
        """
        wanted = ("exported", "program", *(["model"] if step.options["instead"] else []))
        names = {
            key: source.step
            for key, source in step.inputs.items()
            if key in wanted and isinstance(source, Output)
        }
        needed = {each.id for name in names.values() for each in planned.needed_for(name)}
        every = (*planned.steps, *planned.spare)
        steps = tuple(each for each in every if each.id in needed)
        part = replace(planned, steps=steps, spare=(), targets={})
        ledger = Ledger(part, self.store, scope=scope)
        runner = Runner(
            ledger,
            executor=self.executor,
            workspace=self.workspace,
            settings=self.settings,
            emit=emit,
        )
        runner.run()
        for message, _ in runner.dead.values():
            raise StageError(f"the float network cannot be exported to ONNX: {message}")
        return {key: self.store.tree_path(ledger.trees[name]) for key, name in names.items()}


@contextmanager
def _readable(artifact: Path) -> Iterator[None]:
    """Raise ConfigError where a manifest, which others may have written, is not as it should be."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{artifact / manifests.MANIFEST}: cannot be used: {type(error).__name__}: {error}",
            fix="build the artifact again",
        ) from None


def _target(artifact: Path, manifest: Mapping[str, Any]) -> Target:
    target = TARGETS.get(manifest["target"])
    if target is None:
        raise ToolchainError(
            f"{artifact}: target '{manifest['target']}' is not known here",
            fix="`crosscast targets` lists those that are; a plug-in may be missing",
        )
    return target


def _built_from(
    artifact: Path, manifest: Mapping[str, Any], config: Path | None, store: Store
) -> Config:
    """The config that an artifact was built from."""
    path = config or Path(store.origin(artifact) or "-")
    if config is None and not path.is_file():
        raise ConfigError(
            f"{artifact}: it is not known here what it was built from",
            fix="name its config: `crosscast explain ARTIFACT --config FILE`",
        )
    built = load(path)
    if (built.model, manifest["target"] in built.targets) != (manifest["model"], True):
        raise ConfigError(
            f"{path}: has no target '{manifest['target']}' of model '{manifest['model']}'",
            fix=f"name the config that {artifact} was built from",
        )
    return built


def _require_same_source(
    artifact: Path, manifest: Mapping[str, Any], package: Step, store: Store
) -> None:
    """Raise ConfigError for a source that has changed: its network is another."""
    was = manifest["source"]["files"]
    for name, source in package.inputs.items():
        key = name.removeprefix("source.")
        if isinstance(source, File) and store.file_digest(source.path) != was.get(key):
            raise ConfigError(
                f"{source.path}: has changed since {artifact} was built",
                fix="build the artifact again",
            )


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


def _raise_unless_ok(outcome: Outcome, stage: str) -> None:
    if outcome.status != "ok":
        error: CrosscastError = StageError(
            f"{stage} did not end well [{outcome.status}]: {outcome.message}\n  log: {outcome.log}",
            fix=outcome.fix,
        )
        if outcome.exit_code == ToolchainError.exit_code:
            error = ToolchainError(outcome.message, fix=outcome.fix)
        raise error
