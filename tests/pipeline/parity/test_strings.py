"""Strings as inputs and outputs: drawn, checked, compared."""

from __future__ import annotations

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.baseline import gather, proves_nothing
from crosscast.pipeline.parity.given import npz_samples, real_case
from crosscast.pipeline.parity.metrics import Extent, compare
from crosscast.pipeline.parity.samples import (
    DEFAULT_VALUES,
    Case,
    assumed_ranges,
    example,
)
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.tolerance import tolerance
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.signature import Signature, Tensor, dtype_name, numpy_dtype
from crosscast.pipeline.sources.outputs import described, examples

TEXT = Tensor(name="text", shape=("batch",), dtype="string")
NAMED = Tensor(name="text", shape=("batch", 1), dtype="string", values=("red", "green", "blue"))
DIMS = {"batch": (1, 4)}


def signature(tensor: Tensor) -> Signature:
    return Signature(inputs=(tensor,), dims=DIMS)


def test_dtypes_have_one_name_each() -> None:
    assert numpy_dtype("string") == np.dtype(object)
    assert numpy_dtype("float32") == np.dtype("float32")
    assert dtype_name(np.array(["a"]).dtype) == "string"
    assert dtype_name(np.array(["a"], dtype=object).dtype) == "string"
    assert dtype_name(np.dtype("int64")) == "int64"


def test_a_signature_keeps_its_values() -> None:
    told = signature(NAMED)
    assert Signature.from_json(told.to_json()) == told


def test_made_strings_come_from_the_declared_values() -> None:
    cases = list(parity_cases([], signature=signature(NAMED)))
    drawn = {text for case in cases for text in case.arrays["text"].ravel()}
    assert drawn == {"red", "green", "blue"}
    assert {case.arrays["text"].shape for case in cases} >= {(1, 1), (4, 1)}
    assert {case.origin for case in cases} == {"synthetic", "adversarial"}


def test_by_default_they_are_neutral_and_some_are_empty() -> None:
    cases = list(parity_cases([], signature=signature(TEXT)))
    drawn = {text for case in cases for text in case.arrays["text"]}
    assert "" in drawn
    assert drawn <= set(DEFAULT_VALUES)
    assert assumed_ranges(signature(TEXT)) == [
        "input 'text' declares no values: some short words were assumed"
    ]
    assert assumed_ranges(signature(NAMED)) == []


def test_examples_of_strings_differ() -> None:
    first, second = examples(signature(TEXT))
    assert first["text"].shape != second["text"].shape
    assert example(signature(TEXT))["text"].dtype == object


def test_outputs_that_are_strings_are_described() -> None:
    tensors = described(lambda arrays: {"label": arrays["text"]}, signature(TEXT))
    assert [(tensor.dtype, tensor.shape) for tensor in tensors] == [("string", ("batch",))]


@pytest.mark.parametrize(
    "given", [np.array(["a", "b"]), np.array(["a", "b"], dtype=object), ["a", "b"]]
)
def test_samples_of_strings_are_taken(given: object) -> None:
    case = real_case(given, signature=signature(TEXT), index=0)
    assert case.arrays["text"].dtype == object
    assert case.arrays["text"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.array([1.0]), "has dtype float64, expected strings"),
        (np.array([b"a"]), "has dtype |S1, expected strings"),
        (np.array(["a", None], dtype=object), "holds a NoneType"),
        (np.array(["a\0b"], dtype=object), "NUL"),
        (np.array([["a"]]), "has shape"),
    ],
)
def test_other_samples_are_refused(given: object, said: str) -> None:
    with pytest.raises(StageError) as raised:
        real_case(given, signature=signature(TEXT), index=0)
    assert said in raised.value.message


def test_an_npz_may_hold_strings() -> None:
    archive = {"text": np.array(["a", "b"])}
    samples = list(npz_samples(archive, signature=signature(TEXT)))  # type: ignore[arg-type]
    assert [sample["text"].tolist() for sample in samples] == [["a"], ["b"]]


def test_unequal_strings_are_counted() -> None:
    reference, got = (np.array(list(texts), dtype=object) for texts in ("abcd", "abxd"))
    numbers = compare(reference, got, typical=Extent.of(reference))
    assert numbers.mismatch == 0.25
    assert numbers.snr_db is None
    assert compare(reference, reference.copy(), typical=Extent.of(reference)).mismatch == 0


def test_numbers_in_place_of_strings_fail() -> None:
    reference = np.array(["a"], dtype=object)
    assert compare(reference, np.array([1.0]), typical=Extent.of(reference)).problem


def test_labels_that_never_change_prove_nothing() -> None:
    def vectors(*labels: str) -> list[Vector]:
        return [
            Vector(
                case=Case(name=str(index), origin="real", arrays={}),
                outputs={"label": np.array([label], dtype=object)},
            )
            for index, label in enumerate(labels)
        ]

    limits = tolerance("fp32", {})
    for labels, expected in ((("a", "b"), ""), (("a", "a"), "hardly vary")):
        baseline = gather(vectors(*labels))
        assert not baseline.empty
        said = proves_nothing(vectors(*labels), baseline=baseline, limits=limits)
        assert (expected in said) if expected else said == ""
