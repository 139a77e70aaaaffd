"""What the TFLite targets share: ONNX -> onnx2tf -> LiteRT file."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Kind
from crosscast.targets.families import tflite_copy, tflite_saved_model
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families import tflite_graph as graphs
from crosscast.targets.families.tensorflow import SAVED_MODEL, TFLITE
from crosscast.targets.families.tflite_finish import finish
from crosscast.targets.families.tflite_merge import lean, merged
from crosscast.targets.families.tflite_onnx2tf import leave_alone
from crosscast.targets.families.tflite_recurrence import recurrent_lengths
from crosscast.targets.families.tflite_shapes import output_shapes
from crosscast.targets.families.tflite_sizes import Sizes, sizes_of
from crosscast.targets.families.tflite_trial import fault

FILE = "model.tflite"

ONNX2TF = Toolchain(
    name="onnx2tf",
    preload=("onnx2tf.onnx2tf", "onnx2tf.tflite_builder.lower_from_onnx2tf", "onnx", "onnxslim"),
    distributions=("onnx", "onnxslim", "ai-edge-litert", "flatbuffers", "numpy"),
    extra="tflite",
    overlay=Path(__file__).parent.parent / "onnx2tf.lock",
)
LITERT = Toolchain(
    name="litert",
    preload=(
        "ai_edge_litert.interpreter",
        "ai_edge_litert.schema_py_generated",
        "ai_edge_litert.schema_py_generated",
    ),
    distributions=("ai-edge-litert", "flatbuffers", "numpy"),
    extra="tflite",
)
QUANTIZER = Toolchain(
    name="ai-edge-quantizer",
    preload=("ai_edge_quantizer", "ai_edge_litert.interpreter"),
    distributions=("ai-edge-quantizer", "ai-edge-litert", "flatbuffers", "numpy"),
    extra="tflite",
)

NAMED = re.compile(
    r"(?:\b(?:op|node|tensor|input|output)=|(?:producer|tensor|mismatch|layout):(?:\d+:)?)"
    r"([^\s',:\])]+)"
)
"""How onnx2tf's errors name a layer or a tensor: `op=/a/Elu`, `duplicate_producer:add_1:[2, 3]`."""

CONVERTERS: Mapping[Kind, Toolchain] = {
    "tflite": LITERT,
    "saved_model": TFLITE,
    "onnx": ONNX2TF,
}
"""Where a conversion runs, by what it starts from."""


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:  # noqa: ARG001
    """Write `model.tflite`, fp32, with the ports of what the tree `model` holds: a SavedModel or an
    ONNX graph.

    Raises StageError where an operator has no TFLite equivalent, naming its layer.
    """
    if (model / FILE).is_file():
        tflite_copy.copied(model, out)
        return
    if (model / SAVED_MODEL).is_dir():
        made, inputs, outputs = tflite_saved_model.converted(model)
        finish(made, inputs=inputs, outputs=outputs)
        files.write(made, out / FILE)
        return
    source = model / "model.onnx"
    out.mkdir(parents=True, exist_ok=True)
    sizes = sizes_of(source, batch=graphs.batch_of(source))
    if sizes is None:
        files.write(_direct(source, out), out / FILE)
    else:
        _for_any_sizes(source, sizes, out)


def _for_any_sizes(source: Path, sizes: Sizes, out: Path) -> None:
    """Write the file of a graph with dynamic dimensions: that which is merged of several for
    fixed sizes, if it runs at all sizes, else the one that onnx2tf makes of the graph as it is.

    The latter is quicker made, but larger and slower, and with sizes that it does not know onnx2tf
    gets masks wrong without a word.
    """
    trials = [
        (shapes, output_shapes(source, shapes)) for shapes in map(sizes.shapes, sizes.trials())
    ]
    with contextlib.suppress(StageError):
        files.write(_merged(source, out, sizes), out / FILE)
        if not fault(out, trials):
            return
    files.write(_direct(source, out), out / FILE)


def _direct(source: Path, out: Path) -> Any:
    """The file that onnx2tf makes of the graph as it is."""
    prepared, made = _converted(source, out)
    finish(made, inputs=prepared.inputs, outputs=prepared.outputs)
    return made


