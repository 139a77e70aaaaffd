from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.labelled import folder_pair, npz_pairs, taken_apart
from crosscast.pipeline.signature import Signature, Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="x", shape=("batch", 2), dtype="float32"),), dims={"batch": (1, 4)}
)
X = np.ones((3, 2), np.float32)


@pytest.mark.parametrize("label", [3, "cat", 0.5, [1, 2], ["a", "b"], np.int64(2), True])
def test_numbers_texts_and_arrays_of_them_are_labels(label: Any) -> None:
    inputs, found = taken_apart((X, label), index=0)
    assert inputs is X
    assert found.tolist() == (label.item() if isinstance(label, np.int64) else label)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ({"x": X}, "labelled sample 2: dict where a pair was expected"),
        ((X, 1, 2), "tuple where a pair"),
        ((X, None), "the label None is nothing to score by"),
        ((X, float("nan")), "the label nan is nothing to score by"),
        ((X, []), "the label [] is nothing to score by"),
        ((X, 1j), "nothing to score by"),
        ((X, [1, [2]]), "the label is not an array"),
    ],
)
def test_anything_else_is_refused_with_its_place(pair: Any, expected: str) -> None:
    with pytest.raises(StageError) as caught:
        taken_apart(pair, index=2)
    assert expected in caught.value.message


def test_an_npz_has_its_labels_beside_the_inputs() -> None:
    pairs = list(npz_pairs({"x": X, "label": np.array([4, 5, 6])}, signature=SIGNATURE))
    assert [int(label) for _, label in pairs] == [4, 5, 6]
    assert [sample["x"].shape for sample, _ in pairs] == [(1, 2)] * 3


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        ({"x": X}, "it has no array 'label'"),
        ({"x": X, "label": np.array([1, 2])}, "different numbers of samples: 'x' 3, 'label' 2"),
        ({"x": X, "label": np.array(1)}, "different numbers of samples: 'x' 3, 'label' 0"),
    ],
)
def test_an_npz_without_a_label_for_each_is_refused(archive: Any, expected: str) -> None:
    with pytest.raises(StageError, match=expected):
        list(npz_pairs(archive, signature=SIGNATURE))


def test_a_model_with_an_input_of_that_name_needs_a_function() -> None:
    signature = Signature(inputs=(Tensor(name="label", shape=("n", 2), dtype="float32"),))
    with pytest.raises(StageError, match="has an input 'label'"):
        list(npz_pairs({"label": X}, signature=signature))


def test_a_sub_folder_tells_the_class() -> None:
    sample = {"x": X[:1]}
    assert folder_pair("cat/a/b.png", sample) == (sample, "cat")
    with pytest.raises(StageError, match=r"image 'b\.png' lies in no sub-folder"):
        folder_pair("b.png", sample)
    with pytest.raises(StageError, match="takes several at once"):
        folder_pair("cat/a.png, dog/b.png", {"x": X})
