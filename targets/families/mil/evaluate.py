"""Computing an ML Program operator by operator."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.families.mil.ops.arguments import IGNORED, Signature
from crosscast.targets.families.mil.ops.control import State
from crosscast.targets.families.mil.ops.table import operator
from crosscast.targets.families.mil.program import (
    Argument,
    Block,
    Constant,
    Function,
    Operation,
    Port,
)
from crosscast.targets.families.mil.program import Type as Declared

Watching: TypeAlias = "Callable[[Operation, Port, Any], None]"
"""Is told every value that an operator gives."""

EXACT = frozenset(
    (
        "abs", "batch_to_space", "clip", "concat", "crop", "depth_to_space", "expand_dims",
        "flatten2d", "gather", "gather_along_axis", "gather_nd", "identity", "max_pool", "maximum",
        "minimum", "pad", "pixel_shuffle", "pixel_unshuffle", "reduce_max", "reduce_min", "relu",
        "relu6", "reshape", "reshape_like", "resize_nearest_neighbor", "reverse",
        "reverse_sequence", "select", "slice_by_index", "slice_by_size", "sliding_windows",
        "space_to_batch", "space_to_depth", "split", "squeeze", "stack", "tile", "transpose",
        "upsample_nearest_neighbor",
    )
)  # fmt: skip
"""Operators that give elements which they were given, so that there is nothing to round."""

BRANCH = "cond"
LOOP = "while_loop"


class Evaluator:
    """A function, ready to run: its constants decompressed, its operators looked up.

    Every operator computes in float32, and what it gives is rounded to the dtype that the program
    declares for it: float16 is storage, sums are float32. ideal: float16 is not rounded, so that
    nothing but the rounding of weights is left; what a graph does wrong is then told from noise.
    """

    def __init__(
        self, function: Function, *, ideal: bool = False, watch: Watching | None = None
    ) -> None:
        """Raises Unproven where the program has what the evaluator has not."""
        self._function = function
        names = {port.name: _Name(port.name) for port in function.inputs}
        compiler = _Compiler(function.opset, ideal, watch)
        self._block = compiler.block(function.block, ChainMap(names))
        self._ideal = ideal

    def run(
        self, inputs: Mapping[str, Any], states: Mapping[str, State] | None = None
    ) -> dict[str, Any]:
        """The function's outputs, by name and in order.

        inputs: tensors or numpy arrays by the function's names. states: those that it keeps; they
        are changed. None: fresh ones, of zeros.
        Raises StageError where an operator does not take what it is given, Unproven where the
        evaluator does not know what it means.
        """
        kept = fresh_states(self._function) if states is None else states
        values: dict[str, Any] = {}
        for port in self._function.inputs:
            if port.type.state:
                values[port.name] = kept[port.name]
            else:
                given = torch.as_tensor(inputs[port.name])
                values[port.name] = settled(given, port.type, ideal=self._ideal)
        with torch.inference_mode():
            made = self._block.run(ChainMap(values))
        return dict(zip(self._function.block.outputs, made, strict=True))


def fresh_states(function: Function) -> dict[str, State]:
    """The states of a function, of zeros."""
    return {
        port.name: State(torch.zeros([size or 0 for size in port.type.shape]))
        for port in function.inputs
        if port.type.state
    }


def settled(value: Any, declared: Declared, *, ideal: bool) -> Any:
    """A value in the dtype that the program declares for it; text, lists and dicts as they are."""
    dtype = declared.dtype
    if not isinstance(value, torch.Tensor):
        return value
    if dtype == "fp16":
        return value.float() if ideal else value.half().float()
    if dtype in ("fp32", "fp64"):
        return value.float()
    if dtype == "bool":
        return value.bool()
    return value.to(torch.int64 if dtype == "int64" else torch.int32)


@dataclass(frozen=True)
class _Name:
    """A value that is not known before the program runs."""

    name: str


@dataclass(frozen=True, kw_only=True)
class _Step:
    """An operation and its arguments.

    known: those that are, converted. fed: the others, by parameter: names and values.
    frees: values that nothing reads afterwards.
    """

    operation: Operation
    ideal: bool
    watch: Watching | None = None
    signature: Signature | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    fed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    blocks: Sequence[_Block] = ()
    frees: Sequence[str] = ()

    def run(self, values: ChainMap[str, Any]) -> None:
        """Add what the operation gives to the values."""
        outputs = self.operation.outputs
        with _named(self.operation):
            made = self._made(values)
            if len(made) != len(outputs):
                raise StageError(f"gives {len(made)} values, the program has {len(outputs)}")
            for port, value in zip(outputs, made, strict=True):
                _check_shape(value, port.type)
                exact = self.ideal or self.operation.type in EXACT
                values[port.name] = settled(value, port.type, ideal=exact)
                if self.watch is not None:
                    self.watch(self.operation, port, values[port.name])
        for name in self.frees:
            values.maps[0].pop(name, None)

    def _made(self, values: ChainMap[str, Any]) -> Sequence[Any]:
        given = {name: _given(entries, values) for name, entries in self.fed.items()}
        if self.signature is not None:
            arguments = {name: self.signature.argument(name, own) for name, own in given.items()}
            made = self.signature.function(**self.known, **arguments)
            return made if isinstance(made, tuple) else (made,)
        if self.operation.type == BRANCH:
            (condition,) = given["pred"]
            return self.blocks[0 if bool(condition) else 1].run(values.new_child())
        return self._looped(given["loop_vars"], values)

    def _looped(self, state: Sequence[Any], values: ChainMap[str, Any]) -> Sequence[Any]:
        condition, body = self.blocks
        while bool(condition.run(condition.entered(state, values))[0]):
            state = body.run(body.entered(state, values))
        return state


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A block's steps; outputs: names, and values that are known."""

    inputs: Sequence[str]
    outputs: Sequence[Any]
    steps: Sequence[_Step]

    def entered(self, state: Sequence[Any], values: ChainMap[str, Any]) -> ChainMap[str, Any]:
        """The values that the block reads, its inputs among them."""
        return values.new_child(dict(zip(self.inputs, state, strict=True)))

    def run(self, values: ChainMap[str, Any]) -> list[Any]:
        """values: all that the block may read; its first map is the block's own."""
        for step in self.steps:
            step.run(values)
        return _given(self.outputs, values)


