"""A torch module as an exported program, or as a traced one where torch.export cannot do it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Layout, Signature, permute
from crosscast.pipeline.sources.outputs import examples, sizes
from crosscast.pipeline.sources.torch_fold import bake, fold_batch_norms
from crosscast.pipeline.sources.torch_module import Reference, brief, delivered, plain
from crosscast.pipeline.worker.usercode import place

PROGRAM = "model.pt2"
TRACED = "model.ts"
TRACE_TOLERANCE = 1e-3
"""Difference, relative to the outputs' greatest value, above which a trace took another path than
the module: reordered fp32 sums stay far below it."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A module ready for exporters.

    module: takes the inputs of `signature` by position and gives its outputs as a flat tuple.
    signature: inputs and outputs as delivered. arrays: sets of inputs for it, the first two of
    other sizes and values, the rest at the ends of the inputs' ranges.
    program: an ExportedProgram that is this module already.
    """

    module: Any
    signature: Signature
    arrays: tuple[Arrays, ...]
    program: Any = None

    def tensors(self, which: int = 0) -> tuple[Any, ...]:
        """One of the sets of inputs as tensors, in order."""
        import torch

        arrays = self.arrays[which]
        return tuple(torch.from_numpy(arrays[tensor.name]) for tensor in self.signature.inputs)


def prepared(reference: Reference, signature: Signature, layout: Layout | None) -> Prepared:
    """The reference's module in the delivered layout, with outputs and examples."""
    import torch

    from crosscast.pipeline.parity.samples import (
        adversarial,
    )  # planning needs this module, not numpy

    ours = replace(signature, outputs=reference.outputs)
    wanted = ours.permuted(layout)
    every = (*examples(ours), *(case.arrays for case in adversarial(ours)))
    with torch.no_grad():
        tensors = reference.tensors(every[0])
        wrap = not plain(reference.bind(reference.module, tensors), tensors)
    reference.reset()
    if reference.program is None:
        bake(reference.module)
        _multiply_experts(reference.module)
    as_it_is = reference.bind.flat and not wrap and ours == wanted
    return Prepared(
        module=delivered(reference, ours, wanted, wrap=wrap),
        signature=wanted,
        arrays=tuple(permute(arrays, tensors=ours.inputs, layout=layout) for arrays in every),
        program=reference.program if as_it_is else None,
    )


def _multiply_experts(module: Any) -> None:
    """Let mixtures of experts of the transformers library multiply matrices in batches: what they
    do otherwise is grouped by the data, for which no exporter has an operator.
    """
    for layer in module.modules():
        choose = getattr(layer, "set_experts_implementation", None)
        if getattr(getattr(layer, "config", None), "_experts_implementation", None) and choose:
            choose("batched_mm")
            return


@contextmanager
def exporting() -> Iterator[None]:
    """The state in which torch's exporters work best and quickest."""
    import gc

    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    # Attention's fused fast path is an operator that no exporter knows.
    torch.backends.mha.set_fastpath_enabled(False)
    # Exporters make millions of small objects and little garbage: a quarter of the time is gc's.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _attention_to_nothing():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if collecting:
            gc.enable()


