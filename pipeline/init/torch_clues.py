"""What a torch module shows of its inputs without being run: arguments, layers, settings."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crosscast.pipeline.init.torch_guess import Argument, Clues, Layer

FIRST_LAYERS = 8
OPTIONAL = ("attention_mask",)
"""Arguments with a default that users give all the same."""


@dataclass(frozen=True)
class Arguments:
    """forward()'s arguments: those without a default, and all."""

    required: list[Argument]
    every: list[Argument]


def arguments_of(module: Any) -> Arguments:
    schema = getattr(getattr(module, "forward", None), "schema", None)
    if schema is not None:
        every = [Argument(name=one.name, kind=str(one.type)) for one in schema.arguments[1:]]
        needed = {one.name for one in schema.arguments[1:] if _is_needed(one)}
        return Arguments([one for one in every if one.name in needed], every)
    parameters = inspect.signature(module.forward).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    if not named:
        only = [Argument(name="input")]
        return Arguments(only, only)
    every = [Argument(name=one.name, kind=_kind(one.annotation)) for one in named]
    needed = {one.name for one in named if one.default is one.empty}
    return Arguments([one for one in every if one.name in needed], every)


def _is_needed(argument: Any) -> bool:
    """Whether a TorchScript argument has to be given: a tensor as a default stands for none, which
    exporters do not take.
    """
    import torch

    return not argument.has_default_value() or isinstance(argument.default_value, torch.Tensor)


def _kind(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )


def argument_sets(module: Any, arguments: Arguments, clues: Clues) -> list[list[Argument]]:
    """Which arguments to give, the likeliest first."""
    known = {one.name: one for one in arguments.every}
    needed = [one.name for one in arguments.required]
    main = getattr(module, "main_input_name", "")
    if main in known and not needed:
        needed = [main]
        if clues.config.get("is_encoder_decoder") and "decoder_input_ids" in known:
            needed.append("decoder_input_ids")
        text = main == "input_ids" and "pixel_values" in known
        more = [*needed, "pixel_values"] if text else needed
        masked = [name for name in OPTIONAL if name in known and main == "input_ids"]
        found = [[*more, *masked], more, needed]
    else:
        found = [needed] if needed else _subsets(list(known))
    order = list(known)
    unique = dict.fromkeys(tuple(sorted(set(one), key=order.index)) for one in found)
    return [[known[name] for name in one] for one in unique]


def _subsets(every: list[str]) -> list[list[str]]:
    """Of arguments that all have a default: the first, all, then what is between them."""
    some = every[:5]
    sizes = range(1, len(some) + 1)
    between = [list(one) for size in sizes for one in itertools.combinations(some, size)]
    return [some[:1], every, *between]


def first_layers(module: Any) -> tuple[Layer, ...]:
    """The first layers that show what they take, without repeats, in order of registration."""
    found: dict[Layer, None] = {}
    for layer in module.modules():
        kind = getattr(layer, "original_name", _torch_name(layer))
        for name in ("in_channels", "in_features", "num_embeddings", "input_size", "num_features",
                     "embed_dim", "normalized_shape"):  # fmt: skip
            takes = getattr(layer, name, None)
            takes = takes[-1] if isinstance(takes, tuple) and takes else takes
            if isinstance(takes, int) and not isinstance(takes, bool):
                found[_layer(layer, kind, takes)] = None
                break
    return tuple(found)[:FIRST_LAYERS]


def _torch_name(layer: Any) -> str:
    """The name of torch's own class that the layer is, or is derived from."""
    kinds = type(layer).__mro__
    own = (kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn.modules."))
    return next(own, kinds[0].__name__)


def _layer(layer: Any, kind: str, takes: int) -> Layer:
    hidden = getattr(layer, "hidden_size", 0)
    depth = getattr(layer, "num_layers", 1) * (2 if getattr(layer, "bidirectional", False) else 1)
    state = (depth, hidden) if isinstance(hidden, int) and hasattr(layer, "input_size") else (0, 0)
    return Layer(kind, takes, state, bool(getattr(layer, "batch_first", not state[1])))


def settings_of(module: Any) -> dict[str, Any]:
    """The settings of a model of the transformers or timm library, as plain values."""
    config: Any = getattr(module, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else config
    plain = dict(values) if isinstance(values, Mapping) else {}
    pretrained = getattr(module, "default_cfg", None)
    size = pretrained.get("input_size") if isinstance(pretrained, Mapping) else None
    if size and len(size) == 3:
        plain = {"num_channels": size[0], "image_size": list(size[1:]), **plain}
    for part in ("vision_config", "text_config", "backbone_config"):
        inner = plain.get(part)
        plain |= {key: one for key, one in (inner or {}).items() if key not in plain}
    return plain
