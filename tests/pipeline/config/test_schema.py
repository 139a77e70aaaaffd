"""The models on their own, and the JSON Schema that editors read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field, ValidationError

import crosscast.pipeline.config.schema as module
from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.config.schema import (
    TargetConfig,
    config_model,
    json_schema,
    parse_bytes,
    schema_text,
)
from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.errors import ConfigError
from crosscast.targets.base import Options


class OnnxOptions(Options):
    """Options of the fake target."""

    opset: int = Field(default=18, description="Opset of the file.")


def fake(options: type[Options], quantize: type[Options] | None) -> Any:
    return SimpleNamespace(Options=options, QuantizeOptions=quantize, summary="A fake.")


TARGETS = {"onnx": fake(OnnxOptions, None), "onnx-int8": fake(Options, OnnxOptions)}
VALUES = {
    "model": "net",
    "version": "1.0.0",
    "source": {"onnx": "net.onnx"},
    "targets": {"onnx-int8": {"from": "onnx"}, "onnx": None},
}


def test_without_a_context_nothing_is_looked_up() -> None:
    config = config_model(TARGETS).model_validate(VALUES)
    assert config.source.to_source() == {"kind": "onnx", "model": "net.onnx", "freeze": {}}
    assert config.targets["onnx"].options() == {"opset": 18}
    assert config.targets["onnx-int8"].quantize_options() == {"opset": 18}
    assert config.path == Path()


def test_a_config_is_frozen() -> None:
    config = config_model(TARGETS).model_validate(VALUES)
    with pytest.raises(ValidationError, match="frozen"):
        config.model = "other"
    with pytest.raises(ValidationError, match="frozen"):
        config.targets["onnx"].layout = "nhwc"


def test_closed_to_targets_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        config_model({"onnx": TARGETS["onnx"]}).model_validate(VALUES)


@pytest.mark.parametrize(
    ("text", "value"), [("1B", 1), ("2KiB", 2048), ("3 MiB", 3 << 20), ("1TiB", 1 << 40)]
)
def test_parse_bytes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "8", "8GB", "0GiB", "-1GiB", "1.5GiB", "8 gib", "8GiB "])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^expected a size such as '8GiB', got '{text}'$"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("name", "hint"), [("opsett", "; did you mean 'opset'?"), ("zz", ""), ("", "")]
)
def test_did_you_mean(name: str, hint: str) -> None:
    assert did_you_mean(name, ["opset", "layout"]) == hint


def test_the_schema_serves_an_editor() -> None:
    schema = json_schema(TARGETS)
    kinds = schema["$defs"]
    assert schema["additionalProperties"] is False
    assert sorted(schema["properties"]) == [
        "inputs", "labels", "limits", "metadata", "model", "outputs", "release", "samples",
        "source", "targets", "task", "version",
    ]  # fmt: skip
    assert sorted(kinds["Targets"]["properties"]) == sorted(TARGETS)
    assert kinds["Targets"]["additionalProperties"] is False
    assert kinds["onnx"]["properties"]["opset"]["description"] == "Opset of the file."
    assert set(kinds["onnx"]["properties"]) == {
        "from", "via", "layout", "preprocess", "parity", "allow_unverified", "opset",
    }  # fmt: skip
    assert "quantize" in kinds["onnx-int8"]["properties"]
    assert kinds["onnx"]["additionalProperties"] is False
    assert kinds["Input"]["additionalProperties"]["type"] == "array"
    assert len(schema["properties"]["source"]["oneOf"]) == len(SOURCES_SCHEMA)


def undescribed(schema: Any, path: str = "") -> list[str]:
    """The properties of a JSON Schema that have no description."""
    if not isinstance(schema, dict):
        return []
    found = [
        f"{path}.{name}"
        for name, entry in schema.get("properties", {}).items()
        if "description" not in entry
    ]
    return found + [
        missing
        for name, entry in {**schema.get("$defs", {}), **schema.get("properties", {})}.items()
        for missing in undescribed(entry, f"{path}.{name}")
    ]


def test_every_key_is_described() -> None:
    assert undescribed(json_schema(TARGETS)) == []


def test_the_schema_file_is_in_step() -> None:
    from crosscast.targets import TARGETS as real

    path = Path(module.__file__).with_name("schema.json")
    assert path.read_text() == schema_text(real), (
        "run: python -m crosscast.pipeline.config.schema > pipeline/config/schema.json"
    )
    assert undescribed(json.loads(path.read_text())) == []


def test_no_target_has_an_option_under_the_name_of_a_common_key() -> None:
    from crosscast.targets import TARGETS as real

    common = {*TargetConfig.model_fields, "from", "quantize"}
    assert {name: common & set(target.Options.model_fields) for name, target in real.items()} == {
        name: set() for name in real
    }
