"""The runner and its ledger with a real store; functions do the work of workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.errors import GateError, StageError
from crosscast.pipeline.events import (
    Event,
    StepCached,
    StepFailed,
    StepStarted,
    TargetFinished,
)
from crosscast.pipeline.executors.local import Outcome, Task
from crosscast.pipeline.graph import GIB, File, Input, Output, Plan, Step, TargetSteps, ordered
from crosscast.pipeline.ledger import Ledger, forecast
from crosscast.pipeline.runner import Runner, Settings, TargetResult, worst
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.store import Store
from crosscast.pipeline.toolchain import CORE, Toolchain

Work = Callable[[Task], StageResult]


class InPlace:
    """Does a task when it is waited for; remembers the most that were running at once."""

    def __init__(self, work: Mapping[str, Work]) -> None:
        self.work = work
        self.tasks: list[Task] = []
        self.ran: list[str] = []
        self.most = 0

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        list(toolchains)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self.most = max(self.most, len(self.tasks))

    def wait(self, timeout: float | None = None) -> Outcome | None:
        task = self.tasks.pop(0)
        self.ran.append(task.id)
        try:
            result, status, message, code = self.work[task.id](task), "ok", "", 0
        except StageError as error:
            result, status, message, code = None, "error", error.message, error.exit_code
        return Outcome(
            task=task.id,
            status=status,  # type: ignore[arg-type]
            message=message,
            exit_code=code,
            fix="",
            result=result,
            seconds=0.1,
            peak=GIB // 4,
            log=task.log,
        )


def writes(text: str, *dependencies: Path) -> Work:
    def work(task: Task) -> StageResult:
        (task.out / "model").write_text(text)
        return StageResult(dependencies=tuple(map(str, dependencies)))

    return work


def judges(status: str, reason: str = "") -> Work:
    def work(task: Task) -> StageResult:
        verdict = {"status": status, "reason": reason}
        (task.out / "verdict.json").write_text(json.dumps(verdict))
        return StageResult()

    return work


def fails(message: str) -> Work:
    def work(task: Task) -> StageResult:
        raise StageError(message)

    return work


class Bench:
    """A two-target plan (export → a, b), its store, and what happened in the last run."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.source = tmp_path / "source.txt"
        self.source.write_text("source")
        self.store = Store(tmp_path / "store")
        self.allow = {"a": "", "b": ""}
        self.options: dict[str, Any] = {}
        self.work: dict[str, Work] = {"export": writes("exported")}
        for name in "ab":
            self.work[f"convert {name}"] = writes(f"model {name}")
            self.work[f"verify {name}"] = judges("passed")
            self.work[f"package {name}"] = writes(f"artifact {name}")

    def plan(self) -> Plan:
        steps: dict[str, Step] = {}

        def add(name: str, **inputs: Input) -> None:
            stage = name.split()[0]
            options = self.options if stage == "export" else {"name": name}
            steps[name] = Step(
                id=name,
                stage=stage,
                module=f"crosscast.pipeline.stages.{stage}",
                toolchain=CORE,
                options=options,
                inputs=inputs,
                memory=GIB,
            )

        add("export", source=File(self.source))
        for name in "ab":
            add(f"convert {name}", model=Output("export"))
            add(f"verify {name}", model=Output(f"convert {name}"))
            add(
                f"package {name}", model=Output(f"convert {name}"), verdict=Output(f"verify {name}")
            )
        targets = {
            name: TargetSteps(
                verify=f"verify {name}",
                package=f"package {name}",
                allow_unverified=self.allow[name],
            )
            for name in "ab"
        }
        return Plan(model="m", version="1.0.0", steps=ordered(steps), targets=targets)

    def run(self, **settings: Any) -> dict[str, TargetResult]:
        self.executor = InPlace(self.work)
        self.events: list[Event] = []
        force = bool(settings.get("force", False))
        ledger = Ledger(self.plan(), self.store, scope="test", force=force)
        with self.store.workspace() as workspace:
            return Runner(
                ledger,
                executor=self.executor,  # type: ignore[arg-type]
                workspace=workspace,
                settings=Settings(
                    artifacts=self.root / "artifacts", **{"jobs": 2, "memory": 8 * GIB, **settings}
                ),
                emit=self.events.append,
            ).run()

    @property
    def ran(self) -> list[str]:
        return sorted(self.executor.ran)

    def reasons(self) -> dict[str, str]:
        return {e.step: e.reason for e in self.events if isinstance(e, StepStarted)}

    def delivered(self, target: str) -> str:
        return (self.root / "artifacts/m/1.0.0" / target / "model").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    return Bench(tmp_path)  # type: ignore[return-value]


