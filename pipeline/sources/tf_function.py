"""A TensorFlow function from the user's factory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor
from crosscast.pipeline.sources.tf_model import (
    Call,
    Loaded,
    by_position_or_name,
    parameters,
    told,
)
from crosscast.pipeline.worker.usercode import call, load_function

_SEED = 0


def made(factory: str) -> Loaded:
    """What `file.py:function` gives: a tf.function, a concrete function, a tf.Module that can be
    called, or any other callable. Raises StageError for anything else.
    """
    import keras
    import tensorflow as tf

    tf.random.set_seed(_SEED)
    found = call(load_function(factory), what=f"factory {factory}")
    if isinstance(found, keras.Model):
        raise StageError(
            f"the factory {factory} gave a keras.Model", fix="name it under `keras:` instead"
        )
    if found is None or isinstance(found, type) or not callable(found):
        described = "None" if found is None else f"a {type(found).__name__}"
        raise StageError(
            f"the factory {factory} gave {described}, which cannot be called",
            fix="return a tf.function, or a tf.Module with a __call__",
        )
    variables = tuple(getattr(found, "variables", ()))
    specs = _specs(found)
    if specs is None:
        return Loaded(
            call=by_position_or_name(_inferring(found), hidden=("training",)),
            inputs=None,
            variables=variables,
            owner=found,
        )
    return Loaded(
        call=_packed(found, specs), inputs=_told(found, specs), variables=variables, owner=found
    )


def _inferring(found: Any) -> Callable[..., Any]:
    """The function in inference mode, where it knows another; while it is traced, its `if` and
    `for` on tensors become TensorFlow's.
    """
    import tensorflow as tf

    infers = partial(found, training=False) if "training" in parameters(found, ()) else found

    @wraps(infers.func if isinstance(infers, partial) else infers, assigned=(), updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        function = infers if tf.executing_eagerly() else tf.function(infers)
        return function(*args, **kwargs)

    return run


def _specs(found: Any) -> Any:
    """The structure of tf.TensorSpec that a function was made with; None where it has none."""
    function = found if hasattr(found, "input_signature") else type(found).__call__
    specs = getattr(function, "input_signature", None)
    if specs is None and hasattr(found, "structured_input_signature"):
        specs = found.structured_input_signature[0] or None
    return None if specs is None else tuple(specs)


def _told(found: Any, specs: Sequence[Any]) -> tuple[Tensor, ...]:
    import tensorflow as tf

    arguments = parameters(getattr(found, "python_function", found), ())
    tensors = []
    for position, part in enumerate(specs):
        leaves = tf.nest.flatten(part)
        argument = arguments[position] if position < len(arguments) else f"input_{position}"
        for index, spec in enumerate(leaves):
            name = spec.name or (argument if len(leaves) == 1 else f"{argument}_{index}")
            shape = None if spec.shape.rank is None else spec.shape.as_list()
            tensors.append(told(name, shape, spec.dtype.name))
    return tuple(tensors)


def _packed(found: Any, specs: Any) -> Call:
    import tensorflow as tf

    def invoke(names: Sequence[str], tensors: Sequence[Any]) -> Any:  # noqa: ARG001
        return found(*tf.nest.pack_sequence_as(specs, list(tensors)))

    return invoke
