"""Lines of the source, read from what torch writes of a program."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.sources.torch_lines import Lines

LINEAR = "torch.nn.modules.linear.Linear"


def node(name: str, trace: str, *modules: str) -> dict[str, Any]:
    stack = ";".join(f"L__self__{at},{module}" for at, module in enumerate(modules))
    return {
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {"stack_trace": trace, "nn_module_stack": stack},
    }


def frame(file: str, line: int, code: str) -> str:
    return f'File "{file}", line {line}, in forward\n    {code}'


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    nodes = [
        node(
            "linear",
            "\n  ".join(
                [
                    frame("net.py", 20, "x = block(x)"),
                    frame("net.py", 9, "return self.head(x)"),
                    frame("linear.py", 134, "return F.linear(input, self.weight, self.bias)"),
                ]
            ),
            ",net.Net",
            "blocks.0,net.Block",
            f"blocks.0.head,{LINEAR}",
        ),
        node("add", frame("net.py", 21, "return x + 1"), ",net.Net"),
        {"outputs": [{"as_sym_int": {"as_name": "size"}}], "metadata": {}},
    ]
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        content = json.dumps({"graph_module": {"graph": {"nodes": nodes}}})
        archive.writestr("model/models/model.json", content)
    return Lines.read(tmp_path)


HEAD = "net.py:20 in forward: x = block(x) -> net.py:9 in forward: return self.head(x)"


@pytest.mark.parametrize(
    ("value", "name", "line"),
    [
        ("linear", "blocks.0.head/node_linear", HEAD),
        ("logits", "blocks.0.head/node_linear", HEAD),
        ("val_3", "blocks.0.head/node_MatMul_7", HEAD),
        ("add", "node_add", "net.py:21 in forward: return x + 1"),
        ("val_4", "node_Reshape_2", ""),
        ("val_5", "blocks.1.head/node_MatMul_8", ""),
    ],
)
def test_a_value_s_line(lines: Lines, value: str, name: str, line: str) -> None:
    """By its own name, that of its operator, or the path of its module."""
    assert lines.of(value, name) == line


def test_what_is_no_program_tells_none(tmp_path: Path) -> None:
    assert Lines.read(tmp_path) == Lines()
    (tmp_path / "model.pt2").write_bytes(b"PK")
    assert Lines.read(tmp_path) == Lines()
