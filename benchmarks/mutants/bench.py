"""Runs plans of mutants in isolated workers, and reads verdicts from what they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosscast.pipeline.events import Event, StepFailed
from crosscast.pipeline.executors.local import LocalExecutor
from crosscast.pipeline.graph import Plan
from crosscast.pipeline.ledger import Ledger
from crosscast.pipeline.runner import Runner, Settings
from crosscast.pipeline.store import Store, Workspace

BENCHMARKS = Path(__file__).parent.parent


@dataclass
class Bench:
    """Where the plans of one config run.

    failed: why steps did not end well, by their ids.
    """

    store: Store
    executor: LocalExecutor
    workspace: Workspace
    settings: Settings
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, plan: Plan) -> dict[str, Path]:
        """Run a plan; gives the trees of the steps that ended well, by their ids."""
        ledger = Ledger(plan, self.store, scope="mutants")
        Runner(
            ledger,
            executor=self.executor,
            workspace=self.workspace,
            settings=self.settings,
            emit=self._heard,
        ).run()
        return {step: self.store.tree_path(tree) for step, tree in ledger.trees.items()}

    def _heard(self, event: Event) -> None:
        if isinstance(event, StepFailed):
            self.failed[event.step] = event.message


@contextmanager
def bench(cache: Path, *, jobs: int, timeout: float = 900) -> Iterator[Bench]:
    """A bench whose workers know this package; `cache` is its store."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCHMARKS), before]))
    store = Store(cache)
    settings = Settings(artifacts=cache / "artifacts", jobs=jobs, timeout=timeout)
    try:
        with store.workspace() as workspace, LocalExecutor(cache=store.root) as executor:
            yield Bench(store=store, executor=executor, workspace=workspace, settings=settings)
    finally:
        os.environ["PYTHONPATH"] = before


def verdict(tree: Path) -> dict[str, Any]:
    """What the stage `verify` left."""
    found: dict[str, Any] = json.loads((tree / "verdict.json").read_text(encoding="utf-8"))
    return found


def least_snr(found: dict[str, Any]) -> float | None:
    """The least SNR of the cases that were held to the limits, in dB; None where there is none."""
    numbers = [case["numbers"]["snr_db"] for case in found["cases"] if case["gated"]]
    return min((it for it in numbers if isinstance(it, float | int)), default=None)
