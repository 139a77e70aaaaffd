"""Reading a SavedModel that the user gives, of any age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.tf_model import Loaded, brief, told
from crosscast.targets.families.tensorflow import SERVING

READER = "reader"
"""The key of notes that says what read the directory, where it was not tf.saved_model.load."""

_INTERNAL = "__saved_model_init_op"


def read(folder: Path, name: str | None) -> Loaded:
    """One signature of the SavedModel, None for its default.

    Raises StageError where the directory holds none, and where there is no such signature.
    """
    owner, notes = _opened(folder)
    signatures = {key: function for key, function in owner.signatures.items() if key != _INTERNAL}
    function = _chosen(signatures, name, folder)
    # in the order of their names: a signature has no other that is the same every time
    keywords = sorted(function.structured_input_signature[1].items())
    inputs = tuple(
        told(key, None if spec.shape.rank is None else spec.shape.as_list(), spec.dtype.name)
        for key, spec in keywords
    )
    known = tuple(key for key, _ in keywords)

    def invoke(names: Sequence[str], tensors: Sequence[Any]) -> Any:  # noqa: ARG001
        found = function(**dict(zip(known, tensors, strict=True)))
        return {key: found[key] for key in sorted(found)}

    return Loaded(call=invoke, inputs=inputs, owner=owner, notes=notes)


def _opened(folder: Path) -> tuple[Any, dict[str, str]]:
    """The loaded SavedModel, by the first reader that can, and notes on which one did."""
    import tensorflow as tf

    reasons: list[str] = []
    for reader, load in (("", tf.saved_model.load), ("tf_keras", _with_keras_2), ("v1", _as_v1)):
        try:
            return load(str(folder)), {READER: reader, "reason": reasons[0]} if reader else {}
        except ModuleNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - what one cannot read, the next may
            reasons.append(brief(error))
    raise StageError(
        f"{folder} cannot be read as a SavedModel: {reasons[0]}",
        fix="fetch or save it again: saved_model.pb and variables/ must both be whole",
    )


def _with_keras_2(folder: str) -> Any:
    """Old Keras wrote objects that only tf_keras, once it is imported, knows how to make."""
    import tensorflow as tf
    import tf_keras  # noqa: F401

    return tf.saved_model.load(folder)


def _as_v1(folder: str) -> Any:
    """As TensorFlow 1 would: the graph and its weights, whatever objects made them."""
    from tensorflow.python.saved_model import load_v1_in_v2

    return load_v1_in_v2.load(folder, ["serve"])


def _chosen(signatures: Mapping[str, Any], name: str | None, folder: Path) -> Any:
    listed = ", ".join(map(repr, signatures)) or "none"
    if not signatures:
        raise StageError(
            f"the SavedModel {folder} has no signatures",
            fix="save it with tf.saved_model.save(model, path, signatures=...)",
        )
    only = next(iter(signatures)) if len(signatures) == 1 else SERVING
    wanted = name or (SERVING if SERVING in signatures else only)
    if wanted not in signatures:
        raise StageError(
            f"the SavedModel {folder} has no signature '{wanted}'; it has {listed}",
            fix="set `signature:` under `source` to one of them",
        )
    return signatures[wanted]
