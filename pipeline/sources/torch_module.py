"""A torch module from the user's factory: built, called and run as the reference."""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature, Tensor, axes
from crosscast.pipeline.sources.outputs import described, named, shapes
from crosscast.pipeline.sources.torch_weights import load_weights
from crosscast.pipeline.worker.usercode import call, load_function, place


def build(*, factory: str, weights: str | None) -> Any:
    """The module that `file.py:function` gives, with its weights: fp32, eval, without gradients."""
    module = _made(factory)
    if weights is not None:
        load_weights(module, Path(weights))
    return module.eval().requires_grad_(False).float()


def _made(factory: str) -> Any:
    import torch

    made = call(load_function(factory), what=f"factory {factory}")
    if isinstance(made, torch.nn.Module):
        return made
    raise StageError(
        f"the factory {factory} gave {_described(made)}, not a torch.nn.Module", fix=_mend(made)
    )


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return f"a {type(value).__name__}"


def _mend(value: Any) -> str:
    if isinstance(value, type):
        return f"return {value.__name__}(...), an instance"
    return "end the factory with `return model`" if value is None else "return the model itself"


class Reference:
    """The module as the reference: a Session that torch itself runs in fp32.

    keywords: names by which forward() takes the inputs; None where it takes them by position.
    """

    def __init__(self, module: Any, signature: Signature, outputs: Sequence[str] | None) -> None:
        self.module = module
        self.keywords = _keywords(module, [tensor.name for tensor in signature.inputs])
        self.inputs = signature.inputs
        self._dims = signature.dims
        self._wanted = outputs
        self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order, from the state that the module came in."""
        import torch

        self.reset()
        with torch.inference_mode():
            result = self.call(inputs)
        found = flattened(result)
        names = named([name for name, _ in found], self._wanted)
        return {
            name: tensor.detach().cpu().numpy().copy()
            for name, (_, tensor) in zip(names, found, strict=True)
        }

    def reset(self) -> None:
        """Undo what runs did to the buffers, whether they wrote into them or replaced them."""
        for name, buffer in self._buffers.items():
            owner, _, leaf = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[leaf] = buffer.clone()

    def call(self, inputs: Arrays) -> Any:
        """What forward() itself returns. Raises StageError where it raises."""
        try:
            return called(self.module, self.tensors(inputs), self.keywords)
        except Exception as error:
            raise StageError(
                f"the model refuses inputs {shapes(inputs)}{self._declared()}: "
                f"{type(error).__name__}: {brief(error)}{_where(error, self.module)}",
                fix="make the config's `inputs` (shape, dtype, sizes) those that forward() takes",
            ) from error

    def _declared(self) -> str:
        ranges = [f"{name} [{low}, {high}]" for name, (low, high) in self._dims.items()]
        return f" (of {', '.join(ranges)})" if ranges else ""

    def tensors(self, inputs: Arrays) -> tuple[Any, ...]:
        """The inputs as tensors, in the declared order."""
        import torch

        return tuple(torch.from_numpy(inputs[tensor.name].copy()) for tensor in self.inputs)


def called(module: Any, tensors: Sequence[Any], keywords: Sequence[str] | None) -> Any:
    """forward() on tensors in the declared order."""
    if keywords is None:
        return module(*tensors)
    return module(**dict(zip(keywords, tensors, strict=True)))


def _keywords(module: Any, names: list[str]) -> list[str] | None:
    """The names, where forward() knows them all and position would not do."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind in kinds}
    first = [
        parameter.name
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    if not set(names) <= known or first[: len(names)] == names:
        return None
    return names


def flattened(result: Any) -> list[tuple[str, Any]]:
    """The tensors of what forward() returned, by name: the keys of dicts and dataclasses,
    "output" for a single one, "output_0", "output_1" … for several. None is left out.
    """
    leaves = list(_leaves(result, ""))
    if not leaves:
        raise StageError("the model returns no tensor", fix="let forward() return its outputs")
    if len(leaves) == 1 and leaves[0][0] == "0":
        return [("output", leaves[0][1])]
    return [
        (f"output_{name}" if name[:1].isdigit() else name or "output", leaf)
        for name, leaf in leaves
    ]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif value is not None:
        for key, entry in _entries(value, path):
            yield from _leaves(entry, f"{path}_{key}" if path else key)


def _entries(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), entry) for key, entry in value.items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        kept = [entry for entry in value if entry is not None]
        return [(str(index), entry) for index, entry in enumerate(kept)]
    raise StageError(
        f"the model returns a {type(value).__name__} as output{f' {path}' if path else ''}, "
        "not a tensor",
        fix="let forward() return tensors, or tuples, dicts or dataclasses of them",
    )


def plain(result: Any) -> bool:
    """Whether exporters deliver what forward() returned as the flat list that we name."""
    import torch

    entries = result if type(result) in (tuple, list) else [result]
    return all(isinstance(entry, torch.Tensor) for entry in entries)


def delivered(reference: Reference, signature: Signature, wanted: Signature, *, wrap: bool) -> Any:
    """The module that takes tensors in the declared order and layout and gives a flat tuple.

    It is the user's own module where that does so already: layers then keep their names.
    signature, wanted: in the source's layout and in the delivered one.
    """
    back = [
        axes(to.layout, ours.layout)
        for ours, to in zip(signature.inputs, wanted.inputs, strict=True)
    ]
    forth = [
        axes(ours.layout, to.layout)
        for ours, to in zip(signature.outputs, wanted.outputs, strict=True)
    ]
    if not (wrap or reference.keywords or any(back) or any(forth)):
        return reference.module
    return _adapter(reference.module, reference.keywords, back, forth)


def _adapter(
    module: Any,
    keywords: Sequence[str] | None,
    back: Sequence[tuple[int, ...] | None],
    forth: Sequence[tuple[int, ...] | None],
) -> Any:
    import torch

    class Delivered(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            result = called(self.model, _permuted(tensors, back), keywords)
            return _permuted([tensor for _, tensor in flattened(result)], forth)

    return Delivered().eval()


def _permuted(tensors: Sequence[Any], orders: Sequence[tuple[int, ...] | None]) -> tuple[Any, ...]:
    return tuple(
        tensor if order is None else tensor.permute(order)
        for tensor, order in zip(tensors, orders, strict=True)
    )


def brief(error: BaseException) -> str:
    """The first line of what it says, for messages."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]


def _where(error: BaseException, module: Any) -> str:
    """In which layer and at which of the user's lines it was raised."""
    names = {id(layer): name for name, layer in module.named_modules()}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    layers = [names.get(id(frame.f_locals.get("self"))) for frame in frames]
    layer = next((name for name in reversed(layers) if name), "")
    return (f", in layer '{layer}'" if layer else "") + f" ({place(error)})"
