"""A user's samples checked against the signature, so that a wrong one is named, not run."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.tensors import encoded
from crosscast.pipeline.signature import STRING, Arrays, Signature, Tensor, numpy_dtype

RANGE_SLACK = 1e-6
"""Of the declared range's width: what normalising an image in float32 may step over."""


def real_case(sample: Any, *, signature: Signature, index: int, origin: str = "") -> Case:
    """The case that a user's sample makes: a mapping of arrays by input name, or a bare array
    where the model has one input.

    origin: the name of the file that it comes from, where it has one of its own.

    Raises StageError that names the sample, the input and what was expected. Floats are cast to
    the input's float dtype, and integers to its integer dtype where all values fit; no other
    casts are made, since they mostly hide a forgotten preprocessing step. Strings are arrays of
    str or of numpy's Unicode.
    """
    where = f"sample {index}" + (f" ({origin})" if origin else "")
    given = _by_name(sample, signature, where)
    dims: dict[str, int] = {}
    arrays: Arrays = {}
    for tensor in signature.inputs:
        label = f"{where}: input '{tensor.name}'"
        array = _array(given[tensor.name], tensor, label)
        _check_shape(array, tensor, signature, dims, label)
        arrays[tensor.name] = _check_values(_cast(array, tensor, label), tensor, label)
    name = f"real {index}" + (f" {origin}" if origin else "")
    return Case(name=name, origin="real", arrays=arrays, dims=dims)


class Rows(Protocol):
    """An array that is read along its first axis; numpy's own arrays are such."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The rows, in order."""
        ...


