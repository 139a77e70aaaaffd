"""Reading a TFLite file that the user gives: its signature, its ports, and what no runtime here
can run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.impostors import refuse_impostors
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.onnx_runtime import DTYPES

UNDECLARED_SIZES = (1, 4)
"""Of a dynamic dimension whose least and greatest size the config does not declare."""

BATCH = "batch"
INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""What stands for real numbers in a file, with a scale and a zero point, and its bounds."""
FLEX = re.compile(r"Flex\w+")
CUSTOM = re.compile(r"custom op:? (\S+)")
_SERVING = "serving_default_"
_ANONYMOUS = ("StatefulPartitionedCall", "PartitionedCall", "Identity")
"""What TensorFlow calls outputs that have no name."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The inputs and outputs of one of a file's subgraphs, in its order, by names of ours.

    key: the signature that gives them names; None where the file has none.
    subgraph: its number.
    """

    key: str | None
    subgraph: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(path: Path) -> Any:
    """The file as a tree of objects. Raises StageError where it is none, or uses operators that
    LiteRT does not have.
    """
    import struct

    refuse_impostors(path, what="TFLite file", fix="give the binary .tflite file")
    content = path.read_bytes()
    if content[4:8] != files.IDENTIFIER:
        raise _no_model(path, "it does not begin as one")
    try:
        model = files.parse(content)
        whole = bool(model.subgraphs) and all(g.operators is not None for g in model.subgraphs)
    except (struct.error, ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise _no_model(path, str(error)) from error
    if not whole:
        raise _no_model(path, "it holds no graph")
    return model


def interpreter(path: Path) -> Any:
    """The file in LiteRT. Raises StageError where it refuses it."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        made = Interpreter(model_path=str(path), num_threads=1)
        made.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise _refused(path, str(error)) from error
    return made


def ports(model: Any, wanted: str | None) -> Ports:
    """The ports of the signature that is wanted (None: the first), or of the first subgraph."""
    signatures = {files.text(entry.signatureKey): entry for entry in model.signatureDefs or []}
    if wanted is not None and wanted not in signatures:
        known = ", ".join(f"'{key}'" for key in signatures) or "none"
        raise StageError(
            f"source.signature: the TFLite file has no signature '{wanted}'",
            fix=f"it has {known}",
        )
    key = wanted if wanted is not None else next(iter(signatures), None)
    chosen = None if key is None else signatures[key]
    number = 0 if chosen is None else int(chosen.subgraphIndex)
    graph = model.subgraphs[number]
    told = ([], []) if chosen is None else (chosen.inputs, chosen.outputs)
    return Ports(
        key=key,
        subgraph=number,
        inputs=_names(graph, graph.inputs, told[0], "input"),
        outputs=_names(graph, graph.outputs, told[1], "output"),
    )


def tensors(model: Any, found: Ports, side: str) -> tuple[Tensor, ...]:
    """The inputs or outputs ("inputs", "outputs") as the file declares them."""
    graph = model.subgraphs[found.subgraph]
    return tuple(
        replace(_tensor(graph.tensors[index], name), range=_kept(model, graph, int(index)))
        for index, name in zip(getattr(graph, side), getattr(found, side), strict=True)
    )


def completed(model: Any, found: Ports, declared: Signature) -> Signature:
    """The declared inputs, with those that the config leaves out, in the file's order.

    Raises StageError where both say different things.
    """
    given = {tensor.name: tensor for tensor in declared.inputs}
    unknown = sorted(set(given) - set(found.inputs))
    if unknown:
        raise StageError(
            f"inputs: the TFLite file has no input {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, found.inputs))}",
            fix="name the inputs as the file does",
        )
    inputs = tuple(
        _agreed(there, given.get(there.name)) for there in tensors(model, found, "inputs")
    )
    dims = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    sizes = {dim: declared.dims.get(dim, UNDECLARED_SIZES) for dim in sorted(dims)}
    return replace(declared, inputs=inputs, dims=sizes)


def _names(graph: Any, indices: Sequence[int], told: Sequence[Any], side: str) -> tuple[str, ...]:
    """Names as the signature gives them, or the tensors' own, without what TensorFlow adds."""
    given = {int(entry.tensorIndex): files.text(entry.name) for entry in told or []}
    own = [_plain(files.text(graph.tensors[index].name)) for index in indices]
    names = [given.get(int(index), name) for index, name in zip(indices, own, strict=True)]
    several = len(names) > 1 and any(name in _ANONYMOUS for name in names)
    if several or len(set(names)) < len(names) or not all(names):
        return tuple(f"{side}_{number}" for number in range(len(names)))
    return tuple("output" if name == "StatefulPartitionedCall" else name for name in names)


def _plain(name: str) -> str:
    return re.sub(r":\d+$", "", name.removeprefix(_SERVING))


def _tensor(tensor: Any, name: str) -> Tensor:
    dtype = files.numpy_name(tensor.type)
    if dtype not in DTYPES.values():
        raise StageError(
            f"'{name}' of the TFLite file is {dtype}, which cannot be given or compared",
            fix="export the model with inputs and outputs of numbers",
        )
    shape = tuple(
        (BATCH if axis == 0 else f"{name}_dim{axis}") if size < 0 else size
        for axis, size in enumerate(files.signature_of(tensor))
    )
    numbers = _quantization(tensor) if dtype in INTEGERS else None
    return Tensor(name=name, shape=shape, dtype=dtype, quantization=numbers)


def _quantization(tensor: Any) -> tuple[float, int] | None:
    numbers = tensor.quantization
    if numbers is None or numbers.scale is None or len(numbers.scale) != 1:
        return None
    return float(numbers.scale[0]), int(numbers.zeroPoint[0])


def _kept(model: Any, graph: Any, index: int) -> tuple[float, float] | None:
    """The range that a file keeps of a float tensor, where it does nothing but quantize it."""
    readers = [operator for operator in graph.operators if index in operator.inputs]
    if {files.operator_name(model, one) for one in readers} != {"QUANTIZE"}:
        return None
    made = graph.tensors[readers[0].outputs[0]]
    numbers, dtype = _quantization(made), files.numpy_name(made.type)
    if numbers is None or dtype not in INTEGERS:
        return None
    scale, point = numbers
    low, high = ((bound - point) * scale for bound in INTEGERS[dtype])
    return float(f"{low:.6g}"), float(f"{high:.6g}")


def _agreed(found: Tensor, declared: Tensor | None) -> Tensor:
    """What is declared where it can be so; integers that stand for real numbers take any value."""
    if declared is None:
        if found.quantization is None:
            return found
        return replace(found, range=INTEGERS[found.dtype])
    fits = len(declared.shape) == len(found.shape) and all(
        isinstance(there, str) or here == there
        for here, there in zip(declared.shape, found.shape, strict=True)
    )
    if declared.dtype == found.dtype and fits:
        return replace(declared, quantization=found.quantization)
    ours, theirs = (
        f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]" for tensor in (declared, found)
    )
    raise StageError(
        f"input '{declared.name}' is declared as {ours}, the TFLite file has {theirs}",
        fix=f"declare {found.name} as {theirs}",
    )


def _no_model(path: Path, why: str) -> StageError:
    return StageError(
        f"{path} is not a TFLite model, or a truncated one ({why})",
        fix="fetch or convert it again, and compare its size with the original's",
    )


def _refused(path: Path, said: str) -> StageError:
    flex, custom = FLEX.search(said), CUSTOM.search(said)
    if flex or custom:
        name = flex[0] if flex else custom[1] if custom else ""
        return StageError(
            f"{path} uses the operator {name.rstrip('.')}, which LiteRT does not have",
            fix="convert the model again with TFLite's own operators only",
        )
    return StageError(
        f"LiteRT cannot load {path}: {' '.join(said.split())}",
        fix="fetch or convert it again; newer files need a newer ai-edge-litert",
    )