def _attention_to_nothing() -> Any:
    """A mode in which attention gives 0, as torch's kernels do, where the mask leaves nothing to
    attend to. Exporters write a softmax over masked scores: an average over what is masked, or NaN.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    class Mode(torch.overrides.TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = kwargs or {}
            result = function(*args, **given)
            if function is not scaled_dot_product_attention:
                return result
            mask = args[3] if len(args) > 3 else given.get("attn_mask")
            if mask is None:
                return result
            seen = mask if mask.dtype is torch.bool else mask > -float("inf")
            return torch.where(seen.any(-1, keepdim=True), result, 0.0)

    return Mode()


def write_program(model: Prepared, out: Path) -> dict[str, Any]:
    """Write `model.pt2`, or `model.ts` where torch.export fails; give the notes.

    Raises StageError where the trace does not hold for other inputs either.
    """
    import torch

    with exporting():
        program, reason = exported(model)
        if program is not None:
            folded = fold_batch_norms(program)
            torch.export.save(program, out / PROGRAM)
            return {"exporter": "torch.export", "folded_batch_norms": folded}
        with _plain_names(model.module):
            _write_traced(traced(model, reason), out)
        return {"exporter": "torchscript", "reason": reason}


def exported(model: Prepared) -> tuple[Any, str]:
    """The exported program with the declared dimensions really dynamic, or None and why not."""
    import torch

    if any(isinstance(layer, torch.jit.ScriptModule) for layer in model.module.modules()):
        return None, "torch.export takes no TorchScript"
    if model.program is not None and not _specialised(model.program, model.signature):
        return model.program, ""
    reasons = []
    for dims, which, careful in _attempts(model.signature):
        program, reason = _exported(model, dims, which)
        if program is not None and careful:
            reason = _differences(model, program.module())
            program = None if reason else program
        if program is not None:
            _forget_machine(program)
            return program, ""
        reasons.append(reason)
    return None, reasons[0]


def _exported(model: Prepared, dims: Mapping[str, Any], which: int) -> tuple[Any, str]:
    """The program with those dimensions, from one of the sets of inputs, or None and why not."""
    import torch

    shapes = tuple(
        {axis: dims[str(dim)] for axis, dim in enumerate(tensor.shape) if dim in dims}
        for tensor in model.signature.inputs
    )
    # An adapter takes *tensors: one argument that holds them all.
    spec = (shapes,) if type(model.module).__name__ == "Delivered" else shapes
    try:
        program = torch.export.export(
            model.module, model.tensors(which), dynamic_shapes=spec if dims else None
        )
    except Exception as error:  # noqa: BLE001 - any failure here has the same answer: trace
        return None, f"torch.export failed: {_reason(error)}"
    fixed = _specialised(program, model.signature)
    return (None, f"torch.export fixed {fixed}") if fixed else (program, "")


def traced(model: Prepared, reason: str) -> Any:
    """The module traced by torch.jit, after it proved to hold for inputs of other sizes."""
    import torch

    try:
        # check_trace would compare it with itself on the inputs that it was made from
        trace = torch.jit.trace(model.module, model.tensors(), check_trace=False, strict=False)
    except Exception as error:
        raise StageError(
            f"the model can be neither exported nor traced: {reason}; "
            f"torch.jit.trace failed: {type(error).__name__}: {brief(error)} ({place(error)})",
            fix="let forward() compute with tensors only, whatever the values of its inputs",
        ) from error
    difference = _differences(model, trace)
    if difference:
        raise StageError(
            f"the model has data-dependent control flow, or code that fixes {_ranges(model)}: "
            f"a trace of it {difference}\n  {reason}",
            fix="replace Python `if`/`for`/int() on tensors and sizes by tensor operations "
            "(torch.where, masks), or declare the dimension with a fixed size",
        )
    return trace


def _write_traced(trace: Any, out: Path) -> None:
    """Write `model.ts` without debug records, which hold the places of source files."""
    import torch

    whole = out / f"{TRACED}.whole"
    trace.save(str(whole))
    reader, writer = (
        torch._C.PyTorchFileReader(str(whole)),
        torch._C.PyTorchFileWriter(str(out / TRACED)),
    )
    for name in reader.get_all_records():
        # the writer adds the version and identity of its own
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    whole.unlink()


@contextmanager
def _plain_names(module: Any) -> Iterator[None]:
    """Name the user's classes by their file alone: TorchScript writes the names of modules, and
    those of the user's files bear a digest of the file's place.
    """
    before = {type(layer): type(layer).__module__ for layer in module.modules()}
    try:
        for kind, name in before.items():
            kind.__module__ = _without_places(name)
        yield
    finally:
        for kind, name in before.items():
            kind.__module__ = name


def _attempts(signature: Signature) -> Iterator[tuple[dict[str, Any], int, bool]]:
    """What to tell torch of each dimension, by name, which inputs to take, and whether what comes
    of it has to be compared with the module. A dimension of a single size is a fixed size.

    First that all axes of one name have one size; then the same with inputs of other sizes, as
    the first ones may be small enough to be a case of their own (a last window, a single row);
    then that torch may find out by itself what sizes go together, which may end in a guard, and
    no artifact has those.
    """
    import torch

    ranges = {
        dim: (low, high)
        for dim, (low, high) in signature.dims.items()
        if low < high and any(dim in tensor.shape for tensor in signature.inputs)
    }
    named = {dim: torch.export.Dim(dim, min=low, max=high) for dim, (low, high) in ranges.items()}
    yield named, 0, False
    if ranges:
        yield named, 1, True
        hints = {dim: torch.export.Dim.AUTO(min=a, max=b) for dim, (a, b) in ranges.items()}
        yield hints, 0, True


def _user_inputs(program: Any) -> list[Any]:
    """The placeholders of the user's inputs, in order."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[name] for name in names]


