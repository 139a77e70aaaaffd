"""How a model's inputs become the arguments of forward(): nested, by keyword, some frozen."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from crosscast.pipeline.errors import StageError


class Binding(Protocol):
    """Calls a module with tensors in the order of its declared inputs.

    flat: whether they are forward()'s first arguments as they are.
    """

    @property
    def flat(self) -> bool:
        """See above."""
        ...

    def __call__(self, module: Any, tensors: Sequence[Any]) -> Any:
        """What forward() returns."""
        ...


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The inputs by their names: "state.0" and "state.1" are the tuple `state`, "batch.image" is
    an entry of the dict `batch`.

    keywords: whether arguments are passed by name. frozen: those with a constant value.
    lists: arguments that want a list in place of a tuple. open: whether forward() takes *args.
    """

    names: tuple[str, ...]
    keywords: bool
    frozen: Mapping[str, Any] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    open: bool = False

    @property
    def flat(self) -> bool:
        """Whether the inputs are forward()'s first arguments as they are."""
        nested = any("." in name for name in self.names)
        return not (self.keywords or self.frozen or self.open or nested)

    def __call__(self, module: Any, tensors: Sequence[Any]) -> Any:
        """What forward() returns."""
        given = nested(self.names, tensors)
        given |= {name: list(given[name]) for name in self.lists & given.keys()}
        if self.keywords:
            return module(**given, **self.frozen)
        return module(*given.values(), **self.frozen)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The inputs in the structure that an exported program was made with.

    leaves: the value of each leaf of `spec`; an input's position where `open` has it.
    """

    spec: Any
    leaves: tuple[Any, ...]
    open: Mapping[int, int]
    flat: bool

    def __call__(self, module: Any, tensors: Sequence[Any]) -> Any:
        """What forward() returns."""
        from torch.utils import _pytree

        leaves = list(self.leaves)
        for place, position in self.open.items():
            leaves[place] = tensors[position]
        args, kwargs = _pytree.tree_unflatten(leaves, self.spec)
        return module(*args, **kwargs)


def bound(module: Any, names: Sequence[str], frozen: Mapping[str, Any]) -> Arguments:
    """How `module` takes the inputs `names`, and constants for other arguments.

    By position, unless that would give an argument what is meant for another one.
    Raises StageError where names are neither all forward()'s own nor all free.
    """
    known = _Parameters.of(module)
    roots = list(dict.fromkeys(name.partition(".")[0] for name in names))
    _refuse_frozen(known, roots, frozen)
    places = {root: known.place(root) for root in roots}
    foreign = [root for root in roots if places[root] is None]
    misplaced = [root for index, root in enumerate(roots) if places[root] not in (None, index)]
    if misplaced and foreign and not known.open:
        raise StageError(
            f"inputs: forward() has an argument '{misplaced[0]}', but no '{foreign[0]}'; "
            f"it takes {', '.join(known.names)}",
            fix="name every input as forward() does, or list them in its order",
        )
    by_name = known.open and not known.varargs and (len(foreign) < len(roots) or not known.first)
    keywords = bool(misplaced) or (bool(foreign) and by_name)
    return Arguments(
        names=tuple(names),
        keywords=keywords,
        frozen=dict(frozen),
        lists=known.lists,
        open=known.varargs,
    )


def nested(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values by the first part of their dotted names, in tuples and dicts by the rest."""
    found: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        *path, leaf = name.split(".")
        holder = found
        for step in path:
            holder = holder.setdefault(step, {})
            if not isinstance(holder, dict):
                raise _clash(name)
        if leaf in holder:
            raise _clash(name)
        holder[leaf] = value
    return {name: _built(value) for name, value in found.items()}


def _built(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    entries = {key: _built(entry) for key, entry in value.items()}
    if set(entries) == {str(index) for index in range(len(entries))}:
        return tuple(entries[str(index)] for index in range(len(entries)))
    return entries


def _clash(name: str) -> StageError:
    return StageError(
        f"inputs: '{name}' cannot be part of another input",
        fix="name the parts of an argument 'argument.0', 'argument.1' or 'argument.key', and "
        "declare no input of the argument's own name",
    )


@dataclass(frozen=True, kw_only=True)
class _Parameters:
    """What forward() takes.

    first: by position, in order. names: by name. open, varargs: whether it has **kwargs, *args.
    lists: what TorchScript declares as lists.
    """

    first: list[str]
    names: list[str]
    open: bool = False
    varargs: bool = False
    lists: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: Any) -> _Parameters:
        schema = getattr(getattr(module, "forward", None), "schema", None)
        if schema is not None:
            arguments = schema.arguments[1:]
            names = [argument.name for argument in arguments]
            lists = (entry.name for entry in arguments if str(entry.type).startswith("List["))
            return cls(first=names, names=names, lists=frozenset(lists))
        kinds = inspect.Parameter
        parameters = inspect.signature(module.forward).parameters.values()
        first = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        every = (*first, kinds.KEYWORD_ONLY)
        return cls(
            first=[entry.name for entry in parameters if entry.kind in first],
            names=[entry.name for entry in parameters if entry.kind in every],
            open=any(entry.kind is kinds.VAR_KEYWORD for entry in parameters),
            varargs=any(entry.kind is kinds.VAR_POSITIONAL for entry in parameters),
        )

    def place(self, name: str) -> int | None:
        """Where an argument stands; -1 where by keyword alone, None where there is no such."""
        if name in self.first:
            return self.first.index(name)
        return -1 if name in self.names else None


def _refuse_frozen(known: _Parameters, roots: Iterable[str], frozen: Mapping[str, Any]) -> None:
    for name in frozen:
        if name in roots:
            raise StageError(
                f"source.freeze: '{name}' is declared as an input as well",
                fix=f"remove '{name}' from `inputs`, or do not freeze it",
            )
        if name not in known.names and not known.open:
            raise StageError(
                f"source.freeze: forward() has no argument '{name}'; "
                f"it takes {', '.join(known.names) or 'none'}",
                fix="freeze arguments by the names that forward() gives them",
            )
