"""One module a source framework: how a model is loaded, run as the reference, and exported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Kind, Session

SOURCES: Mapping[str, str] = {
    "torch": "crosscast.pipeline.sources.torch",
    "onnx": "crosscast.pipeline.sources.onnx",
    "tflite": "crosscast.pipeline.sources.tflite",
    "keras": "crosscast.pipeline.sources.keras",
    "tensorflow": "crosscast.pipeline.sources.tensorflow",
    "sklearn": "crosscast.pipeline.sources.sklearn",
}


class Source(Protocol):
    """A source framework: one module that has these members.

    toolchain: where `signature`, `load` and `export` run.
    kinds: the kinds of tree that `export` can write, best first.

    `source` is always the config's source as a dict: its `kind` and this framework's own keys,
    with absolute paths. All members raise StageError for what the user can mend.
    """

    toolchain: Toolchain
    kinds: tuple[Kind, ...]

    def files(self, options: Mapping[str, Any]) -> dict[str, Path]:
        """The user's files that the source names, by key. Pure: no framework, no I/O."""
        ...

    def signature(self, *, source: Mapping[str, Any], declared: Signature) -> Signature:
        """What was declared, completed with what the file says of itself."""
        ...

    def load(
        self, *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
    ) -> Session:
        """The reference: fp32, eval mode, run by the source framework itself.

        outputs: names to give to the outputs, in order; None for the model's own.
        """
        ...

    def export(
        self,
        *,
        to: Kind,
        source: Mapping[str, Any],
        signature: Signature,
        outputs: Sequence[str] | None,
        opset: int | None,
        layout: Layout | None,
        program: Path | None,
        out: Path,
    ) -> dict[str, Any]:
        """Write a tree of kind `to` under `out` and return its notes.

        The tree holds the model, `signature.json` (inputs and outputs in the delivered layout)
        and `notes.json`. opset: None for the default (torch) or the file's own (ONNX).
        layout: None for the source's. program: an exported program to start from.
        """
        ...

    def dependencies(self) -> tuple[str, ...]:
        """The user's own files that were read in this process without being declared."""
        ...


def open_source(source: Mapping[str, Any]) -> Source:
    """The module of the source's kind, around which `source["fold"]` puts the preprocessing of
    the inputs that it names.
    """
    module = cast(Source, importlib.import_module(SOURCES[source["kind"]]))
    if not source.get("fold"):
        return module
    from crosscast.pipeline.sources.fold import FoldedSource

    return FoldedSource(module)
