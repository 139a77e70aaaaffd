"""Where a model comes from: one class a source framework, each key declared once."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.config.fields import (
    CodeOrFile,
    CodeOrFolder,
    Download,
    ExistingFile,
    Model,
    problem,
)
from crosscast.pipeline.signature import Layout


class Source(Model):
    """Where a model comes from, in its author's framework.

    needs_inputs: whether the config has to declare the inputs, which the file does not say.
    layout: of the framework's image tensors.
    """

    needs_inputs: ClassVar[bool] = False
    layout: ClassVar[Layout] = "nchw"

    @classmethod
    def asks_inputs(cls, value: object) -> bool:  # noqa: ARG003 - it matters to some sources
        """Whether the inputs have to be declared where the source's own key has that value."""
        return cls.needs_inputs

    def downloads(self) -> tuple[Download, ...]:
        """The files that a build has to fetch."""
        return tuple(value for _, value in self if isinstance(value, Download))

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        raise NotImplementedError


class TorchSource(Source):
    """A PyTorch model: made by a function of the user's, TorchScript, or an exported program."""

    needs_inputs: ClassVar[bool] = True

    torch: CodeOrFile = Field(
        description="'file.py:function' that returns the torch.nn.Module, a TorchScript file, or "
        "an exported program (.pt2).",
    )
    weights: ExistingFile | None = Field(
        default=None,
        description="File with the state dict (torch or safetensors, or the index of its shards); "
        "without it, what the function made is used.",
    )
    weights_key: str = Field(
        default="", description="Where the state dict is in a checkpoint: a dotted path ('ema')."
    )
    weights_prefix: str = Field(
        default="",
        description="Beginning of the weights' names that is taken off; others are left out.",
    )
    submodule: str = Field(
        default="", description="Dotted path of the layer that is the model; default the whole."
    )
    freeze: dict[str, bool | int | FiniteFloat | str | None] = Field(
        default={},
        description="Arguments of forward() with a constant value, which are no inputs then.",
    )

    @classmethod
    def asks_inputs(cls, value: object) -> bool:
        """Files are looked into: programs state their inputs, and some TorchScript does."""
        return _is_code(str(value))

    @model_validator(mode="after")
    def _weights_have_a_place(self) -> TorchSource:
        if self.weights is None and (self.weights_key or self.weights_prefix):
            raise PydanticCustomError(
                "key_missing", "'weights_key' and 'weights_prefix' choose from a file of 'weights'"
            )
        if self.weights is not None and not _is_code(str(self.torch)):
            raise problem("a model file has its weights in it; remove 'weights'")
        return self

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        made = self.asks_inputs(self.torch)
        return {
            "kind": "torch",
            "factory": str(self.torch) if made else None,
            "file": None if made else str(self.torch),
            "weights": None if self.weights is None else str(self.weights),
            "weights_key": self.weights_key,
            "weights_prefix": self.weights_prefix,
            "submodule": self.submodule,
            "freeze": self.freeze,
        }


class OnnxSource(Source):
    """An ONNX file."""

    onnx: ExistingFile = Field(description="The ONNX file.")
    freeze: dict[str, bool | int | FiniteFloat | str | list[Any]] = Field(
        default={},
        description="Inputs of the file with a constant value (a number, or nested lists of the "
        "input's shape), which are no inputs then; If nodes on them are resolved.",
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        return {"kind": "onnx", "model": str(self.onnx), "freeze": self.freeze}


class TfliteSource(Source):
    """A TFLite file."""

    layout: ClassVar[Layout] = "nhwc"

    tflite: ExistingFile = Field(description="The TFLite file.")
    signature: str | None = Field(
        default=None, description="The signature that is meant; default the file's first."
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        return {"kind": "tflite", "model": str(self.tflite), "signature": self.signature}


class KerasSource(Source):
    """A Keras model: a file, or made by a function of the user's."""

    layout: ClassVar[Layout] = "nhwc"

    keras: CodeOrFile = Field(
        description="A .keras, .h5 or .hdf5 file, or 'file.py:function' that returns the "
        "keras.Model.",
    )
    trusted: bool = Field(
        default=False,
        description="Whether the file's Lambda layers, which are Python bytecode, may be run.",
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        made = _is_code(str(self.keras))
        return {
            "kind": "keras",
            "factory": str(self.keras) if made else None,
            "model": None if made else str(self.keras),
            "trusted": self.trusted,
        }


class TensorflowSource(Source):
    """A TensorFlow SavedModel, or a function made by one of the user's."""

    layout: ClassVar[Layout] = "nhwc"

    tensorflow: CodeOrFolder = Field(
        description="A SavedModel directory, or 'file.py:function' that returns a tf.function, a "
        "tf.Module or another callable.",
    )
    signature: str | None = Field(
        default=None,
        description="The SavedModel's signature to ship; default 'serving_default', or its only "
        "one.",
    )

    @model_validator(mode="after")
    def _signature_of_a_file(self) -> TensorflowSource:
        if self.signature is not None and _is_code(self.tensorflow):
            raise problem("a function has no signatures to choose from; remove 'signature'")
        return self

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        made = _is_code(self.tensorflow)
        return {
            "kind": "tensorflow",
            "factory": self.tensorflow if made else None,
            "model": None if made else self.tensorflow,
            "signature": self.signature,
        }


def _is_code(value: str) -> bool:
    """Whether a source's own key names a function, not a file."""
    return re.search(r"\.py(:|$)", value) is not None


class SklearnSource(Source):
    """A fitted scikit-learn estimator: a skops file, a trusted pickle, or made by a function."""

    sklearn: CodeOrFile = Field(
        description="A .skops file, a joblib or pickle file ('trusted: true'), or "
        "'file.py:function' that returns the fitted estimator.",
    )
    trusted: bool = Field(
        default=False,
        description="Whether the file may run code while it is read, as every pickle can.",
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        return {"kind": "sklearn", "model": str(self.sklearn), "trusted": self.trusted}


SOURCES_SCHEMA: dict[str, type[Source]] = {
    "torch": TorchSource,
    "onnx": OnnxSource,
    "tflite": TfliteSource,
    "keras": KerasSource,
    "tensorflow": TensorflowSource,
    "sklearn": SklearnSource,
}
"""The kinds of source, by the key that a config chooses one with."""