@dataclass(frozen=True)
class _Compiler:
    opset: int
    ideal: bool
    watch: Watching | None = None

    def block(self, block: Block, outer: ChainMap[str, Any]) -> _Block:
        """A block whose constants are computed. outer: the values of the blocks around it."""
        known = outer.new_child({port.name: _Name(port.name) for port in block.inputs})
        steps = []
        last = _last_uses(block)
        for place, operation in enumerate(block.operations):
            if operation.type == "const":
                (port,), (value,) = operation.outputs, operation.arguments["val"]
                known[port.name] = self._entry(value, known)
                continue
            step = self._step(operation, known, last.get(place, ()))
            if operation.type.startswith("constexpr_"):
                if step.fed:
                    raise StageError(f"{operation.type} '{operation.name}' is not constant")
                made: ChainMap[str, Any] = ChainMap({})
                step.run(made)
                known.update(made)
            else:
                steps.append(step)
                known.update({port.name: _Name(port.name) for port in operation.outputs})
        return _Block(
            inputs=[port.name for port in block.inputs],
            outputs=[self._entry(name, known) for name in block.outputs],
            steps=steps,
        )

    def _step(self, operation: Operation, known: ChainMap[str, Any], frees: Sequence[str]) -> _Step:
        entries = {
            name: [self._entry(argument, known) for argument in arguments]
            for name, arguments in operation.arguments.items()
            if name not in IGNORED
        }
        made = partial(_Step, operation=operation, ideal=self.ideal, watch=self.watch, frees=frees)
        if operation.type in (BRANCH, LOOP):
            return made(fed=entries, blocks=[self.block(it, known) for it in operation.blocks])
        signature = operator(operation.type, self.opset)
        signature.check(entries)
        fed = {name: own for name, own in entries.items() if any(map(_is_open, own))}
        with _named(operation):
            fixed = {
                name: signature.argument(name, own)
                for name, own in entries.items()
                if name not in fed
            }
        return made(signature=signature, known=fixed, fed=fed)

    def _entry(self, argument: Argument, known: ChainMap[str, Any]) -> Any:
        """A value that is known, or the name of one that is not."""
        if isinstance(argument, Constant):
            return _value(argument)
        if argument not in known:
            raise StageError(f"the program reads '{argument}', which nothing gives")
        return known[argument]


def _is_open(entry: Any) -> bool:
    return isinstance(entry, _Name)


def _given(entries: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
    return [values[entry.name] if _is_open(entry) else entry for entry in entries]


def _value(constant: Constant) -> Any:
    import numpy as np

    if not isinstance(constant.value, np.ndarray):
        return constant.value
    array = constant.value
    wide = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return settled(torch.from_numpy(wide), constant.type, ideal=True)


def _last_uses(block: Block) -> dict[int, list[str]]:
    """The values that no operation of the block reads after the one at a place, by place."""
    last = {name: place for place, it in enumerate(block.operations) for name in _reads(it)}
    made: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in block.outputs:
            made.setdefault(place, []).append(name)
    return made


def _reads(operation: Operation) -> Iterator[str]:
    for arguments in operation.arguments.values():
        yield from (argument for argument in arguments if isinstance(argument, str))
    for block in operation.blocks:
        yield from block.outputs
        for inner in block.operations:
            yield from _reads(inner)


def _check_shape(value: Any, declared: Declared) -> None:
    """Raise StageError for a tensor of another shape than the program declares for it."""
    if not isinstance(value, torch.Tensor) or declared.variadic:
        return
    fits = len(declared.shape) == value.dim() and all(
        wanted in (None, size) for wanted, size in zip(declared.shape, value.shape, strict=True)
    )
    if not fits:
        raise StageError(f"gives the shape {tuple(value.shape)}, declared is {declared.shape}")


@contextmanager
def _named(operation: Operation) -> Iterator[None]:
    """Errors say in which operator they arose; those of operators inside have said it."""
    try:
        yield
    except (_Told, Unproven):
        raise
    except StageError as error:
        raise _Told(f"{operation.type} '{operation.name}': {error.message}") from error
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
        said = str(error).partition("\n")[0]
        raise _Told(f"{operation.type} '{operation.name}': {said}") from error


class _Told(StageError):
    """An error that names its operator."""
