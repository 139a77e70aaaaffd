from __future__ import annotations

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor, scored

LABELS = ("ant", "bee", "cat")


def output(*shape: int | str, dtype: str = "float32", name: str = "y") -> Tensor:
    return Tensor(name=name, shape=shape, dtype=dtype)


@pytest.mark.parametrize("shape", [("batch", 3), (1, 3), (3,), ("batch", 3, 1, 1)])
def test_scores_are_one_for_each_label(shape: tuple[int | str, ...]) -> None:
    others = (output("batch", 3, dtype="int64"), output("batch", 7), output("batch", 3, 3))
    wanted = output(*shape)
    assert scored((*others, wanted, output("batch", 3, name="later")), LABELS) is wanted


def test_both_numbers_are_told_where_there_are_none() -> None:
    outputs = (output("batch", 7), output("batch", "length"), output(4, name="z"))
    with pytest.raises(StageError) as caught:
        scored(outputs, LABELS)
    assert caught.value.message == (
        "`labels` names 3 classes, and no output has a score for each of them: 'y' has 7, 'z' has 4"
    )
