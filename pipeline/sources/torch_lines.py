"""The source's lines that made a network's values: read from an exported program, without torch."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

PROGRAM = "model.pt2"
GRAPH = "models/model.json"
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)')
LIBRARY = "torch."
WIDTH = 60
"""Letters of a line of code that are shown."""

CALLS = ("functional.py",)
"""Files of torch that layers' own calls go through."""


@dataclass(frozen=True)
class Lines:
    """Lines of the source as "net.py:12 in forward: x = self.conv(x)".

    values: by the value that the line makes. modules: by the path of the module that it calls.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, tree: Path) -> Lines:
        """Those that the program of `tree` tells; none where it tells none."""
        try:
            with zipfile.ZipFile(tree / PROGRAM) as archive:
                name = next(name for name in archive.namelist() if name.endswith(GRAPH))
                nodes = json.loads(archive.read(name))["graph_module"]["graph"]["nodes"]
        except (OSError, StopIteration, ValueError, KeyError, zipfile.BadZipFile):
            return cls()
        values: dict[str, str] = {}
        modules: dict[str, str] = {}
        for node in nodes:
            told = node.get("metadata", {})
            stack = [entry.split(",") for entry in told.get("nn_module_stack", "").split(";")]
            line = _line(told.get("stack_trace", ""), [entry[-1] for entry in stack])
            if line:
                values |= dict.fromkeys(_names(node), line)
                modules[stack[-1][1] if len(stack[-1]) > 1 else ""] = line
        return cls(values, modules)

    def of(self, value: str, node: str) -> str:
        """The line that made a value of an exported ONNX graph; empty where it is not known.

        node: its operator's name: the module's path, a slash, and what the exporter calls it.
        """
        path, _, name = node.rpartition("/")
        own = self.values.get(value) or self.values.get(name.removeprefix("node_"))
        return own or (self.modules.get(path, "") if path else "")


def _names(node: Mapping[str, Any]) -> Iterator[str]:
    for output in node.get("outputs", ()):
        tensor = output.get("as_tensor")
        if tensor:
            yield str(tensor["name"])


def _line(trace: str, kinds: list[str]) -> str:
    """The innermost line that is not of torch's own layers, behind the one that called it: a layer
    that many use is told by its caller. kinds: the classes of the modules that were being called;
    torch's are in the file that their own module names.
    """
    own = {f"{kind.split('.')[-2]}.py" for kind in kinds if kind.startswith(LIBRARY)}
    frames = [match for match in FRAME.findall(trace) if match[0] not in (*own, *CALLS)]
    return " -> ".join(
        f"{file}:{number} in {function}: {shorten(code, WIDTH, placeholder=' ...')}"
        for file, number, function, code in frames[-2:]
    )
