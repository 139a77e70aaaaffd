"""TensorFlow: a SavedModel directory, or a factory that gives a tf.function or a tf.Module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.sources import tf_export
from crosscast.pipeline.sources.tf_function import made
from crosscast.pipeline.sources.tf_model import Loaded, Reference, completed
from crosscast.pipeline.sources.tf_saved import read
from crosscast.pipeline.worker.usercode import own_files
from crosscast.targets.base import Kind
from crosscast.targets.families.tensorflow import framework

toolchain = tf_export.TENSORFLOW
kinds: tuple[Kind, ...] = ("saved_model", "onnx")
dependencies = own_files


def files(options: Mapping[str, Any]) -> dict[str, Path]:
    """The SavedModel directory, or the factory's file."""
    if options.get("factory"):
        return {"factory": Path(options["factory"].rpartition(":")[0])}
    return {"model": Path(options["model"])}


def signature(*, source: Mapping[str, Any], declared: Signature) -> Signature:
    """What was declared, completed with what the model tells of its inputs."""
    return completed(_loaded(source), declared)


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The SavedModel's signature, or the function, run by TensorFlow."""
    model = _loaded(source)
    return Reference(model, completed(model, signature), outputs)


def export(
    *,
    to: Kind,
    source: Mapping[str, Any],
    signature: Signature,
    outputs: Sequence[str] | None,
    opset: int | None,
    layout: Layout | None,
    program: Path | None,  # noqa: ARG001 - a TensorFlow model comes from no program
    out: Path,
) -> dict[str, Any]:
    """Write a `saved_model/` or `model.onnx` under `out`; see the protocol."""
    reference = load(source=source, signature=signature, outputs=outputs)
    return tf_export.export(reference, signature, to=to, opset=opset, layout=layout, out=out)


def _loaded(source: Mapping[str, Any]) -> Loaded:
    return _once(source.get("factory"), source.get("model"), source.get("signature"))


@cache  # a second model in one process would get other names for its layers
def _once(factory: str | None, model: str | None, name: str | None) -> Loaded:
    framework()
    if factory is not None:
        return made(factory)
    return read(Path(str(model)), name)