def npz_samples(archive: Mapping[str, Rows], *, signature: Signature) -> Iterator[Arrays]:
    """The samples that an .npz holds: one array for each input, with samples along its first axis.

    An array of one more dimension than the input holds whole inputs. One of as many dimensions
    holds rows, and each sample is a batch of one: for this the input's first dimension must be
    dynamic or 1. One sample is in memory at a time.
    """
    _check_names(archive, signature, "samples file")
    lengths = {name: rows.shape[0] if rows.shape else 0 for name, rows in archive.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise StageError(
            f"samples file: the arrays hold different numbers of samples: {found}",
            fix="give every input one entry for each sample along the first axis",
        )
    if any(lengths.values()):
        tensors = {tensor.name: tensor for tensor in signature.inputs}
        entries = [_entries(rows, tensors[name]) for name, rows in archive.items()]
        for sample in zip(*entries, strict=True):
            yield dict(zip(archive, sample, strict=True))


def _entries(rows: Rows, tensor: Tensor) -> Iterator[NDArray[Any]]:
    """What each sample has of an array."""
    rank = len(rows.shape)
    is_whole = rank == len(tensor.shape) + 1
    is_stack = rank == len(tensor.shape) and (
        isinstance(tensor.shape[0], str) or tensor.shape[0] == 1
    )
    if not is_whole and not is_stack:
        raise StageError(
            f"samples file: input '{tensor.name}' has shape {_text(rows.shape)}",
            fix=f"its first axis counts samples, each of shape {_text(tensor.shape)}",
        )
    return (np.asarray(row) if is_whole else np.asarray(row)[None] for row in rows)


def _by_name(sample: Any, signature: Signature, where: str) -> Mapping[str, Any]:
    if not isinstance(sample, Mapping):
        if len(signature.inputs) != 1:
            names = ", ".join(f"'{tensor.name}'" for tensor in signature.inputs)
            raise StageError(
                f"{where}: {type(sample).__name__} where a dict of arrays was expected",
                fix=f"give a dict with the inputs {names}",
            )
        return {signature.inputs[0].name: sample}
    _check_names(sample, signature, where)
    return sample


def _check_names(given: Mapping[str, Any], signature: Signature, where: str) -> None:
    expected = [tensor.name for tensor in signature.inputs]
    missing = [name for name in expected if name not in given]
    for name in given:
        if name not in expected:
            close = difflib.get_close_matches(str(name), missing or expected, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise StageError(
                f"{where}: '{name}' is no input of the model{hint}", fix=_inputs_are(expected)
            )
    if missing:
        raise StageError(f"{where}: input '{missing[0]}' is missing", fix=_inputs_are(expected))


def _inputs_are(names: list[str]) -> str:
    return "the model's inputs are " + ", ".join(f"'{name}'" for name in names)


def _array(value: Any, tensor: Tensor, label: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageError(f"{label}: is not an array: {error}", fix="give a numpy array") from error
    if tensor.dtype == STRING:
        return _strings(array, label)
    if array.dtype.kind not in "fiub":
        raise StageError(
            f"{label}: has dtype {array.dtype}", fix="give an array of numbers or booleans"
        )
    return array


def _strings(array: NDArray[Any], label: str) -> NDArray[Any]:
    if array.dtype.kind not in "OU":
        raise StageError(
            f"{label}: has dtype {array.dtype}, expected strings",
            fix="give an array of str (bytes: decode them first)",
        )
    strings = array.astype(object)
    encoded(strings, name=label)  # refuses what cannot be stored, such as None for a missing one
    return strings


def _check_shape(
    array: NDArray[Any], tensor: Tensor, signature: Signature, dims: dict[str, int], label: str
) -> None:
    wanted = f"{label}: has shape {_text(array.shape)}, expected {_text(tensor.shape)}"
    if array.ndim != len(tensor.shape):
        raise StageError(wanted, fix=_rank_hint(array, tensor))
    for size, dim in zip(array.shape, tensor.shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise StageError(wanted, fix=_axes_hint(array, tensor))
            continue
        low, high = signature.dims.get(dim, (1, size))
        if not low <= size <= high:
            raise StageError(
                f"{label}: dimension '{dim}' is {size}, declared {low} to {high}",
                fix=f"widen the declared sizes of '{dim}', or leave this sample out",
            )
        if size % signature.steps.get(dim, 1):
            raise StageError(
                f"{label}: dimension '{dim}' is {size}, declared in steps of "
                f"{signature.steps[dim]}",
                fix=f"give samples whose '{dim}' is a multiple of {signature.steps[dim]}",
            )
        if dims.setdefault(dim, size) != size:
            raise StageError(
                f"{label}: dimension '{dim}' is {size}, but {dims[dim]} in another input",
                fix="a dimension has one size in all inputs of a sample",
            )


def _rank_hint(array: NDArray[Any], tensor: Tensor) -> str:
    if array.ndim == len(tensor.shape) - 1:
        return "each sample is a whole input: add the batch dimension, as in array[None]"
    return "give every sample the input's number of dimensions"


def _axes_hint(array: NDArray[Any], tensor: Tensor) -> str:
    if array.ndim > 5:
        return "give every sample the input's sizes"
    for order in permutations(range(array.ndim)):
        sizes = zip(tensor.shape, (array.shape[axis] for axis in order), strict=True)
        if all(isinstance(dim, str) or dim == size for dim, size in sizes):
            return f"its axes seem to be in another order: array.transpose{order} would fit"
    return "give every sample the input's sizes"


def _cast(array: NDArray[Any], tensor: Tensor, label: str) -> NDArray[Any]:
    if tensor.dtype == STRING:
        return array
    wanted = numpy_dtype(tensor.dtype)
    kinds = array.dtype.kind + wanted.kind
    if kinds == "ff":
        _check_finite(array, label)
        with np.errstate(over="ignore"):
            return _check_finite(array.astype(wanted), label, cast=f" as {wanted}")
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        info = np.iinfo(wanted)
        if array.size and (array.min() < info.min or array.max() > info.max):
            raise StageError(
                f"{label}: values from {array.min()} to {array.max()} do not fit {wanted}",
                fix=f"give values of dtype {wanted}",
            )
        return array.astype(wanted)
    if kinds == "bb":
        return array
    raise StageError(
        f"{label}: has dtype {array.dtype}, expected {wanted}",
        fix=f"preprocess the sample as the model wants it, and give {wanted}",
    )


def _check_finite(array: NDArray[Any], label: str, *, cast: str = "") -> NDArray[Any]:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(axis) for axis in bad[0])
        raise StageError(
            f"{label}: is {array[place]}{cast} at {_text(place)}",
            fix="samples must be finite: look at the preprocessing",
        )
    return array


def _check_values(array: NDArray[Any], tensor: Tensor, label: str) -> NDArray[Any]:
    if tensor.range is None or not array.size:
        return array
    low, high = tensor.range
    slack = RANGE_SLACK * (high - low) if array.dtype.kind == "f" else 0.0
    least, greatest = float(array.min()), float(array.max())
    if least < low - slack or greatest > high + slack:
        raise StageError(
            f"{label}: values from {least:g} to {greatest:g}, declared {low:g} to {high:g}",
            fix="look at the preprocessing, or declare the range that the samples have",
        )
    return array


def _text(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ")"
