"""ONNX from a TFLite file, by tf2onnx, as far as it goes."""

from __future__ import annotations

import io
import logging
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.sources.onnx_clean import cleaned
from crosscast.pipeline.sources.onnx_layout import relayout
from crosscast.pipeline.sources.onnx_shapes import declare_inputs, declare_outputs
from crosscast.targets.base import NOTES, PRECISION
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import onnx_runtime
from crosscast.targets.families.onnx_upgrade import upgraded

OPSETS = range(13, 19)
"""What tf2onnx writes; quantized files need 13."""

DEFAULT_OPSET = 17
FOREIGN = re.compile(r"TFL_(\w+)")
_FIX = "leave the targets that start from ONNX out: the TFLite targets take the file as it is"


def to_onnx(
    path: Path, ours: Signature, *, opset: int | None, layout: Layout | None, out: Path
) -> dict[str, Any]:
    """Write the tree under `out` from a file whose ports have the signature's names; its notes."""
    model = _converted(path, min(max(opset or DEFAULT_OPSET, OPSETS.start), OPSETS.stop - 1))
    model = cleaned(model)
    if opset is not None:
        model = upgraded(model, opset)
    model.producer_name, model.producer_version, model.graph.name = "", "", "model"
    declare_inputs(model, ours.inputs)
    declare_outputs(model, ours.outputs)
    trees.save(relayout(model, ours, layout), out)
    trees.check(out, "what tf2onnx made of the TFLite file")
    write_json(out / "signature.json", ours.permuted(layout).to_json())
    held = onnx_runtime.precision(artifact=out).delivered
    notes = {"opset": trees.opset(model), **({} if held == "fp32" else {PRECISION: held})}
    write_json(out / NOTES, notes)
    return notes


def _converted(path: Path, opset: int) -> Any:
    try:
        import tf2onnx
    except ImportError as error:
        raise StageError(
            f"TFLite files become ONNX by tf2onnx, which cannot be imported: {error}",
            fix="install crosscast[tensorflow]; or " + _FIX,
        ) from error
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("tf2onnx").addHandler(handler)
    try:
        with redirect_stdout(log), redirect_stderr(log):
            model, _ = tf2onnx.convert.from_tflite(str(path), opset=opset)
    except Exception as error:
        raise _unknown(log.getvalue(), str(error)) from error
    finally:
        logging.getLogger("tf2onnx").removeHandler(handler)
    foreign = [node.op_type for graph in trees.graphs(model.graph) for node in graph.node]
    if any(FOREIGN.match(name) for name in foreign):
        raise _unknown(" ".join(foreign), "")
    return model


def _unknown(log: str, said: str) -> StageError:
    names = dict.fromkeys(FOREIGN.findall(log) or FOREIGN.findall(said))
    what = f": operator {', '.join(names)}" if names else f": {' '.join(said.split())[-300:]}"
    return StageError(
        f"the TFLite file has no equivalent in ONNX that tf2onnx knows{what}", fix=_FIX
    )
