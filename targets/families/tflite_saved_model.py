"""SavedModel -> LiteRT file, by TensorFlow's own converter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tensorflow import (
    SAVED_MODEL,
    SERVING,
    framework,
    keys,
    read_signature,
)
from crosscast.targets.families.tflite_graph import Port

FIX = "express it by other operations in the model's code, or leave the tflite targets out"
FIXED_SIZES = (
    "declare its inputs with fixed sizes, the batch included (a loop over a dynamic size has no "
    "TFLite equivalent), or set `via: onnx` for the target"
)
LOOPS = ("TensorList", "While")
"""What the names of operators begin with that stay where a loop could not be lowered."""


def converted(tree: Path) -> tuple[Any, tuple[Port, ...], tuple[Port, ...]]:
    """The fp32 file of the tree's SavedModel, and the ports that it must get, by their aliases.

    Raises StageError where an operator has no TFLite equivalent, naming its layer.
    """
    signature = read_signature(tree)
    made = files.parse(_by_tensorflow(tree / SAVED_MODEL))
    entry = _entry(made)
    sides = (
        ("input", signature.inputs, entry.inputs),
        ("output", signature.outputs, entry.outputs),
    )
    inputs, outputs = (
        _aliased(made, tensors, keys(tensors, side), named, signature, side)
        for side, tensors, named in sides
    )
    return made, inputs, outputs


def _by_tensorflow(folder: Path) -> bytes:
    tf = framework()
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SERVING])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return bytes(converter.convert())
    except MemoryError:
        raise
    except Exception as error:
        raise explained(error) from error


def explained(error: Exception) -> StageError:
    """What the converter failed at: it lists operators and where in the model they come from."""
    said = str(error)
    operators = dict.fromkeys(re.findall(r"'tf\.(\w+)' op ", said))
    if not operators:
        return StageError(
            f"TensorFlow's converter could not convert the model: {' '.join(said.split())[:400]}",
            fix=FIX,
        )
    listed = ", ".join(f"{name} (layer {_layer(said, name)})" for name in operators)
    looping = all(name.startswith(LOOPS) for name in operators)
    return StageError(
        f"operator {listed} has no TFLite equivalent", fix=FIXED_SIZES if looping else FIX
    )


def _layer(said: str, operator: str) -> str:
    """The first of the model's names at which the converter found the operator."""
    found = re.search(rf'"{operator}:",\s*"([^"@]+)', said)
    return found[1] if found else "unknown"


def _entry(made: Any) -> Any:
    """The serving signature of the file."""
    return next(e for e in made.signatureDefs if files.text(e.signatureKey) == SERVING)


def _aliased(
    made: Any,
    tensors: Sequence[Tensor],
    names: Sequence[str],
    entries: Sequence[Any],
    signature: Signature,
    side: str,
) -> tuple[Port, ...]:
    """Name each of the file's tensors by an alias, and give the ports in the declared order.

    Where the converter lost a dimension that is known, it is declared again.
    """
    graph = made.subgraphs[0]
    indices = {files.text(entry.name): entry.tensorIndex for entry in entries}
    ports = []
    for number, (tensor, name) in enumerate(zip(tensors, names, strict=True)):
        alias = f"crosscast_{side}_{number}"
        shape = tuple(_size(dim, signature) for dim in tensor.shape)
        if name in indices:
            held = graph.tensors[indices[name]]
            held.name = alias
            _declare(held, shape)
        elif side == "output":
            raise StageError(f"TensorFlow's converter lost the output '{tensor.name}'")
        ports.append(Port(name=tensor.name, alias=alias, shape=shape, dtype=tensor.dtype))
    return tuple(ports)


def _declare(held: Any, shape: tuple[int | None, ...]) -> None:
    found = files.signature_of(held)
    wanted = tuple(-1 if size is None else size for size in shape)
    fits = len(found) == len(wanted) and all(
        -1 in (here, there) or here == there for here, there in zip(found, wanted, strict=True)
    )
    if fits:
        files.set_shape(held, wanted)


def _size(dim: int | str, signature: Signature) -> int | None:
    """A dimension's fixed size; None where it is dynamic."""
    if isinstance(dim, int):
        return dim
    low, high = signature.dims.get(dim, (0, 1))
    return low if low == high else None
