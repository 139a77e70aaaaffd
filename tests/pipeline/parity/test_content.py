from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.content import ContentDigest, distinct, refuse_overlap
from crosscast.pipeline.parity.samples import Case, Origin, write_cases
from crosscast.pipeline.signature import Signature, Tensor

BATCHED = Signature(inputs=(Tensor(name="x", shape=("n", 2), dtype="float32"),), dims={"n": (1, 4)})
FIXED = Signature(inputs=(Tensor(name="x", shape=(2, 2), dtype="float32"),))


def case(*rows: float, name: str = "real 0", origin: Origin = "real", dtype: Any = "f4") -> Case:
    array = np.repeat(np.array(rows, dtype)[:, None], 2, axis=1)
    return Case(name=name, origin=origin, arrays={"x": array}, dims={"n": len(rows)})


def digest(*cases: Case) -> str:
    content = ContentDigest()
    assert list(content.over(cases)) == list(cases)
    return content.hexdigest()


def test_a_digest_is_that_of_the_content() -> None:
    assert digest(case(1, 2)) == digest(case(1, 2, name="other"))
    different = [case(1), case(2), case(1, 2), case(1, dtype="f8")]
    assert len({digest(one) for one in different} | {digest(case(1), case(2))}) == 5


def test_strings_have_content() -> None:
    made = [
        Case(name="a", origin="real", arrays={"s": np.array([text], object)}) for text in ("a", "b")
    ]
    assert digest(made[0]) != digest(made[1])


def overlap(tree: Path, parity: list[Case], calibration: list[Case], signature: Signature) -> None:
    write_cases(parity, out=tree)
    kept = list(refuse_overlap(calibration, others={"parity": tree}, signature=signature))
    assert kept == calibration


def test_a_shared_row_is_an_error(tmp_path: Path) -> None:
    parity = [case(1, 2), case(3, name="real 1")]
    overlap(tmp_path, parity, [case(4), case(5, 6)], BATCHED)
    with pytest.raises(StageError, match="sample 'real 7' is parity sample 'real 1' as well"):
        overlap(tmp_path, parity, [case(4, 3, name="real 7")], BATCHED)


def test_without_a_batch_whole_samples_are_compared(tmp_path: Path) -> None:
    overlap(tmp_path, [case(1, 2)], [case(2, 1)], FIXED)
    with pytest.raises(StageError, match="as well"):
        overlap(tmp_path, [case(1, 2)], [case(1, 2)], FIXED)


def test_made_parity_cases_do_not_count(tmp_path: Path) -> None:
    made = [case(0, origin="adversarial"), case(1, origin="swept")]
    overlap(tmp_path, made, [case(0), case(1)], BATCHED)


def known(label: Any, *rows: float, name: str = "real 0") -> Case:
    return replace(case(*rows, name=name), label=np.asarray(label))


def test_labels_are_content() -> None:
    assert len({digest(known(1, 2)), digest(known(0, 2)), digest(case(2))}) == 3


def test_what_comes_again_is_left_out() -> None:
    again: list[str] = []
    given = [known(1, 2), known(1, 3), known(1, 2, name="real 7"), known(0, 2)]
    assert list(distinct(given, again=again)) == [given[0], given[1], given[3]]
    assert again == ["real 7"]


def test_calibration_shares_no_labelled_sample(tmp_path: Path) -> None:
    write_cases([known(1, 2)], out=tmp_path)
    with pytest.raises(StageError, match="is labelled sample 'real 0' as well"):
        list(refuse_overlap([case(2)], others={"labelled": tmp_path}, signature=BATCHED))