def _merged(source: Path, out: Path, sizes: Sizes) -> Any:
    """The file for any sizes that is made of those for some fixed ones.

    Raises StageError where that does not work out.
    """
    points = sizes.points()
    shapes = [sizes.shapes(point) for point in points]
    greatest = sizes.shapes(sizes.trials()[-1])
    lengths = recurrent_lengths(source, shapes[0], greatest)
    prepared, made = _converted(source, out, shapes=shapes[0], lengths=lengths)
    ports, outputs, every = (prepared.inputs, prepared.outputs), [prepared.shapes], [made]
    del prepared  # its weights, which a large model has no room for twice
    for each in shapes[1:]:
        other, another = _converted(source, out, shapes=each, lengths=lengths)
        outputs.append(other.shapes)
        every.append(lean(another, made))
    if not merged(every, points, bounded=sizes.is_bounded, outputs=outputs):
        raise StageError("what onnx2tf makes for some sizes has no common form")
    finish(made, inputs=ports[0], outputs=ports[1])
    return made


def _converted(source: Path, out: Path, **choices: Any) -> tuple[graphs.Prepared, Any]:
    """The prepared graph and the file that onnx2tf makes of it. choices: of `prepare`."""
    prepared = graphs.prepare(source, **choices)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        made = files.read(_run_onnx2tf(prepared, Path(scratch)))
    _refuse_custom_operators(made, prepared.model)
    return prepared, made


def _run_onnx2tf(prepared: graphs.Prepared, scratch: Path) -> Path:
    """The fp32 file that onnx2tf makes under `scratch`."""
    import onnx
    import onnx2tf

    source = scratch / "model.onnx"
    onnx.save(prepared.model, str(source))
    leave_alone()
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            onnx2tf.convert(
                input_onnx_file_path=str(source),
                output_folder_path=str(scratch),
                tflite_backend="flatbuffer_direct",
                not_use_onnxsim=True,
                keep_shape_absolutely_input_names=[port.alias for port in prepared.inputs],
                non_verbose=True,
                verbosity="error",
            )
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        sys.stdout.write(log.getvalue())
        raise _explained(error, log.getvalue(), prepared.model) from error
    made = scratch / "model_float32.tflite"
    if not made.exists():
        raise StageError(f"onnx2tf wrote no float32 file:\n{_tail(log.getvalue())}")
    return made


def _explained(error: BaseException, log: str, model: Any) -> StageError:
    """What onnx2tf failed at, as far as its message or output tells."""
    causes = list(_causes(error))
    cause = causes[-1]
    told = [str(one) for one in causes if not isinstance(one, SystemExit)]
    said = "\n".join([*told, log])
    where = re.search(r"\bop=(\S+) node=(\S+)", said)
    if where:
        return _no_equivalent(f"{where[1]} (layer {where[2]})", _tail(str(cause)))
    node = _named(model, said)
    place = f" at operator {node.op_type} (layer {node.name})" if node else ""
    reason = _tail(said) if isinstance(cause, SystemExit) else f"{type(cause).__name__}: {cause}"
    return StageError(
        f"onnx2tf could not convert the model{place}: {reason}",
        fix="replace the operation in the model's code, or leave the tflite targets out",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on down to the first one."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _named(model: Any, said: str) -> Any:
    """The node that a message names, or else the one whose tensor it does; None for neither."""
    nodes = sorted(model.graph.node, key=lambda node: len(node.name), reverse=True)
    for node in nodes:
        if node.name and (f" {node.name}" in said or f"'{node.name}'" in said):
            return node
    named = set(NAMED.findall(said))
    found = (node for node in nodes if node.name in named or named.intersection(node.output))
    return next(found, None)


def _tail(log: str) -> str:
    """The last lines of a log, without progress bars and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line.split("\r")[-1].strip() for line in plain.splitlines()]
    return "\n".join([line for line in lines if line and "it/s]" not in line][-5:])


def _no_equivalent(operators: str, reason: str = "") -> StageError:
    return StageError(
        f"operator {operators} has no TFLite equivalent" + (f": {reason}" if reason else ""),
        fix="express it by other operations in the model's code, or leave the tflite targets out",
    )


def _refuse_custom_operators(made: Any, model: Any) -> None:
    """Raise StageError where onnx2tf wrote operators that LiteRT does not know."""
    found: dict[str, None] = {}
    for code, outputs in files.custom_operators(made):
        kind = code.removeprefix("ONNX_")
        same = [node for node in model.graph.node if node.op_type.upper() == kind]
        exact = [node for node in same if set(outputs) & set(node.output)]
        for node in exact or same:
            found[f"{node.op_type} (layer {node.name})"] = None
        if not same:
            found[code] = None
    if found:
        raise _no_equivalent(", ".join(found))
