"""A published recurrent model on a stream: the honest artifact passes, forgetful ones do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import CONFIG, crosscast
from verdicts import judged

from crosscast.pipeline.config.load import load

pytestmark = pytest.mark.e2e

SILERO = CONFIG.with_name("silero-vad.yaml")
MODELS = CONFIG.parent / "zoo/models/silero_vad/data"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("streams")
    done = crosscast("build", SILERO, "-t", "onnx", "-o", room, cache=room / "cache")
    assert done.returncode == 0, done.stderr
    return room / "silero-vad/6.2.3/onnx"


def rewired(honest: Path, folder: Path, change: Callable[[Any, str], None]) -> Path:
    """The artifact with another node where its graph gives the next state."""
    import onnx

    shutil.copytree(honest, folder)
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "next_state":
                node.output[index] = "state_before"
    change(model.graph, "state_before")
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    return folder


def zeroed(graph: Any, state: str) -> None:
    import onnx

    graph.node.append(onnx.helper.make_node("Sub", [state, state], ["next_state"]))


def not_passed_on(graph: Any, _: str) -> None:
    import onnx

    graph.node.append(onnx.helper.make_node("Identity", ["state"], ["next_state"]))


def test_the_honest_one_passes_and_says_what_feeds_what(honest: Path) -> None:
    manifest = json.loads((honest / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    assert manifest["verdict"]["origins"]["streamed"] == 8
    assert {one["name"]: one["fed_by"] for one in manifest["inputs"]} == {
        "x": None,
        "state": "next_state",
    }
    follows = [case.get("follows") for case in manifest["vectors"]["cases"]]
    assert [name for name in follows if name] == [f"streamed {step}" for step in range(7)]
    assert "`state` is a state: feed it what `next_state` was" in (honest / "USAGE.md").read_text()
    assert judged(honest, honest).status == "passed"


@pytest.mark.parametrize("change", [zeroed, not_passed_on])
def test_a_state_that_is_lost_shows_in_the_probability(
    honest: Path, tmp_path: Path, change: Callable[[Any, str], None]
) -> None:
    found = judged(honest, rewired(honest, tmp_path / "wrong", change))
    assert found.status == "failed"
    spoken = {row.case: row.numbers.snr_db for row in found.rows if row.output == "probability"}
    assert (spoken["streamed 0"] or 0) > 80
    assert (spoken["streamed 7"] or 0) < 80


def test_init_sees_what_feeds_the_state(tmp_path: Path) -> None:
    source = MODELS / "silero_vad_op18_ifless.onnx"
    config = tmp_path / "c.yaml"
    done = crosscast("init", source, "-o", config, "-t", "onnx", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert load(config).inputs["state"].fed_by == "stateN"