ALL = sorted(["export"] + [f"{s} {t}" for s in ("convert", "verify", "package") for t in "ab"])


def test_a_first_build_runs_all_and_delivers(bench: Bench) -> None:
    results = bench.run()
    assert bench.ran == ALL
    assert {name: result.status for name, result in results.items()} == {
        "a": "passed",
        "b": "passed",
    }
    assert bench.delivered("a") == "artifact a"
    assert worst({result.code for result in results.values()}) == 0


class Explaining(Bench):
    """A bench with spare steps, which say why `a` failed: `network` → `explain a`."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.work["network"] = writes("float")
        self.work["explain a"] = self.says

    def says(self, task: Task) -> StageResult:
        assert (task.inputs["network"] / "model").read_text() == "float"
        (task.out / "explanation.json").write_text(json.dumps({"lines": ["layer 'x'"]}))
        return StageResult()

    def plan(self) -> Plan:
        planned = super().plan()
        stage = {"module": "crosscast.pipeline.stages.explain", "toolchain": CORE}
        network = Step(id="network", stage="simplify", inputs={"x": Output("export")}, **stage)
        explain = Step(
            id="explain a",
            stage="explain",
            inputs={"network": Output("network"), "verdict": Output("verify a")},
            **stage,
        )
        ends = replace(planned.targets["a"], explain="explain a")
        return replace(planned, spare=(network, explain), targets={**planned.targets, "a": ends})

    def finished(self) -> TargetFinished:
        found = [event for event in self.events if isinstance(event, TargetFinished)]
        return next(event for event in found if event.target == "a")


def test_what_explains_a_failure_runs_only_then(tmp_path: Path) -> None:
    bench = Explaining(tmp_path)
    bench.run()
    assert bench.ran == ALL
    assert bench.finished().explanation is None
    bench.options = {"opset": 17}
    bench.work["export"] = writes("other")
    bench.work["convert a"] = writes("wrong model")
    bench.work["verify a"] = judges("failed", "3 dB")
    assert bench.run()["a"].code == 4
    assert {"network", "explain a"} <= set(bench.ran)
    assert bench.finished().reason == "3 dB\nlayer 'x'"
    assert bench.finished().explanation == {"lines": ["layer 'x'"]}
    bench.run()
    assert bench.ran == []
    assert bench.finished().reason == "3 dB\nlayer 'x'"


@pytest.mark.parametrize("step", ["network", "explain a"])
def test_a_failure_that_cannot_be_explained_is_the_same_failure(tmp_path: Path, step: str) -> None:
    bench = Explaining(tmp_path)
    bench.work["verify a"] = judges("failed", "3 dB")
    bench.work[step] = fails("no such operator")
    results = bench.run()
    assert (results["a"].code, results["b"].status) == (4, "passed")
    assert bench.finished().reason == "3 dB"


def test_a_forecast_leaves_out_what_only_a_failure_needs(tmp_path: Path) -> None:
    bench = Explaining(tmp_path)
    steps = [entry.step for entry in forecast(Ledger(bench.plan(), bench.store, scope="test"))]
    assert sorted(steps) == ALL


def test_where_an_artifact_came_from_is_remembered(bench: Bench) -> None:
    bench.run()
    assert bench.store.origin(bench.root / "artifacts/m/1.0.0/a") == "test"
    assert bench.store.origin(bench.root) == ""


def test_a_second_build_runs_nothing(bench: Bench) -> None:
    bench.run()
    bench.run()
    assert bench.ran == []
    assert sum(isinstance(event, StepCached) for event in bench.events) == len(ALL)


def test_a_lost_artifact_is_delivered_again_without_a_step(bench: Bench) -> None:
    bench.run()
    (bench.root / "artifacts/m/1.0.0/a/model").write_text("tampered")
    bench.run()
    assert bench.ran == []
    assert bench.delivered("a") == "artifact a"


def test_a_released_version_keeps_its_files(bench: Bench) -> None:
    bench.run()
    (bench.root / "artifacts/m/1.0.0/release.json").touch()
    assert bench.run()["a"].code == 0
    bench.work["package a"] = writes("another artifact")
    results = bench.run(force=True)
    assert results["a"].code == GateError.exit_code
    assert "m/1.0.0 is released, and this build gives other files for a" in results["a"].reason
    assert bench.delivered("a") == "artifact a"
    assert results["b"].status == "passed"


def test_a_changed_input_is_the_reason(bench: Bench) -> None:
    bench.run()
    bench.source.write_text("changed")
    bench.run()
    assert "source changed" in bench.reasons()["export"]


def test_the_same_bytes_out_keep_dependents_cached(bench: Bench) -> None:
    bench.run()
    bench.source.write_text("changed, but it exports to the same")
    bench.run()
    assert bench.ran == ["export"]


def test_other_bytes_out_run_dependents(bench: Bench) -> None:
    bench.run()
    bench.source.write_text("changed")
    bench.work["export"] = writes("exported otherwise")
    bench.run()
    assert bench.ran == ["convert a", "convert b", "export"]


def test_a_discovered_dependency_runs_its_step_again(bench: Bench) -> None:
    helper = bench.root / "helper.py"
    helper.write_text("one")
    bench.work["export"] = writes("exported", helper)
    bench.run()
    bench.run()
    assert bench.ran == []
    helper.write_text("two")
    bench.run()
    assert bench.ran == ["export"]
    assert "helper.py changed" in bench.reasons()["export"]


def test_what_changed_while_its_step_ran_is_not_recorded(bench: Bench) -> None:
    def edits(task: Task) -> StageResult:
        bench.source.write_text("edited meanwhile")
        return writes("exported")(task)

    bench.work["export"] = edits
    assert bench.run()["a"].status == "passed"
    bench.source.write_text("source")
    bench.run()
    assert "export" in bench.ran, "the first content was never exported"


def test_a_verdict_of_another_name_opens_no_gate(bench: Bench) -> None:
    bench.work["verify a"] = judges("skipped")
    assert bench.run()["a"].code == 4
    assert not (bench.root / "artifacts/m/1.0.0/a").exists()


def test_going_back_to_an_earlier_state_is_cached(bench: Bench) -> None:
    bench.options = {"opset": 17}
    bench.run()
    bench.options = {"opset": 18}
    bench.run()
    assert bench.ran == ["export"]
    assert "opset 17 → 18" in bench.reasons()["export"]
    bench.options = {"opset": 17}
    bench.run()
    assert bench.ran == []


def test_force_runs_all(bench: Bench) -> None:
    bench.run()
    bench.run(force=True)
    assert bench.ran == ALL
    assert set(bench.reasons().values()) == {"forced"}


def test_a_damaged_result_is_rebuilt(bench: Bench) -> None:
    bench.run()
    for path in (bench.store.root / "trees").rglob("model"):
        if path.read_text() == "exported":
            path.chmod(0o644)
            path.write_text("exportex")
    bench.run()
    assert bench.ran == ["export"]
    assert bench.reasons()["export"] == "its stored result is missing or damaged"


def test_one_failure_stops_only_its_own_target(bench: Bench) -> None:
    bench.work["convert a"] = fails("no such operator")
    results = bench.run()
    assert results["a"].status == "error"
    assert "no such operator" in results["a"].reason
    assert results["a"].code == 1
    assert results["b"].status == "passed"
    assert not (bench.root / "artifacts/m/1.0.0/a").exists()
    assert [e.step for e in bench.events if isinstance(e, StepFailed)] == ["convert a"]


def test_a_failure_says_how_to_repeat_it_until_it_succeeds(bench: Bench) -> None:
    bench.work["convert a"] = fails("no such operator")
    bench.run()
    (failed,) = (e for e in bench.events if isinstance(e, StepFailed))
    assert failed.repeat.endswith("convert_a/run.py")
    script = Path(failed.repeat.split()[-1])
    assert failed.size == len("exported")
    assert (script.parent / "inputs/model/model").read_text() == "exported"
    bench.work["convert a"] = writes("model a")
    bench.run()
    assert not script.exists()


def test_a_failed_verdict_says_how_to_repeat_it_and_a_recorded_one_does(bench: Bench) -> None:
    bench.work["verify a"] = judges("failed", "SNR 3 dB")
    for ran in (True, False):
        bench.run()
        assert ("verify a" in bench.ran) == ran
        said = {e.target: e.repeat for e in bench.events if isinstance(e, TargetFinished)}
        assert said["b"] == ""
        assert Path(said["a"].split()[-1]).exists()


def test_fail_fast_starts_nothing_more(bench: Bench) -> None:
    bench.work["export"] = fails("broken")
    bench.run(keep_going=False, jobs=1)
    assert bench.ran == ["export"]


def test_a_failed_verdict_ships_nothing_and_is_code_4(bench: Bench) -> None:
    bench.work["verify a"] = judges("failed", "SNR 3 dB")
    results = bench.run()
    assert (results["a"].status, results["a"].reason) == ("failed", "SNR 3 dB")
    assert results["a"].code == 4
    assert "package a" not in bench.ran
    assert not (bench.root / "artifacts/m/1.0.0/a").exists()
    assert bench.run()["a"].code == 4, "a cached verdict closes the gate as well"


def test_unverified_ships_only_where_the_config_allows_it(bench: Bench) -> None:
    bench.work["verify a"] = judges("unverified", "no runtime")
    bench.work["verify b"] = judges("unverified", "no runtime")
    bench.allow["b"] = "checked by hand"
    results = bench.run()
    assert results["a"].code == 4
    assert results["a"].status == results["b"].status == "unverified"
    assert not (bench.root / "artifacts/m/1.0.0/a").exists()
    assert results["b"].code == 0
    assert bench.delivered("b") == "artifact b"


def test_a_stage_failure_ranks_before_a_parity_failure() -> None:
    assert worst({0, 4, 1}) == 1
    assert worst({4, 3}) == 3
    assert worst({0, 4}) == 4
    assert worst(set()) == 0


def test_jobs_bound_what_runs_at_once(bench: Bench) -> None:
    bench.run(jobs=1)
    assert bench.executor.most == 1
    bench.run(jobs=2, force=True)
    assert bench.executor.most == 2


def test_the_memory_budget_bounds_what_runs_at_once(bench: Bench) -> None:
    bench.run(memory=3 * GIB // 2)
    assert bench.executor.most == 1


def test_a_step_over_the_budget_runs_alone(bench: Bench) -> None:
    assert bench.run(memory=GIB // 10)["a"].status == "passed"
    assert bench.executor.most == 1


def test_learnt_peaks_take_the_place_of_estimates(bench: Bench) -> None:
    bench.run()  # each step says it took a quarter of a GiB
    bench.run(memory=3 * GIB // 4, force=True)
    assert bench.executor.most == 2


def test_forecast_says_what_a_build_would_do(bench: Bench) -> None:
    first = forecast(Ledger(bench.plan(), bench.store, scope="test"))
    assert (first[0].step, first[0].action, first[0].reason) == ("export", "run", "first build")
    assert {entry.action for entry in first[1:]} == {"maybe"}
    bench.run()
    second = forecast(Ledger(bench.plan(), bench.store, scope="test"))
    assert {entry.action for entry in second} == {"cached"}
