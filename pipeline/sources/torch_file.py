"""TorchScript files and exported programs: told apart by content, read, their inputs found."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.impostors import refuse_impostors
from crosscast.pipeline.sources.torch_call import Tree

FileKind = Literal["torchscript", "exported_program"]

UNDECLARED_SIZES = (1, 64)
"""Sizes of a dimension that the file leaves open and the config does not mention."""
GREATEST_SIZE = 1024
"""A program that takes 'any' size says 2**63: what it is tried with has to fit into memory."""
FACTORY = (
    "write a function that builds the network and returns it, and give `torch: file.py:function`"
)


def kind_of(path: Path) -> FileKind:
    """What the file holds. Raises StageError for what is neither of the two."""
    refuse_impostors(path, what="model file", fix=FACTORY)
    names = _entries(path)
    if any(
        name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names
    ):
        return "exported_program"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "torchscript"
    raise StageError(f"model file {path} is {_other(path, names)}", fix=_fix(names))


def load_script(path: Path, *, shapes: bool = False) -> Any:
    """The TorchScript module, on the CPU; its graph with the shapes that it was traced with, where
    they are asked for and recorded.
    """
    import torch

    try:
        return torch.jit.load(str(path), map_location="cpu", _restore_shapes=shapes)
    except Exception as error:
        raise StageError(
            f"model file {path} cannot be read as TorchScript: {_first_line(error)}",
            fix="save it again with torch.jit.save, by a torch no newer than this one "
            f"({torch.__version__})",
        ) from error


def load_program(path: Path) -> Any:
    """The ExportedProgram."""
    import torch

    try:
        return torch.export.load(path)
    except Exception as error:
        raise StageError(
            f"model file {path} cannot be read as an exported program: {_first_line(error)}",
            fix="save it again with torch.export.save under this torch "
            f"({torch.__version__}), without classes and operators of other libraries",
        ) from error


def refuse_state(module: Any) -> None:
    """Raise StageError for TorchScript that keeps state in attributes from call to call."""
    import torch

    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule) and hasattr(layer, "forward"):
            graph = layer.inlined_graph  # held: its nodes die with it
            kept = sorted({node.s("name") for node in graph.findAllNodes("prim::SetAttr")})
            if kept:
                raise _stateful(name, layer, kept)


def _stateful(name: str, layer: Any, kept: list[str]) -> StageError:
    children = ", ".join(child for child, _ in layer.named_children())
    hint = f"; or name a part of it that keeps none as `submodule` (it has {children})"
    return StageError(
        f"the TorchScript module{f' {name!r}' if name else ''} keeps state from call to call in "
        f"{', '.join(kept)}, which no artifact can",
        fix="let forward() take the state as an input and return it" + hint * bool(children),
    )


def program_tree(program: Any) -> Tree:
    """How the program's module takes its inputs."""
    leaves: list[Any] = []
    places: dict[int, int] = {}
    for index, spec in enumerate(_user_inputs(program)):
        if _is_tensor(spec):
            places[index] = len(places)
        leaves.append(None if index in places else spec.arg.value)
    spec = program.call_spec.in_spec
    args, kwargs = spec.children_specs
    flat = kwargs.num_leaves == 0 and all(entry.is_leaf() for entry in args.children_specs)
    return Tree(
        spec=spec, leaves=tuple(leaves), open=places, flat=flat and len(places) == len(leaves)
    )


def program_signature(program: Any, declared: Signature, path: Path) -> Signature:
    """The program's inputs, with what the config says beside of ranges, layouts and sizes.

    Raises StageError where both say different things.
    """
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    found, dims = [], {}
    symbols: dict[str, str] = {}
    for spec in filter(_is_tensor, _user_inputs(program)):
        value = values[spec.arg.name]
        shape: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            key = str(size.node.expr)
            name = symbols.setdefault(key, _dim_name(axis, symbols))
            shape.append(name)
            dims[name] = _bounds(program, size)
        found.append(_tensor(spec.arg.name, tuple(shape), value.dtype, path))
    return completed(tuple(found), dims, declared, path)


