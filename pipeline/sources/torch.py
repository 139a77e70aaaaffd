"""PyTorch: a factory that gives an nn.Module, a TorchScript file, or an exported program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.sources import torch_onnx
from crosscast.pipeline.sources.onnx_layout import relayout
from crosscast.pipeline.sources.torch_module import Reference
from crosscast.pipeline.sources.torch_onnx import NotExported
from crosscast.pipeline.sources.torch_open import file_signature, opened
from crosscast.pipeline.sources.torch_program import (
    PROGRAM,
    Prepared,
    prepared,
    write_program,
)
from crosscast.pipeline.sources.torch_weights import shards_read
from crosscast.pipeline.toolchain import Toolchain
from crosscast.pipeline.worker.usercode import own_files
from crosscast.targets.base import NOTES, Kind, read_notes
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import torch as torch_family

TORCH = Toolchain(
    name="torch",
    preload=torch_family.PRELOAD,
    distributions=("torch", "onnx", "onnxscript", "numpy", "safetensors"),
    extra="torch",
)

SIGNATURE = "signature.json"

toolchain = TORCH
kinds: tuple[Kind, ...] = ("exported_program", "onnx")


def dependencies() -> tuple[str, ...]:
    """The user's own files that were imported, and the files that an index of weights names."""
    return tuple(sorted({*own_files(), *shards_read()}))


def files(options: Mapping[str, Any]) -> dict[str, Path]:
    """The factory's file or the model's, and the weights where the config names some."""
    if options.get("file") is not None:
        return {"model": Path(options["file"])}
    found = {"factory": Path(options["factory"].rpartition(":")[0])}
    if options.get("weights") is not None:
        found["weights"] = Path(options["weights"])
    return found


def signature(*, source: Mapping[str, Any], declared: Signature) -> Signature:
    """What was declared, completed with what a model file tells; a module does not."""
    return declared if source.get("file") is None else file_signature(source, declared)


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The module as its author has it, run by torch in fp32 and eval mode; a file as it is."""
    model = opened(source, signature)
    return Reference(model.module, signature, outputs, bind=model.bind, program=model.program)


def export(
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
    """Write `model.pt2` (`model.ts`) or `model.onnx` under `out`; see the protocol."""
    if to == "exported_program":
        model = _prepared(source, signature, outputs, layout)
        notes = write_program(model, out)
        return _told(out, notes, model.signature)
    wanted = torch_onnx.DEFAULT_OPSET if opset is None else opset
    torch_onnx.refuse_opset(wanted)
    if program is not None:
        return _onnx(source, outputs, opset=wanted, layout=layout, program=program, out=out)
    with TemporaryDirectory(dir=out) as folder:
        made = Path(folder)
        model = _prepared(source, signature, outputs, layout)
        _told(made, write_program(model, made), model.signature)
        return _onnx(source, outputs, opset=wanted, layout=layout, program=made, out=out)


def _onnx(
    source: Mapping[str, Any],
    outputs: Sequence[str] | None,
    *,
    opset: int,
    layout: Layout | None,
    program: Path,
    out: Path,
) -> dict[str, Any]:
    """ONNX from the program, which needs none of the user's code, or else from the module."""
    ours = Signature.from_json(json.loads((program / SIGNATURE).read_text(encoding="utf-8")))
    notes: dict[str, Any] = {"exporter": "torch.onnx", "opset": opset}
    try:
        if not (program / PROGRAM).exists():
            raise NotExported(read_notes(program)["reason"])
        model = torch_onnx.from_program(program, signature=ours, opset=opset)
    except NotExported as reason:
        model = _traced(source, ours, outputs, opset=opset, program=program, reason=reason)
        notes |= {"exporter": "torchscript", "reason": str(reason)}
    trees.save(relayout(model, ours, layout), out)
    trees.check(out, "the exported model")
    return _told(out, notes, ours.permuted(layout))


def _traced(
    source: Mapping[str, Any],
    ours: Signature,
    outputs: Sequence[str] | None,
    *,
    opset: int,
    program: Path,
    reason: NotExported,
) -> Any:
    """ONNX by the TorchScript exporter, `reason` being why the other could not."""
    bare = replace(ours, outputs=())
    model = _prepared(source, bare, outputs, None)
    try:
        return torch_onnx.from_trace(model, opset=opset)
    except NotExported as error:
        operator = error.operator or reason.operator
        path = torch_onnx.layer_of(operator, program)
        layer = f" in layer '{path}'" if path else ""
        raise StageError(
            f"{f'operator {operator}{layer}' if operator else 'the model'} cannot be exported to "
            f"ONNX opset {opset}: torch.onnx for programs: {reason}; "
            f"torch.onnx for TorchScript: {error}",
            fix="write it with other operators, or ask for a newer opset (up to 22)",
        ) from error


def _told(out: Path, notes: dict[str, Any], signature: Signature) -> dict[str, Any]:
    write_json(out / SIGNATURE, signature.to_json())
    write_json(out / NOTES, notes)
    return notes


def _prepared(
    source: Mapping[str, Any],
    signature: Signature,
    outputs: Sequence[str] | None,
    layout: Layout | None,
) -> Prepared:
    reference = load(source=source, signature=signature, outputs=outputs)
    return prepared(reference, signature, layout)
