"""Folding what is constant at inference into weights: parametrizations, batch normalisation."""

from __future__ import annotations

from typing import Any

BATCH_NORM = "aten.batch_norm.default"
CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")


def bake(module: Any) -> None:
    """Put in place of weights that are computed in every call (weight_norm, spectral_norm,
    parametrizations) what that gives in eval mode.
    """
    import torch
    from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

    removers = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}
    for layer in list(module.modules()):
        if isinstance(layer, torch.jit.ScriptModule):
            continue
        for hook in list(layer._forward_pre_hooks.values()):
            remove = removers.get(type(hook).__name__)
            if remove is not None and type(hook).__module__.startswith("torch.nn.utils."):
                remove(layer, hook.name)
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def fold_batch_norms(program: Any) -> int:
    """Fold what can be folded, in place; gives how many batch normalisations are gone.

    In eval mode conv -> batch_norm is one convolution with weight * s and (bias - mean) * s + b,
    where s = gamma / sqrt(variance + eps), computed here in float64. Every converter does the same
    later; done once and first, each of them has half the operators to handle.

    Left as they are: batch normalisation in train mode, without gamma and beta, behind a
    convolution whose output something else reads too, and weights that several layers share.
    """
    tensors = _tensors(program)
    folded = 0
    for node in list(program.graph.nodes):
        pair = _foldable(node, tensors)
        if pair:
            _fold(program, *pair, tensors)
            folded += 1
    if folded:
        program.graph_module.recompile()
    return folded


def _tensors(program: Any) -> dict[str, str]:
    """The name in the state dict of each parameter and buffer, by its placeholder's."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _foldable(norm: Any, tensors: dict[str, str]) -> tuple[Any, Any] | None:
    """The convolution and the batch normalisation that can be made one."""
    if norm.op != "call_function" or str(norm.target) != BATCH_NORM:
        return None
    conv, *parameters, training = norm.args[:6]
    if (
        training
        or not hasattr(conv, "op")
        or conv.op != "call_function"
        or str(conv.target) not in CONVOLUTIONS
    ):
        return None
    bias = conv.args[2] if len(conv.args) > 2 else None
    held = [conv.args[1], *parameters, *([bias] if bias is not None else [])]
    alone = all(getattr(value, "name", None) in tensors and len(value.users) == 1 for value in held)
    return (conv, norm) if alone and len(conv.users) == 1 else None


def _fold(program: Any, conv: Any, norm: Any, tensors: dict[str, str]) -> None:
    state = program.state_dict
    weight = tensors[conv.args[1].name]
    gamma, beta, mean, variance = (tensors[value.name] for value in norm.args[1:5])
    bias = conv.args[2] if len(conv.args) > 2 else None
    scale = state[gamma].double() / (state[variance].double() + norm.args[7]).sqrt()
    shift = (
        -state[mean].double()
        if bias is None
        else (state[tensors[bias.name]].double() - state[mean].double())
    )
    shape = (-1, *[1] * (state[weight].dim() - 1))
    _replace(program, weight, state[weight].double() * scale.reshape(shape))
    # beta's place takes the folded bias: a convolution without one has no place of its own
    _replace(program, beta, shift * scale + state[beta].double())
    conv.args = (*conv.args[:2], norm.args[2], *conv.args[3:])
    norm.replace_all_uses_with(conv)
    for spec in program.graph_signature.output_specs:
        if spec.arg.name == norm.name:
            spec.arg = type(spec.arg)(name=conv.name)
    program.graph.erase_node(norm)


def _replace(program: Any, name: str, value: Any) -> None:
    import torch

    old = program.state_dict[name]
    new = value.to(old.dtype)
    program.state_dict[name] = (
        torch.nn.Parameter(new, requires_grad=False) if isinstance(old, torch.nn.Parameter) else new
    )