def script_signature(module: Any, declared: Signature, path: Path) -> Signature:
    """The inputs that a traced file was made with, at their sizes."""
    found = tuple(_traced_inputs(module, path))
    if not found:
        raise StageError(
            f"model file {path} does not tell its inputs' shapes",
            fix="declare them under `inputs`: forward() takes "
            + ", ".join(argument.name for argument in module.forward.schema.arguments[1:]),
        )
    return replace(declared, inputs=found)


def completed(
    found: tuple[Tensor, ...],
    dims: Mapping[str, tuple[int, int]],
    declared: Signature,
    path: Path,
) -> Signature:
    """The file's inputs as the config has them where it has them.

    Raises StageError for names that the file does not have and for other dtypes and ranks.
    """
    given = {tensor.name: tensor for tensor in declared.inputs}
    names = [tensor.name for tensor in found]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise StageError(
            f"inputs: {path.name} has no input '{unknown[0]}'; it has {', '.join(names)}",
            fix="name the inputs as the file does",
        )
    inputs = tuple(_merged(tensor, given.get(tensor.name), path) for tensor in found)
    used = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    known = {**dims, **declared.dims}
    return replace(
        declared, inputs=inputs, dims={name: known.get(name, UNDECLARED_SIZES) for name in used}
    )


def _entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _other(path: Path, names: list[str]) -> str:
    if any("aotinductor" in name for name in names):
        return "compiled by AOTInductor for one machine: no model is left in it"
    if any(name.endswith("data.pkl") for name in names):
        return "a pickle of torch.save (a state_dict or a whole module), not a model that can run"
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:10] == b'{"':
        return "a safetensors file: weights without the network"
    if head[:1] == b"\x80":
        return "a pickle (a state_dict or a whole module), not a model that can run"
    return "neither TorchScript nor an exported program"


def _fix(names: list[str]) -> str:
    if any("aotinductor" in name for name in names):
        return "save the ExportedProgram itself with torch.export.save"
    return (
        f"{FACTORY}, with this file as `weights`; or save the model with torch.jit.save or "
        "torch.export.save"
    )


def _user_inputs(program: Any) -> list[Any]:
    return [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]


def _is_tensor(spec: Any) -> bool:
    return type(spec.arg).__name__ == "TensorArgument"


def _dim_name(axis: int, taken: Mapping[str, str]) -> str:
    name = "batch" if axis == 0 else f"dim{axis}"
    count = sum(re.fullmatch(rf"{name}(_\d+)?", other) is not None for other in taken.values())
    return f"{name}_{count + 1}" if count else name


def _bounds(program: Any, size: Any) -> tuple[int, int]:
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return UNDECLARED_SIZES
    # torch tells 0 and 1 from 2 and more only where a model does
    low = max(int(bounds.lower), 1)
    high = int(bounds.upper) if bounds.upper < GREATEST_SIZE else max(low, UNDECLARED_SIZES[1])
    return low, high


def _tensor(name: str, shape: tuple[int | str, ...], dtype: Any, path: Path) -> Tensor:
    text = str(dtype).removeprefix("torch.")
    if text in ("bfloat16", "complex64", "complex128"):
        raise StageError(
            f"{path.name}: input '{name}' is {text}, which no artifact can take",
            fix="export it with float32 inputs",
        )
    layout = "nchw" if len(shape) == 4 and "float" in text else None
    return Tensor(name=name, shape=shape, dtype=text, layout=layout)  # type: ignore[arg-type]


def _merged(tensor: Tensor, given: Tensor | None, path: Path) -> Tensor:
    if given is None:
        return tensor
    for what, its, mine in (
        ("dtype", tensor.dtype, given.dtype),
        ("number of dimensions", len(tensor.shape), len(given.shape)),
    ):
        if its != mine:
            raise StageError(
                f"inputs: '{given.name}' is declared with {what} {mine}, {path.name} has {its}",
                fix="declare it as the file has it, or leave it out",
            )
    return given


def _traced_inputs(module: Any, path: Path) -> Iterator[Tensor]:
    names = [argument.name for argument in module.forward.schema.arguments[1:]]
    values = list(module.graph.inputs())[1:]
    for name, value in zip(names, values, strict=True):
        sizes = getattr(value.type(), "sizes", lambda: None)()
        if sizes is None:
            return
        yield _tensor(name, tuple(sizes), value.type().dtype(), path)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {text}"
