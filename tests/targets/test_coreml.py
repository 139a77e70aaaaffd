"""The parts of the Core ML family that need no Core ML."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families import coreml_convert, coreml_mend
from crosscast.targets.families.coreml import CoreMLOptions


def test_minimum_is_one_of_the_systems_that_have_ml_programs() -> None:
    assert CoreMLOptions().minimum == "iOS16"
    with pytest.raises(ValueError, match="iOS14"):
        CoreMLOptions.model_validate({"minimum": "iOS14"})


def test_identifiers_of_a_package_come_from_its_paths(tmp_path: Path) -> None:
    written = []
    for first, second in (("A", "B"), ("C", "D")):
        path = tmp_path / f"{first}.json"
        entries = {first: {"path": "x/model.mlmodel"}, second: {"path": "x/weights"}}
        path.write_text(json.dumps({"itemInfoEntries": entries, "rootModelIdentifier": first}))
        coreml_convert._normalise_manifest(path)
        written.append(path.read_text())
    assert written[0] == written[1]
    manifest = json.loads(written[0])
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    assert root == {"path": "x/model.mlmodel"}


def test_a_failure_is_named_by_operator_and_layer() -> None:
    stack = {"a": ("L['self']", "Net"), "b": ("L['self'].head.act", "Act")}
    node = SimpleNamespace(name="foo_1", meta={"nn_module_stack": stack})
    program = SimpleNamespace(graph=SimpleNamespace(nodes=[node]))
    line = "ERROR - converting 'foo' op (located at: 'x/foo_1'):"
    assert coreml_mend.layer_of(program, line) == " at operator foo (layer head.act)"
    assert coreml_mend.layer_of(object(), line) == " at operator foo (layer x.foo_1)"
    assert coreml_mend.layer_of(program, "something else") == ""


def test_inputs_are_matched_by_name_whatever_their_order() -> None:
    nodes = [
        SimpleNamespace(name=name, meta={"val": SimpleNamespace(shape=(1,))}) for name in ("b", "a")
    ]
    program = SimpleNamespace(
        graph=SimpleNamespace(nodes=nodes),
        graph_signature=SimpleNamespace(user_inputs=("b", "a")),
        range_constraints={},
    )
    tensors = tuple(Tensor(name=name, shape=(1,), dtype="float32") for name in ("a", "b"))
    ordered = coreml_convert._ordered(program, Signature(inputs=tensors))
    assert [tensor.name for tensor in ordered.inputs] == ["b", "a"]
