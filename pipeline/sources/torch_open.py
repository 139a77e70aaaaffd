"""A torch source opened: the user's factory, a TorchScript file or an exported program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature
from crosscast.pipeline.sources.torch_call import Binding, bound
from crosscast.pipeline.sources.torch_file import (
    kind_of,
    load_program,
    load_script,
    program_signature,
    program_tree,
    refuse_state,
    script_signature,
)
from crosscast.pipeline.sources.torch_weights import Weights, load_weights
from crosscast.pipeline.worker.usercode import call, load_function


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A module that can be called: fp32 and in eval mode where it is not a finished program.

    bind: how it takes the inputs. program: the ExportedProgram that it comes from.
    """

    module: Any
    bind: Binding
    program: Any = None


def opened(source: Mapping[str, Any], signature: Signature) -> Opened:
    """The source's module, ready to be called with the inputs of `signature`."""
    names = [tensor.name for tensor in signature.inputs]
    frozen = source.get("freeze") or {}
    if source.get("file") is None:
        module = _part(_built(source), source.get("submodule"))
        refuse_state(module)
        return Opened(module=module, bind=bound(module, names, frozen))
    path = Path(source["file"])
    if kind_of(path) == "torchscript":
        module = _part(_finished(load_script(path)), source.get("submodule"))
        refuse_state(module)
        return Opened(module=module, bind=bound(module, names, frozen))
    _refuse_for_program(source, path)
    program = load_program(path)
    module = program.module(check_guards=False).requires_grad_(False)
    return Opened(module=module, bind=program_tree(program), program=program)


def file_signature(source: Mapping[str, Any], declared: Signature) -> Signature:
    """The inputs that a model file states, with what was declared of them."""
    path = Path(source["file"])
    if kind_of(path) == "exported_program":
        return program_signature(load_program(path), declared, path)
    if declared.inputs:
        return declared
    module = _part(load_script(path, shapes=True), source.get("submodule"))
    return script_signature(module, declared, path)


def _built(source: Mapping[str, Any]) -> Any:
    """The module that `file.py:function` gives, with its weights: fp32, eval, no gradients."""
    module = _made(source["factory"])
    if source.get("weights") is not None:
        choice = Weights(
            path=Path(source["weights"]),
            key=source.get("weights_key") or "",
            prefix=source.get("weights_prefix") or "",
        )
        load_weights(module, choice)
    return _without_cache(_finished(module))


def _finished(module: Any) -> Any:
    """In eval mode, in fp32, without gradients."""
    import torch
    from torch.nn.parameter import is_lazy

    module.eval()
    for parameter in module.parameters():
        if not is_lazy(parameter):
            parameter.requires_grad_(False)
    return module.to(dtype=torch.float32) if _floating(module) else module


def _floating(module: Any) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return any(tensor.is_floating_point() for tensor in tensors)


def _without_cache(module: Any) -> Any:
    """Switch off the cache of past keys and values that decoders of the transformers library give
    beside their outputs: it is an object, and not the tensors that an artifact could give.
    """
    for layer in module.modules():
        config: Any = getattr(layer, "config", None)
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False
    return module


def _made(factory: str) -> Any:
    import torch

    torch.manual_seed(0)  # weights that the factory leaves to chance are the same in every step
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


def _part(module: Any, submodule: str | None) -> Any:
    """The module itself, or the one at a dotted path in it."""
    if not submodule:
        return module
    found = module
    for name in submodule.split("."):
        children = dict(found.named_children())
        if name not in children:
            raise StageError(
                f"source.submodule: there is no '{name}' in '{submodule}'",
                fix=f"it has {', '.join(children) or 'no parts'}",
            )
        found = children[name]
    return found


def _refuse_for_program(source: Mapping[str, Any], path: Path) -> None:
    for key in ("freeze", "submodule"):
        if source.get(key):
            raise StageError(
                f"source.{key}: {path.name} is an exported program, which is one whole graph",
                fix=f"remove `{key}`, and export the model as it is wanted",
            )
