"""Which steps of a plan have a result that can be trusted, and why the others have to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crosscast.pipeline import fingerprint
from crosscast.pipeline.executors.outcome import Outcome
from crosscast.pipeline.graph import File, Plan, Step
from crosscast.pipeline.store import Record, Store


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a build would do with a step: "cached", "run", or "maybe" (its inputs come first)."""

    step: str
    action: str
    reason: str


class Ledger:
    """Which steps of a plan have a trusted record, and why the others have not."""

    def __init__(self, plan: Plan, store: Store, *, scope: str, force: bool = False) -> None:
        self.plan = plan
        self.store = store
        self.scope = scope
        self.force = force
        self.trees: dict[str, str] = {}

    def ingredients(self, step: Step) -> dict[str, str]:
        """What the step's result depends on, once all steps before it have a tree."""
        inputs = {
            name: self.store.file_digest(source.path)
            if isinstance(source, File)
            else self.trees[source.step]
            for name, source in step.inputs.items()
        }
        return fingerprint.ingredients(step, inputs=inputs, versions=fingerprint.installed_version)

    def lookup(self, step: Step, base: Mapping[str, str]) -> tuple[Record | None, str]:
        """The step's trusted record, or None and the reason why it has to run."""
        if self.force:
            return None, "forced"
        full = self.full(base, self.store.dependencies(fingerprint.digest(base)))
        record = self.store.record(fingerprint.digest(full))
        if record is None:
            return None, fingerprint.explain(self.store.last(self._key(step)), full)
        if not self.store.intact(record.tree):
            return None, "its stored result is missing or damaged"
        return record, ""

    def full(self, base: Mapping[str, str], dependencies: tuple[str, ...]) -> dict[str, str]:
        """The ingredients with the present content of the discovered dependencies."""
        digests = {path: self.store.file_digest(Path(path)) for path in dependencies}
        return fingerprint.with_dependencies(base, digests)

    def save(
        self,
        step: Step,
        base: Mapping[str, str],
        outcome: Outcome,
        tree: str,
        *,
        started: int,
    ) -> None:
        """Record a step that has run and whose tree is stored. started: time.time_ns() then."""
        assert outcome.result is not None
        found = outcome.result.dependencies
        edited = any(_changed_since(Path(path), started) for path in found)
        if edited or self.ingredients(step) != base:
            return  # a file changed meanwhile: it is not known which content the step has read
        full = self.full(base, found)
        self.store.save_dependencies(fingerprint.digest(base), found)
        self.store.save_record(
            fingerprint.digest(full), Record(tree=tree, seconds=outcome.seconds, peak=outcome.peak)
        )
        self.store.save_last(self._key(step), full)
        self.store.learn_peak(self._key(step), outcome.peak)

    def memory(self, step: Step) -> int:
        """What the step is expected to need: what it took last time, else its estimate."""
        return self.store.peak(self._key(step)) or step.memory

    def _key(self, step: Step) -> str:
        return f"{self.scope}:{step.id}"


def forecast(ledger: Ledger) -> list[Forecast]:
    """What a build would do now, step by step, without running anything."""
    result = []
    for step in ledger.plan.steps:
        waiting = [name for name in step.upstream() if name not in ledger.trees]
        if waiting:
            reason = f"after {', '.join(waiting)}; cached if that gives the same bytes"
            result.append(Forecast(step=step.id, action="maybe", reason=reason))
            continue
        record, reason = ledger.lookup(step, ledger.ingredients(step))
        if record:
            ledger.trees[step.id] = record.tree
        action = "cached" if record else "run"
        result.append(Forecast(step=step.id, action=action, reason=reason))
    return result


def _changed_since(path: Path, moment: int) -> bool:
    try:
        return path.stat().st_ctime_ns >= moment
    except OSError:
        return True
