"""Scheduled releases by the real daemon, and exports as the tools of others read them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import Any

import psutil
import pytest
import servers
from cli import crosscast

from crosscast.pipeline.schedule.export.systemd import calendars
from crosscast.pipeline.schedule.times import Times

pytestmark = pytest.mark.e2e

CONFIG = """
model: net
version: 1.0.0
source: {{onnx: net.onnx}}
inputs: {{x: {{shape: [batch, 4], dtype: float32, range: [-1, 1]}}}}
samples: {{parity: samples.py:samples}}
targets: {{onnx: {{}}}}
release:
  registry: {registry}
  schedule: {{cron: "{minute} * * * *", verify: {{cron: "0 5 * * 1", release: stable}}}}
  hooks:
    on_success: {{webhook: "${{HOOK_URL:-}}"}}
    on_failure: {{webhook: "${{HOOK_URL:-}}"}}
"""
SAMPLES = """
import time
from pathlib import Path

import numpy as np


def samples():
    while not Path({go!r}).exists():
        time.sleep(0.05)
    yield {{"x": np.ones((1, 4), "float32")}}
"""


class Project:
    """A small model, whose samples are there only once `go` is."""

    def __init__(self, root: Path, *, registry: str = "shelf") -> None:
        self.root, self.cache, self.go = root, root / "cache", root / "go"
        self.config = root / "net.yaml"
        # Nothing comes by itself while the test runs.
        minute = (datetime.now(UTC) + timedelta(minutes=30)).minute
        self.config.write_text(CONFIG.format(registry=registry, minute=minute))
        (root / "samples.py").write_text(SAMPLES.format(go=str(self.go)))
        self.weigh(1.0)

    def weigh(self, weight: float) -> None:
        """Write the model with other weights."""
        import numpy as np
        import onnx

        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
            "net",
            [value("x", onnx.TensorProto.FLOAT, ["batch", 4])],
            [value("y", onnx.TensorProto.FLOAT, ["batch", 3])],
            [onnx.numpy_helper.from_array(np.full((4, 3), weight, "float32"), "w")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
        model.ir_version = 10
        onnx.save(model, self.root / "net.onnx")

    def run(self, *words: str | Path) -> CompletedProcess[str]:
        return crosscast(*words, cache=self.cache)

    def once(self) -> CompletedProcess[str]:
        return self.run("schedule", "run", self.config, "--once")

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon, in a job."""
        before = len(self.logs())
        process = subprocess.Popen(
            [sys.executable, "-m", "crosscast.pipeline.cli", "schedule", "run", str(self.config)],
            env={**os.environ, "CROSSCAST_CACHE": str(self.cache)},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            assert waited(lambda: len(self.logs()) > before and "samples" in self.logs()[-1])
            yield process
        finally:
            process.kill()
            process.wait()

    def logs(self) -> list[str]:
        return [path.read_text() for path in sorted(self.cache.glob("schedule/net-*/logs/*.log"))]

    @property
    def state(self) -> Path:
        (file,) = self.cache.glob("schedule/net-*/state.json")
        return file

    def be_away(self) -> None:
        """Let two days pass in which nobody looks."""
        state = json.loads(self.state.read_text())
        before = datetime.fromisoformat(state["jobs"]["release"]["decided"]) - timedelta(days=2)
        state["jobs"]["release"]["decided"] = before.isoformat()
        self.state.write_text(json.dumps(state))

    def history(self) -> list[dict[str, Any]]:
        """Entries of the releases, newest first."""
        jobs = json.loads(self.state.read_text())["jobs"]
        return [*reversed(jobs["release"]["history"])]


def waited(condition: Callable[[], object]) -> bool:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a webhook was sent; its url is in HOOK_URL."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("HOOK_URL", f"http://127.0.0.1:{server.server_port}/a-secret")
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield got
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_was_missed_is_released_once_and_told(
    project: Project, told: list[dict[str, Any]]
) -> None:
    project.go.touch()
    assert project.once().returncode == 0
    assert project.history() == []

    project.be_away()
    done = project.once()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "net release: published 1.0.0" in done.stdout
    run, missed = project.history()
    assert (run["status"], run["version"], run["code"]) == ("published", "1.0.0", 0)
    assert (missed["status"], missed["times"]) == ("missed", 48)
    assert [(it["status"], it["version"], it["log"]) for it in told] == [
        ("published", "1.0.0", run["log"])
    ]

    project.be_away()
    assert "net release: nothing changed" in project.once().stdout
    project.weigh(2.0)
    project.be_away()
    assert "net release: published 1.0.1" in project.once().stdout
    assert len(told) == 2

    (project.root / "net.onnx").write_bytes(b"no model")
    project.be_away()
    assert project.once().returncode == 1
    failed = project.history()[0]
    assert (failed["status"], failed["code"]) == ("failed", 1)
    assert (told[2]["status"], told[2]["code"]) == ("failed", 1)
    shown = project.run("schedule", "status", "--json").stdout
    (status,) = json.loads(shown)
    assert [len(job["history"]) for job in status["jobs"]] == [8, 0]
    kept = "".join(path.read_text() for path in project.cache.glob("schedule/net-*/**/*.*"))
    assert "a-secret" not in kept + shown


def test_whoever_is_stopped_or_killed_leaves_a_sound_state(project: Project) -> None:
    project.once()
    project.be_away()
    with project.daemon() as process:
        second = project.run("schedule", "run", project.config)
        assert second.returncode == 2
        assert f"another daemon has this schedule: process {process.pid}" in second.stderr
        by_hand = project.run("release", project.config, "-o", project.root / "artifacts")
        assert by_hand.returncode == 5
        assert "another release of net is under way: process" in by_hand.stderr
        jobs = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert jobs
    assert waited(lambda: not any(job.is_running() for job in jobs))
    assert (project.history()[0]["status"], project.history()[0]["code"]) == ("interrupted", 130)

    project.be_away()
    with project.daemon() as process:
        jobs = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert waited(lambda: not any(job.is_running() for job in jobs))
    project.go.touch()
    assert project.once().returncode == 0
    assert [entry["status"] for entry in project.history()][:2] == ["interrupted", "missed"]
    project.be_away()
    assert "net release: published 1.0.0" in project.once().stdout


def exported(project: Project, kind: str, *words: str) -> list[Path]:
    out = project.root / kind
    done = subprocess.run(
        [
            *(sys.executable, "-m", "crosscast.pipeline.cli", "schedule", "export", kind),
            *(str(project.config), "-o", str(out), *words),
        ],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("kind", "schema"), [("github", "github-workflows"), ("gitlab", "gitlab-ci")]
)
def test_workflows_are_what_their_schemas_say(tmp_path: Path, kind: str, schema: str) -> None:
    project = Project(tmp_path, registry="oci://host/models")
    project.config.write_text(
        project.config.read_text().replace("verify:", "timezone: Asia/Tokyo, verify:")
    )
    (file,) = exported(project, kind)

    def check() -> CompletedProcess[str]:
        words = [servers.program("check-jsonschema"), "--builtin-schema", f"vendor.{schema}"]
        return subprocess.run([*words, str(file)], capture_output=True, text=True, check=False)

    done = check()
    assert done.returncode == 0, done.stdout
    file.write_text(file.read_text().replace("cron:", "crn:").replace("rules:", "rules: 5\n  x:"))
    assert check().returncode == 1


def systemd_analyze(*words: str | Path) -> CompletedProcess[str]:
    return subprocess.run(
        [servers.program("systemd-analyze"), *map(str, words)],
        env={**servers.environment(), "TZ": "UTC", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_systemd_takes_the_units(project: Project) -> None:
    files = exported(project, "systemd")
    assert len(files) == 4
    done = systemd_analyze("verify", "--man=no", *files)
    assert (done.returncode, done.stderr) == (0, "")
    files[0].write_text(files[0].read_text().replace("oneshot", "onshot"))
    assert "onshot" in systemd_analyze("verify", "--man=no", *files).stderr


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("0 3 * * *", "UTC"),
        ("*/20 5,6 * * 1-5", "America/New_York"),
        ("15 10 1,15 * *", "Asia/Tokyo"),
        ("0 0 * * 7", "UTC"),
        ("30 22 13 * FRI", "Australia/Sydney"),
        ("0 0 1 JAN,JUL 1-7", "UTC"),
        ("0 12 1-31 * 1", "UTC"),
        ("0 6 29 2 *", "UTC"),
    ],
)
def test_systemd_comes_when_cron_does(cron: str, zone: str) -> None:
    start = datetime(2026, 5, 1, 12, 34, tzinfo=UTC)
    expected = list(islice(Times(cron, zone).after(start), 12))
    found: set[datetime] = set()
    for calendar in calendars(Times(cron, zone)):
        base = f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC"
        done = systemd_analyze("calendar", "--iterations=12", base, calendar)
        assert done.returncode == 0, done.stderr
        for text in re.findall(r": \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout):
            found.add(datetime.fromisoformat(text).replace(tzinfo=UTC))
    assert sorted(found)[:12] == expected
