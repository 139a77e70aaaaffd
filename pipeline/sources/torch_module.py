"""A torch module called and run as the reference, and what it returns."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature, Tensor, axes
from crosscast.pipeline.sources.outputs import described, entries, examples, named, shapes
from crosscast.pipeline.sources.torch_call import Binding, bound
from crosscast.pipeline.worker.usercode import place


class Reference:
    """The module as the reference: a Session that torch itself runs.

    bind: how the module takes the inputs; None where their names alone tell. program: the
    ExportedProgram that the module comes from, if it does.
    """

    def __init__(
        self,
        module: Any,
        signature: Signature,
        outputs: Sequence[str] | None,
        *,
        bind: Binding | None = None,
        program: Any = None,
    ) -> None:
        names = [tensor.name for tensor in signature.inputs]
        self.module = module
        self.bind = bind or bound(module, names, {})
        self.program = program
        self.inputs = signature.inputs
        self._dims = signature.dims
        self._wanted = outputs
        self._refuse_taken(names)
        self._materialise(signature)
        self._buffers = {name: (own, own.clone()) for name, own in module.named_buffers()}
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def _refuse_taken(self, names: Sequence[str]) -> None:
        for name in self._wanted or ():
            if name in names:
                raise StageError(
                    f"outputs: '{name}' is the name of an input as well",
                    fix="give the output another name",
                )

    def _materialise(self, signature: Signature) -> None:
        """Give lazy layers their sizes, which the first inputs tell; always the same weights."""
        import torch
        from torch.nn.parameter import is_lazy

        tensors = [*self.module.parameters(), *self.module.buffers()]
        if any(is_lazy(tensor) for tensor in tensors):
            torch.manual_seed(0)
            with torch.no_grad():
                self.call(examples(signature)[0])
            self.module.requires_grad_(False)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order, from the state that the module came in."""
        import torch

        self.reset()
        with torch.inference_mode():
            result = self.call(inputs)
        found = flattened(result)
        taken = {tensor.name for tensor in self.inputs}
        own = [f"{name}_out" if name in taken else name for name, _ in found]
        names = named(own, self._wanted)
        return {
            name: tensor.detach().cpu().numpy().copy()
            for name, (_, tensor) in zip(names, found, strict=True)
        }

    def reset(self) -> None:
        """Undo what runs did to the buffers, whether they wrote into them or replaced them."""
        import torch

        layers = dict(self.module.named_modules())
        for name, (own, value) in self._buffers.items():
            with torch.inference_mode():
                own.copy_(value)
            owner, _, leaf = name.rpartition(".")
            if not isinstance(layers[owner], torch.jit.ScriptModule):  # it holds on to its own
                layers[owner]._buffers[leaf] = own

    def call(self, inputs: Arrays) -> Any:
        """What forward() itself returns. Raises StageError where it raises."""
        try:
            return self.bind(self.module, self.tensors(inputs))
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
    found = entries(value)
    if found is not None:
        return found
    raise StageError(
        f"the model returns a {type(value).__name__} as output{f' {path}' if path else ''}, "
        "not a tensor",
        fix="let forward() return tensors, or tuples, dicts or dataclasses of them",
    )


def plain(result: Any, inputs: Sequence[Any] = ()) -> bool:
    """Whether exporters deliver what forward() returned as the flat list that we name.

    They do not where an output is an input, or given twice: it gets only one name then.
    """
    import torch

    entries = result if type(result) in (tuple, list) else [result]
    if not all(isinstance(entry, torch.Tensor) for entry in entries):
        return False
    return len({id(entry) for entry in (*entries, *inputs)}) == len(entries) + len(inputs)


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
    if reference.bind.flat and not (wrap or any(back) or any(forth)):
        return reference.module
    return _adapter(reference.module, reference.bind, back, forth)


def _adapter(
    module: Any,
    bind: Binding,
    back: Sequence[tuple[int, ...] | None],
    forth: Sequence[tuple[int, ...] | None],
) -> Any:
    import torch

    class Delivered(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            result = bind(self.model, _permuted(tensors, back))
            return _permuted(_apart([leaf for _, leaf in flattened(result)], tensors), forth)

    made = Delivered()
    made.training = False  # not eval(): the module inside is so already, and programs refuse it
    return made


def _apart(outputs: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The outputs, those that are an input or another output as copies."""
    seen = {id(tensor) for tensor in inputs}
    made = []
    for tensor in outputs:
        made.append(tensor.clone() if id(tensor) in seen else tensor)
        seen.add(id(tensor))
    return made


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