def _specialised(program: Any, signature: Signature) -> str:
    """The declared dimensions that the program takes at fewer sizes than declared, or ''."""
    found = []
    for node, tensor in zip(_user_inputs(program), signature.inputs, strict=True):
        for size, dim in zip(node.meta["val"].shape, tensor.shape, strict=True):
            low, high = signature.dims.get(str(dim), (0, 0))
            if isinstance(dim, str) and low < high and not _takes(program, size, low, high):
                found.append(f"dimension '{dim}' [{low}, {high}] of '{tensor.name}' to {size}")
    return ", ".join(found)


def _takes(program: Any, size: Any, low: int, high: int) -> bool:
    if isinstance(size, int):
        return False
    bounds = program.range_constraints.get(size.node.expr)
    # torch does not tell 0 and 1 from 2 in bounds that it finds by itself
    return bounds is None or (bounds.lower <= max(low, 2) and bounds.upper >= high)


def _forget_machine(program: Any) -> None:
    """Leave file names, not their places, in what the program tells of its source."""
    import torch

    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if "stack_trace" in node.meta:
                node.meta["stack_trace"] = _without_places(node.meta["stack_trace"])
            if "nn_module_stack" in node.meta:
                node.meta["nn_module_stack"] = {
                    key: (path, _without_places(kind) if isinstance(kind, str) else kind)
                    for key, (path, kind) in node.meta["nn_module_stack"].items()
                }


def _without_places(text: str) -> str:
    text = re.sub(r'File "[^"]*/([^"/]+)"', r'File "\1"', text)
    return re.sub(r"_crosscast_(\w+?)_[0-9a-f]{12}\b", r"\1", text)


def _reason(error: BaseException) -> str:
    """Why torch.export gave up, in a line: its texts run to pages."""
    lines = [line.strip(" -") for line in str(error).strip().splitlines() if line.strip(" -")]
    telling = [
        line for line in lines if re.search(r"data-dependent|pecializ|must be|constant", line)
    ]
    line = next(iter(telling or lines), "")[:300]
    return f"{type(error).__name__}: {line} ({place(error)})"


def _differences(model: Prepared, other: Any) -> str:
    """In what a trace or program differs from the module on all inputs but the first, or ''."""
    found = (_difference(model, other, which) for which in range(1, len(model.arrays)))
    return next(filter(None, found), "")


def _difference(model: Prepared, other: Any, which: int) -> str:
    tensors = model.tensors(which)
    try:
        wanted = _flat(model.module(*tensors))
    except Exception as error:  # noqa: BLE001 - the user's code
        return f"cannot be compared: the model itself raises {type(error).__name__}"
    try:
        found = _flat(other(*tensors))
    except Exception as error:  # noqa: BLE001 - a trace raises what it likes
        return f"fails on inputs of other sizes or values: {brief(error)}"
    for tensor, got, want in zip(model.signature.outputs, found, wanted, strict=True):
        if got.shape != want.shape:
            return f"gives '{tensor.name}' {list(got.shape)} where it gives {list(want.shape)}"
        if not _close(got.numpy(), want.numpy()):
            return f"gives other values in '{tensor.name}' for other inputs"
    return ""


def _flat(result: Any) -> Sequence[Any]:
    return result if isinstance(result, tuple | list) else [result]


def _close(got: Any, want: Any) -> bool:
    import numpy as np

    if want.dtype.kind != "f" or not want.size:
        return bool(np.array_equal(got, want))
    scale = float(np.nanmax(np.abs(want), initial=0.0)) or 1.0
    return bool(np.allclose(got, want, rtol=0, atol=TRACE_TOLERANCE * scale, equal_nan=True))


def _ranges(model: Prepared) -> str:
    used: Mapping[str, int] = sizes(model.signature.inputs, model.arrays[0])
    ranges = [f"'{dim}' {list(model.signature.dims[dim])}" for dim in used]
    return f"a dimension ({', '.join(ranges)})" if ranges else "a value"
