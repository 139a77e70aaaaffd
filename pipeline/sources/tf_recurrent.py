"""Recurrent layers of Keras 3 while they are exported: loops are the worst a converter can get.

Keras writes every recurrent layer as a while loop, which few runtimes take and none quantizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNROLLED_STEPS = 128
"""As many steps are written out one by one: a step is about ten operators."""

CARRIER = "CudnnRNNV3"
"""The operator that stands for a whole LSTM or GRU in the graph that ONNX is made from. It is
never run; `tf_onnx` reads the weights that `_packed` put into it."""


@contextmanager
def unrolled(model: Any) -> Iterator[None]:
    """Have recurrent layers of a short, fixed length written out step by step."""
    with _keras_3(lstm=_refused, gru=_refused), _keras_2(model):
        yield


@contextmanager
def as_operators(model: Any) -> Iterator[None]:
    """Have plain LSTM and GRU layers be one operator each, and the others unrolled."""
    with _keras_3(lstm=_lstm, gru=_gru), _keras_2(model):
        yield


@contextmanager
def _keras_3(**replaced: Any) -> Iterator[None]:
    from keras.src import backend

    before = {name: getattr(backend, name) for name in ("rnn", *replaced)}
    loop = before["rnn"]

    def rnn(step: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        import tensorflow as tf

        first = tf.nest.flatten(inputs)[0]
        steps = first.shape[0 if kwargs.get("time_major") else 1]
        kwargs["unroll"] = kwargs.get("unroll") or _is_short(steps)
        return loop(step, inputs, *args, **kwargs)

    for name, function in {"rnn": rnn, **replaced}.items():
        setattr(backend, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(backend, name, function)


@contextmanager
def _keras_2(model: Any) -> Iterator[None]:
    """The same for the layers of a tf_keras model, which know their lengths."""
    changed = []
    for layer in getattr(model, "_flatten_layers", list)():
        plain = hasattr(layer, "unroll") and hasattr(layer, "_could_use_gpu_kernel")
        steps = layer.input_shape[1] if plain and isinstance(layer.input_shape, tuple) else None
        if _is_short(steps):
            changed.append((layer, layer.unroll, layer._could_use_gpu_kernel))
            layer.unroll, layer._could_use_gpu_kernel = True, False
    try:
        yield
    finally:
        for layer, unroll, kernel in changed:
            layer.unroll, layer._could_use_gpu_kernel = unroll, kernel


def _is_short(steps: int | None) -> bool:
    return steps is not None and steps <= UNROLLED_STEPS


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError  # Keras' word for: take the general way


def _lstm(
    inputs: Any,
    initial_state_h: Any,
    initial_state_c: Any,
    mask: Any,
    *,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    time_major: bool = False,
) -> Any:
    """keras.backend.lstm as one operator. Gates: Keras i f c o, ONNX i o f c."""
    _require_plain(activation, recurrent_activation, mask, unroll, time_major)
    weights = _packed(kernel, recurrent_kernel, bias, gates=(0, 3, 1, 2))
    sequence, states = _operator(
        inputs, initial_state_h, initial_state_c, weights, "lstm", go_backwards
    )
    return states[0], _kept(sequence, return_sequences), states


def _gru(
    inputs: Any,
    initial_state: Any,
    mask: Any,
    *,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    time_major: bool = False,
    reset_after: bool = True,
) -> Any:
    """keras.backend.gru as one operator. Gates: z r h in both."""
    _require_plain(activation, recurrent_activation, mask, unroll, time_major)
    if not reset_after:
        raise NotImplementedError
    weights = _packed(kernel, recurrent_kernel, bias, gates=(0, 1, 2))
    sequence, states = _operator(inputs, initial_state, None, weights, "gru", go_backwards)
    return states[0], _kept(sequence, return_sequences), states


def _require_plain(
    activation: Any, recurrent_activation: Any, mask: Any, unroll: bool, time_major: bool
) -> None:
    from keras.src import activations

    plain = activation is activations.tanh and recurrent_activation is activations.sigmoid
    if not plain or mask is not None or unroll or time_major:
        raise NotImplementedError


def _packed(kernel: Any, recurrent: Any, bias: Any, *, gates: tuple[int, ...]) -> Any:
    """ONNX's W, R and B, one behind the other, flat."""
    import numpy as np

    count = len(gates)
    w, r = (_ordered(_value(matrix).T, gates) for matrix in (kernel, recurrent))
    held = np.zeros(w.shape[0], w.dtype) if bias is None else _value(bias)
    halves = held.reshape(2, -1) if held.size == 2 * w.shape[0] else [held, np.zeros_like(held)]
    b = [_ordered(half.reshape(w.shape[0], 1), gates) for half in halves]
    assert w.shape[0] % count == 0
    return np.concatenate([w.ravel(), r.ravel(), *(half.ravel() for half in b)])


def _ordered(matrix: Any, gates: tuple[int, ...]) -> Any:
    import numpy as np

    parts = np.split(matrix, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def _value(variable: Any) -> Any:
    import numpy as np
    import tensorflow as tf

    with tf.init_scope():  # outside of the function that is traced
        return np.asarray(variable)


def _operator(
    inputs: Any, state: Any, cell: Any, weights: Any, mode: str, backwards: bool
) -> tuple[Any, list[Any]]:
    """The carrier: sequence [batch, time, units], and the last states [batch, units]."""
    import tensorflow as tf

    x = tf.transpose(inputs, (1, 0, 2))
    x = tf.reverse(x, [0]) if backwards else x
    sequence, last, end, _, _ = tf.raw_ops.CudnnRNNV3(
        input=x,
        input_h=tf.expand_dims(state, 0),
        input_c=tf.expand_dims(tf.zeros_like(state) if cell is None else cell, 0),
        params=tf.constant(weights),
        sequence_lengths=tf.fill([tf.shape(inputs)[0]], tf.shape(inputs)[1]),
        rnn_mode=mode,
        is_training=False,
        time_major=True,
    )
    units = state.shape[-1]
    sequence.set_shape((x.shape[0], x.shape[1], units))
    ends = [tf.reshape(tensor, (-1, units)) for tensor in ([last] if cell is None else [last, end])]
    return tf.transpose(sequence, (1, 0, 2)), ends


def _kept(sequence: Any, whole: bool) -> Any:
    return sequence if whole else sequence[:, -1:]
