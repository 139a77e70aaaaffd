"""Names that a ML Program can have, and sessions under the model's own."""

from __future__ import annotations

import numpy as np

from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.families.coreml_names import NAME_PREFIX, Renamed, identifiers, own_names


def test_plain_names_are_kept_and_others_become_plain() -> None:
    given = ["x", "gpu_0/data_0", "state", "7th", "a.b", "a_b", "a:b", "größe"]
    assert identifiers(given) == {
        "x": "x",
        "gpu_0/data_0": "gpu_0_data_0",
        "state": "state_value",
        "7th": "var_7th",
        "a.b": "a_b_0",
        "a_b": "a_b",
        "a:b": "a_b_1",
        "größe": "gr__e",
    }


def test_own_names_are_read_from_the_metadata() -> None:
    assert own_names({f"{NAME_PREFIX}a_b": "a/b", "other": "x"}) == {"a_b": "a/b"}


class Doubling:
    inputs = (Tensor(name="a_b", shape=(1,), dtype="float32"),)
    outputs = (Tensor(name="y", shape=(1,), dtype="float32"),)

    def run(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["a_b"] * 2}


def test_a_session_answers_to_the_models_own_names() -> None:
    session = Renamed(Doubling(), {"a_b": "a/b", "y": "y:0"})
    assert [tensor.name for tensor in (*session.inputs, *session.outputs)] == ["a/b", "y:0"]
    made = session.run({"a/b": np.ones(1, np.float32)})
    assert list(made) == ["y:0"]
    assert made["y:0"] == 2
