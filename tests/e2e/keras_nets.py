"""Small Keras models of many kinds, by name; each is quick to build and has weights that vary."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def _rnn(layer: Any, steps: int | None = 6) -> keras.Model:
    x = keras.Input((steps, 5), name="x")
    return keras.Model(x, layers.Dense(3, name="y")(layer(x)))


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="elu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def unet() -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    b = layers.Conv2D(8, 3, strides=2, padding="same", activation="swish")(a)
    up = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(b)
    wide = layers.UpSampling2D(2, interpolation="bilinear")(b)
    joined = layers.Concatenate()([a, up, wide])
    return keras.Model(image, layers.Conv2D(2, 1, name="mask")(joined))


def preprocessed() -> keras.Model:
    image = keras.Input((20, 24, 3), name="image")
    y = layers.Rescaling(1 / 127.5, offset=-1)(layers.Resizing(16, 16)(image))
    y = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(y)
    y = layers.ReLU(6.0)(layers.SeparableConv2D(4, 3)(y))
    return keras.Model(image, layers.Dense(4, name="y")(layers.GlobalAveragePooling2D()(y)))


def grouped() -> keras.Model:
    x = keras.Input((8, 8, 8), name="x")
    y = layers.GroupNormalization(4)(layers.Conv2D(8, 3, groups=4)(x))
    return keras.Model(x, layers.AveragePooling2D(2, name="y")(layers.PReLU()(y)))


def attention() -> keras.Model:
    x = keras.Input((7, 12), name="x")
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(3, 4)(x, x))
    z = layers.Dense(12)(layers.Dense(24, activation="gelu")(y))  # exact: Erfc in TensorFlow
    return keras.Model(x, layers.LayerNormalization(name="y")(y + z))


def text() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    y = layers.Conv1D(8, 3, padding="causal", activation="relu")(layers.Embedding(2, 8)(tokens))
    return keras.Model(tokens, layers.Dense(3, name="y")(layers.GlobalAveragePooling1D()(y)))


def lstm() -> keras.Model:
    return _rnn(layers.Bidirectional(layers.LSTM(4, return_sequences=True)))


def gru() -> keras.Model:
    return _rnn(layers.GRU(4, go_backwards=True))


def convolved_lstm() -> keras.Model:
    x = keras.Input((3, 6, 6, 2), name="x")
    return keras.Model(x, layers.ConvLSTM2D(3, 3, padding="same", name="y")(x))


def masked() -> keras.Model:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    y = layers.Embedding(2, 5, mask_zero=True)(tokens)
    return keras.Model(tokens, layers.SimpleRNN(4, name="y")(y))


def streaming() -> keras.Model:
    """State in and out, several inputs and outputs."""
    x = keras.Input((4, 5), name="x")
    given = [keras.Input((3,), name="h"), keras.Input((3,), name="c")]
    net = layers.LSTM(3, return_state=True, return_sequences=True)
    y, h, c = net(x, initial_state=given)
    return keras.Model([x, *given], {"y": y, "h_next": h, "c_next": c})


def volume() -> keras.Model:
    x = keras.Input((4, 6, 6, 2), name="x")
    return keras.Model(x, layers.Conv3DTranspose(2, 3, strides=2)(layers.Conv3D(3, 3)(x)))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = layers.Dense(4), layers.Dense(2)

    def call(self, signal: Any) -> dict[str, Any]:
        hidden = self.hidden(signal)
        return {"hidden": hidden, "out": self.out(hidden)}


def subclassed() -> keras.Model:
    model = Subclassed()
    model(keras.ops.zeros((1, 5)))
    return model


def unbuilt() -> keras.Model:
    return Subclassed()


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return unet()
    finally:
        keras.config.set_dtype_policy("float32")


def half() -> keras.Model:
    keras.config.set_dtype_policy("bfloat16")
    try:
        return sequential()
    finally:
        keras.config.set_dtype_policy("float32")


def stateful() -> keras.Model:
    x = keras.Input(batch_shape=(2, 4, 5), name="x")
    return keras.Model(x, layers.LSTM(3, stateful=True, name="y")(x))


def long_recurrence() -> keras.Model:
    return _rnn(layers.LSTM(4), steps=None)


def without_equivalent() -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Lambda(_odd, output_shape=(4,), name="odd")(x))


def _odd(x: Any) -> Any:
    import tensorflow as tf

    return tf.math.igamma(tf.abs(x) + 1.0, tf.abs(x))


def not_a_number() -> keras.Model:
    model = sequential()
    model.set_weights([weight * float("nan") for weight in model.get_weights()])
    return model
