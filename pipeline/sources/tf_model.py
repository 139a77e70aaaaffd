"""A model of TensorFlow's or Keras' that can be called: what it takes, and what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources.outputs import described, entries, named, shapes
from crosscast.pipeline.worker.usercode import place

Call: TypeAlias = "Callable[[Sequence[str], Sequence[Any]], Any]"

BATCH_SIZES = (1, 4)
OTHER_SIZES = (1, 64)
"""Of a dynamic dimension that the config does not declare: the first one, and any other."""

FIX = "make the config's `inputs` (names, shapes, dtypes, sizes) those that the model takes"
_BRIEF = 400


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in inference mode.

    call: computes what the model returns from its inputs' names and tensors, in order.
    inputs: what the model tells of its inputs, in order; None where it tells nothing.
    outputs: the model's own names for a flat list of outputs; None where it has none.
    variables: what a call might change.
    owner: kept alive for as long as `call` is used.
    notes: facts for the people who read logs.
    """

    call: Call
    inputs: tuple[Tensor, ...] | None
    outputs: tuple[str, ...] | None = None
    variables: tuple[Any, ...] = ()
    owner: Any = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Reference:
    """The model as the reference: a Session that TensorFlow runs eagerly."""

    def __init__(self, loaded: Loaded, signature: Signature, outputs: Sequence[str] | None) -> None:
        self.loaded = loaded
        self.inputs = signature.inputs
        self._names = tuple(tensor.name for tensor in signature.inputs)
        self._wanted = outputs
        self._state = [(variable, variable.numpy()) for variable in loaded.variables]
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order, from the state that the model came in."""
        import tensorflow as tf

        for variable, value in self._state:
            variable.assign(value)
        tensors = [tf.constant(inputs[name]) for name in self._names]
        try:
            found = self.flat(tensors)
        except StageError:
            raise
        except Exception as error:
            raise StageError(
                f"the model refuses inputs {shapes(inputs)}: {brief(error)} ({place(error)})",
                fix=FIX,
            ) from error
        return {name: _array(name, tensor) for name, tensor in found.items()}

    def flat(self, tensors: Sequence[Any]) -> dict[str, Any]:
        """The outputs by name: tensors for tensors, symbols while a function is traced."""
        result = self.loaded.call(self._names, tensors)
        found = flattened(result, self.loaded.outputs)
        names = named([name for name, _ in found], self._wanted)
        if self._wanted is None:
            names = distinct(names, taken=self._names)
        return {name: tensor for name, (_, tensor) in zip(names, found, strict=True)}


def flattened(result: Any, names: Sequence[str] | None) -> list[tuple[str, Any]]:
    """The tensors of a result by name: the keys of mappings and dataclasses, else `names` where
    there are as many, else "output" for a single one and "output_0", "output_1" … for several.
    """
    leaves = list(_leaves(result, ""))
    if not leaves:
        raise StageError("the model returns no tensor", fix="let it return its outputs")
    listed = isinstance(result, tuple | list) or len(leaves) == 1
    if names is not None and listed and len(names) == len(leaves) and _unnamed(result):
        return [(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
    if len(leaves) == 1 and leaves[0][0] in ("", "0"):
        return [("output", leaves[0][1])]
    return [(f"output_{name}" if name[:1].isdigit() else name, leaf) for name, leaf in leaves]


def distinct(names: Sequence[str], *, taken: Sequence[str]) -> tuple[str, ...]:
    """The names, with "_out" or a number behind those that an input or another output has."""
    seen, result = set(taken), list[str]()
    for name in names:
        fresh = name if name not in seen else f"{name}_out" if name in taken else f"{name}_1"
        count = 1
        while fresh in seen:
            count += 1
            fresh = f"{name}_{count}"
        seen.add(fresh)
        result.append(fresh)
    return tuple(result)


def completed(loaded: Loaded, declared: Signature) -> Signature:
    """The declared inputs, completed with those the model tells and in the model's order.

    Where no declared name is the model's and there are as many, they are new names, in order.
    Raises StageError where the two say different things. Without outputs: running tells those.
    """
    found = loaded.inputs
    if found is None:
        if not declared.inputs:
            raise StageError(
                "the model does not tell its inputs (a subclassed model that was never called, or "
                "a function without a signature)",
                fix="declare them in the config's `inputs`",
            )
        found = declared.inputs
    given = {tensor.name: tensor for tensor in declared.inputs}
    if not set(given) & {tensor.name for tensor in found} and len(given) == len(found):
        given = {told.name: tensor for told, tensor in zip(found, declared.inputs, strict=True)}
    _refuse_unknown(given, found)
    inputs = tuple(_agreed(tensor, given.get(tensor.name)) for tensor in found)
    _refuse_strings(inputs)
    return replace(declared, inputs=inputs, dims=_sizes(inputs, declared))


def _sizes(inputs: Sequence[Tensor], declared: Signature) -> dict[str, tuple[int, int]]:
    """The least and greatest size of each dynamic dimension, in order of appearance."""
    found: dict[str, tuple[int, int]] = {}
    for tensor in inputs:
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str):
                default = OTHER_SIZES if axis else BATCH_SIZES
                found.setdefault(dim, declared.dims.get(dim, default))
    return found


def told(name: str, shape: Sequence[int | None] | None, dtype: str) -> Tensor:
    """An input as the model tells it; None stands for a dynamic dimension.

    The first one is called "batch", others "<input>_dim<axis>". A float of rank 4 is an image.
    """
    if shape is None:
        raise StageError(
            f"the model does not tell the shape of its input '{name}'",
            fix="give the model a signature with a shape (tf.TensorSpec)",
        )
    dims = tuple(
        size if size is not None else f"{name}_dim{axis}" if axis else "batch"
        for axis, size in enumerate(shape)
    )
    layout: Layout | None = "nhwc" if len(dims) == 4 and dtype.startswith("float") else None
    return Tensor(name=name, shape=dims, dtype=dtype, layout=layout)


def by_position_or_name(function: Any, *, hidden: Sequence[str] = ()) -> Call:
    """How to call a function that takes its inputs as arguments, by keyword where it knows all
    their names; or else as one list or one mapping.

    hidden: parameters that are no inputs, with the value that they get.
    """
    known = parameters(function, hidden)

    def call(names: Sequence[str], tensors: Sequence[Any]) -> Any:
        if set(names) <= set(known):
            return function(**dict(zip(names, tensors, strict=True)))
        if len(known) >= len(tensors) or not known:
            return function(*tensors)
        try:
            return function(dict(zip(names, tensors, strict=True)))
        except (KeyError, TypeError, ValueError, AttributeError):
            return function(list(tensors))

    return call


def parameters(function: Any, hidden: Sequence[str]) -> list[str]:
    """The names of a function's arguments, but for those hidden; empty where it tells none."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.kind in kinds and p.name not in ("self", *hidden)]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    import tensorflow as tf

    if isinstance(value, tf.Tensor | tf.Variable):
        yield path, tf.convert_to_tensor(value)
    elif isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        raise StageError(
            f"the model returns a {type(value).__name__}{f' as {path}' if path else ''}, which no "
            "artifact can give",
            fix="return a dense tensor: to_tensor(), tf.sparse.to_dense()",
        )
    elif value is not None:
        for key, entry in _entries(value, path):
            yield from _leaves(entry, f"{path}_{key}" if path else key)


