"""Where a model comes from: one class a source framework, each key declared once."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from crosscast.pipeline.config.fields import Code, ExistingFile, Model
from crosscast.pipeline.signature import Layout


class Source(Model):
    """Where a model comes from, in its author's framework.

    needs_inputs: whether the config has to declare the inputs, which the file does not say.
    layout: of the framework's image tensors.
    """

    needs_inputs: ClassVar[bool] = False
    layout: ClassVar[Layout] = "nchw"

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        raise NotImplementedError


class TorchSource(Source):
    """A PyTorch model, made by a function of the user's."""

    needs_inputs: ClassVar[bool] = True

    torch: Code = Field(description="'file.py:function' that returns the torch.nn.Module.")
    weights: ExistingFile | None = Field(
        default=None,
        description="File with the state dict; without it, what the function made is used.",
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        weights = None if self.weights is None else str(self.weights)
        return {"kind": "torch", "factory": self.torch, "weights": weights}


class OnnxSource(Source):
    """An ONNX file."""

    onnx: ExistingFile = Field(description="The ONNX file.")

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        return {"kind": "onnx", "model": str(self.onnx)}


SOURCES_SCHEMA: dict[str, type[Source]] = {"torch": TorchSource, "onnx": OnnxSource}
"""The kinds of source, by the key that a config chooses one with."""
