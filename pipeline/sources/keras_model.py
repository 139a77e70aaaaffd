"""A Keras model, of Keras 3 or 2, brought to fp32 and inference, and how it is called."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor
from crosscast.pipeline.sources.tf_model import Call, Loaded, by_position_or_name, parameters, told
from crosscast.pipeline.worker.usercode import call, load_function

HALVES = ("float16", "bfloat16")
_SEED = 0
_SHAPE = "_shape"
_NO_INPUTS = ("training", "mask")


def built(factory: str) -> Any:
    """The model that `file.py:function` gives; fresh weights are the same in every process."""
    import keras

    keras.utils.set_random_seed(_SEED)
    made = call(load_function(factory), what=f"factory {factory}")
    if isinstance(made, _kinds_of_model()):
        return made
    described = "None" if made is None else f"a {type(made).__name__}"
    raise StageError(
        f"the factory {factory} gave {described}, not a keras.Model",
        fix="end the factory with `return model`; a tf.function is a `tensorflow:` source",
    )


def loaded(model: Any, notes: Mapping[str, Any]) -> Loaded:
    """The model ready to be called: fp32 whatever its policy, inference, no state kept."""
    _refuse_non_finite(model)
    model, made = in_float32(model)
    forgetful = _without_kept_state(model)
    inputs, invoke = _inputs(model)
    notes = {**notes, **({"dtype_policy": made} if made else {})}
    if forgetful:
        notes["stateful_layers"] = forgetful
    return Loaded(
        call=invoke,
        inputs=inputs,
        outputs=_output_names(model),
        variables=tuple(_values(model.non_trainable_variables)),
        owner=model,
        notes=notes,
    )


def in_float32(model: Any) -> tuple[Any, str]:
    """The model with every layer computing in fp32, and the policy it had where it was half.

    Mixed precision is how a model was trained on its author's machine; the weights are fp32, and
    each target chooses its own precision from there.
    """
    policies = {_policy(layer): None for layer in layers(model)}
    half = [name for name in policies if any(part in name for part in HALVES)]
    if not half:
        return model, ""
    if not all(name.startswith("mixed_") for name in half):
        model = _rebuilt(model)
    for layer in layers(model):
        if any(part in _policy(layer) for part in HALVES):
            _set_policy(layer)
    return model, half[0]


def layers(model: Any) -> Iterator[Any]:
    """The model and all layers in it."""
    yield from model._flatten_layers(include_self=True, recursive=True)


def _rebuilt(model: Any) -> Any:
    """A model of half-precision weights made again with fp32 ones."""
    try:
        config = _with_float32(copy.deepcopy(model.get_config()))
        made = type(model).from_config(config)
        if not made.built:
            made.build(model.input_shape)
        made.set_weights([weight.astype("float32") for weight in model.get_weights()])
    except Exception as error:
        raise StageError(
            f"the model's weights are of half precision, and it cannot be made again in fp32: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            fix="build it with keras.config.set_dtype_policy('float32'); fp16 is for the targets "
            "to deliver",
        ) from error
    return made


def _with_float32(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _with_float32(entry) for key, entry in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float32(entry) for entry in config)
    return "float32" if config in (*HALVES, "mixed_float16", "mixed_bfloat16") else config


def _policy(layer: Any) -> str:
    policy = getattr(layer, "dtype_policy", None)
    return str(getattr(policy, "name", policy))


def _set_policy(layer: Any) -> None:
    if _is_keras_2(layer):
        sys.modules["tf_keras"].layers.Layer._set_dtype_policy(layer, "float32")
    else:
        layer.dtype_policy = "float32"


def _without_kept_state(model: Any) -> list[str]:
    """Let stateful layers start from zeros in every call; their names."""
    found = [layer for layer in layers(model) if getattr(layer, "stateful", False) is True]
    names = [
        layer.name for layer in found if hasattr(layer, "reset_states") or hasattr(layer, "cell")
    ]
    for layer in found:
        layer.stateful = False
    return names


def _inputs(model: Any) -> tuple[tuple[Tensor, ...] | None, Call]:
    """What the model tells of its inputs, and how it is called with them."""
    infer = partial(model, training=False) if _takes_training(model) else model
    symbols = getattr(model, "inputs", None)
    if symbols:
        names = _symbol_names(model, symbols)
        tensors = tuple(
            told(name, symbol.shape, _dtype(symbol))
            for name, symbol in zip(names, symbols, strict=True)
        )
        return tensors, _packed(model, infer)
    function = _signed(model, infer)
    invoke = by_position_or_name(function, hidden=_NO_INPUTS)
    return _built_inputs(model, parameters(function, _NO_INPUTS)), invoke


def _signed(model: Any, infer: Callable[..., Any]) -> Callable[..., Any]:
    """`infer` with the parameters of the model's own call()."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return infer(*args, **kwargs)

    called.__wrapped__ = model.call  # type: ignore[attr-defined]
    return called