def _entries(value: Any, path: str) -> list[tuple[str, Any]]:
    found = entries(value)
    if found is not None:
        return found
    raise StageError(
        f"the model returns a {type(value).__name__}{f' as {path}' if path else ''}, not a tensor",
        fix="let it return tensors, or tuples, dicts or dataclasses of them",
    )


def _unnamed(result: Any) -> bool:
    """Whether a result has no names of its own."""
    if isinstance(result, tuple | list) and not hasattr(result, "_fields"):
        return all(_unnamed(entry) for entry in result)
    return not isinstance(result, Mapping) and not hasattr(result, "_fields")


def _array(name: str, tensor: Any) -> Any:
    array = tensor.numpy()
    if array.dtype.name == "bfloat16":
        raise StageError(
            f"output '{name}' is bfloat16, which no artifact can give",
            fix="cast it to float32 in the model",
        )
    return array


def _refuse_unknown(given: Mapping[str, Tensor], found: Sequence[Tensor]) -> None:
    unknown = sorted(set(given) - {tensor.name for tensor in found})
    if unknown:
        raise StageError(
            f"inputs: the model has no input {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(repr(tensor.name) for tensor in found)}",
            fix="name the inputs as the model does, or give all of them other names, in its order",
        )


def _agreed(found: Tensor, declared: Tensor | None) -> Tensor:
    """A fixed size is right where the model has a dynamic one; nothing else may differ."""
    if declared is None:
        return found
    fits = len(declared.shape) == len(found.shape) and all(
        isinstance(there, str) or here == there
        for here, there in zip(declared.shape, found.shape, strict=True)
    )
    if declared.dtype != found.dtype or not fits:
        ours, theirs = (f"{t.dtype} [{', '.join(map(str, t.shape))}]" for t in (declared, found))
        raise StageError(
            f"input '{declared.name}' is declared as {ours}, the model has {theirs}",
            fix=f"declare '{declared.name}' as the model has it",
        )
    return declared


def _refuse_strings(inputs: Sequence[Tensor]) -> None:
    for tensor in inputs:
        if tensor.dtype == "string":
            raise StageError(
                f"input '{tensor.name}' is of strings, which no target takes from a TensorFlow "
                "model",
                fix="ship the part of the model behind the text layer, whose inputs are integers",
            )


def brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text[:_BRIEF]}"
