"""A user's labelled samples, each taken apart into the inputs and what they are known to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.given import Rows, npz_samples
from crosscast.pipeline.parity.samples import LABEL
from crosscast.pipeline.signature import Arrays, Signature


def taken_apart(pair: Any, *, index: int) -> tuple[Any, NDArray[Any]]:
    """The inputs and the label of a sample. Raises StageError where it is no such pair, and where
    the label is no number, text or array of these.
    """
    where = f"labelled sample {index}"
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise StageError(
            f"{where}: {type(pair).__name__} where a pair was expected",
            fix="yield (inputs, label) for each sample",
        )
    return pair[0], _label(pair[1], where)


def npz_pairs(
    archive: Mapping[str, Rows], *, signature: Signature
) -> Iterator[tuple[Arrays, NDArray[Any]]]:
    """The samples of an .npz, as `npz_samples` reads them, with its array `label`."""
    if any(tensor.name == LABEL for tensor in signature.inputs):
        raise StageError(
            f"samples file: the model has an input '{LABEL}', which an .npz cannot have",
            fix="give 'file.py:function', which yields (inputs, label)",
        )
    if LABEL not in archive:
        raise StageError(
            f"samples file: it has no array '{LABEL}'", fix="give one label for each sample"
        )
    inputs = {name: rows for name, rows in archive.items() if name != LABEL}
    counts = {name: rows.shape[0] if rows.shape else 0 for name, rows in archive.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise StageError(
            f"samples file: the arrays hold different numbers of samples: {told}",
            fix="give every array one entry for each sample along the first axis",
        )
    for sample, label in zip(npz_samples(inputs, signature=signature), archive[LABEL], strict=True):
        yield sample, np.asarray(label)


def folder_pair(image: str, sample: Arrays) -> tuple[Arrays, str]:
    """The sample that an image makes, with the name of the sub-folder that it lies in."""
    folder, _, rest = image.partition("/")
    if not rest:
        raise StageError(
            f"image '{image}' lies in no sub-folder that tells its class",
            fix="sort the images into one folder for each class, called by its name or number",
        )
    if any(array.shape[0] != 1 for array in sample.values()):
        raise StageError(
            "a folder labels images one by one, and the model takes several at once",
            fix="give 'file.py:function', which yields (inputs, labels)",
        )
    return sample, folder


def _label(value: Any, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageError(f"{where}: the label is not an array: {error}", fix=_FIX) from error
    if array.dtype.kind in "OU":
        array = array.astype(object)
        is_label = all(isinstance(text, str) for text in array.ravel())
    else:
        is_label = array.dtype.kind in "fiub" and bool(np.isfinite(array).all())
    if not is_label or not array.size:
        raise StageError(f"{where}: the label {value!r:.60} is nothing to score by", fix=_FIX)
    return array


_FIX = "label with a finite number, a text, or an array of these"