def _packed(model: Any, infer: Callable[..., Any]) -> Call:
    """How a model of known inputs is called: in the structure that it was made with."""
    struct = getattr(model, "_inputs_struct", None)
    if struct is None:
        struct = getattr(model, "_nested_inputs", None)

    def invoke(names: Sequence[str], tensors: Sequence[Any]) -> Any:  # noqa: ARG001
        if struct is None:
            return infer(*tensors)
        if _is_keras_2(model):
            import tensorflow as tf

            return infer(tf.nest.pack_sequence_as(struct, list(tensors)))
        import keras

        return infer(keras.tree.pack_sequence_as(struct, list(tensors)))

    return invoke


def _symbol_names(model: Any, symbols: Sequence[Any]) -> list[str]:
    """The keys of a mapping of inputs, else the names of their layers."""
    struct = getattr(model, "_inputs_struct", None)
    keys = {id(entry): key for key, entry in struct.items()} if isinstance(struct, dict) else {}
    names = getattr(model, "input_names", None) or [_layer_name(symbol) for symbol in symbols]
    return [keys.get(id(symbol), name) for symbol, name in zip(symbols, names, strict=True)]


def _layer_name(symbol: Any) -> str:
    history = getattr(symbol, "_keras_history", None)
    operation = getattr(history, "operation", None)
    return str(getattr(operation, "name", symbol.name))


def _dtype(symbol: Any) -> str:
    return str(getattr(symbol.dtype, "name", symbol.dtype)).replace("bfloat16", "float32")


def _built_inputs(model: Any, arguments: Sequence[str]) -> tuple[Tensor, ...] | None:
    """The inputs of a subclassed model as it was first called with; None where it never was."""
    shapes = getattr(model, "_build_shapes_dict", None)
    if not isinstance(shapes, Mapping) or not shapes:
        return None
    if len(shapes) == 1 and arguments:  # Keras calls the only one "input" whatever its name
        shapes = dict.fromkeys([f"{arguments[0]}{_SHAPE}"], next(iter(shapes.values())))
    found = []
    for key, shape in shapes.items():
        entries = shape if isinstance(shape, Mapping) else {key.removesuffix(_SHAPE): shape}
        for name, sizes in entries.items():
            if sizes is None or not all(size is None or isinstance(size, int) for size in sizes):
                return None
            # the size of the batch that it happened to be called with
            found.append(told(name, (None, *sizes[1:]), "float32"))
    return tuple(found)


def _output_names(model: Any) -> tuple[str, ...] | None:
    owner = getattr(model, "_functional", None) or model
    names = getattr(owner, "output_names", None)
    return tuple(names) if names else None


def _takes_training(model: Any) -> bool:
    import inspect

    parameters = inspect.signature(model.call).parameters.values()
    return any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)


def _values(variables: Sequence[Any]) -> Iterator[Any]:
    """The TensorFlow variables of a model's."""
    for variable in variables:
        yield (
            getattr(variable, "value", variable)
            if not callable(getattr(variable, "value", None))
            else variable
        )


def _kinds_of_model() -> tuple[type, ...]:
    import keras

    older = sys.modules.get("tf_keras")
    return (keras.Model, *([older.Model] if older is not None else []))


def _is_keras_2(layer: Any) -> bool:
    older = sys.modules.get("tf_keras")
    return older is not None and isinstance(layer, older.layers.Layer)


def _refuse_non_finite(model: Any) -> None:
    import numpy as np

    names = [
        getattr(variable, "path", variable.name)
        for variable in model.weights
        if (value := np.asarray(variable)).dtype.kind == "f" and not np.isfinite(value).all()
    ]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise StageError(
            f"the model's weights hold NaN or infinite values in {', '.join(names[:5])}{more}",
            fix="these weights cannot be proven or quantized: take a sound checkpoint",
        )
