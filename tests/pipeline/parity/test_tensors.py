"""Safetensors files with strings in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, read_cases, write_cases
from crosscast.pipeline.parity.tensors import decoded, encoded, open_tensors
from crosscast.pipeline.parity.vectors import Vector, read_vectors, write_tensors, write_vectors

TEXTS = np.array([["", "a"], ["naïve café", "日本語 \U0001f600"]], dtype=object)


def test_strings_come_back_as_they_were() -> None:
    raw = encoded(TEXTS, name="x")
    assert raw.dtype == np.uint8
    assert raw.shape == (2, 2, len("日本語 \U0001f600".encode()))
    np.testing.assert_array_equal(decoded(raw), TEXTS)


@pytest.mark.parametrize("texts", [[""], ["", ""], []])
def test_nothing_but_empty_strings_comes_back(texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    np.testing.assert_array_equal(decoded(encoded(array, name="x")), array)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\0b", "NUL"), ("\ud800", "not valid Unicode"), (None, "NoneType"), (3, "int")],
)
def test_what_cannot_be_stored_is_refused(text: object, said: str) -> None:
    with pytest.raises(StageError, match=said):
        encoded(np.array([text], dtype=object), name="x")


def test_a_file_names_its_strings_and_any_reader_can_decode_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", iter([("s", TEXTS), ("n", np.arange(3.0))]))
    with safe_open(tmp_path / "f", framework="numpy") as file:
        assert file.metadata() == {"strings": '["s"]'}
        assert file.get_tensor("s")[1, 0].tobytes().rstrip(b"\0").decode() == "naïve café"
    with open_tensors(tmp_path / "f") as tensors:
        assert list(tensors) == ["s", "n"] or set(tensors) == {"s", "n"}
        np.testing.assert_array_equal(tensors["s"], TEXTS)
        np.testing.assert_array_equal(tensors["n"], np.arange(3.0))


def test_a_file_without_strings_has_no_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", iter([("n", np.arange(3.0))]))
    with safe_open(tmp_path / "f", framework="numpy") as file:
        assert not file.metadata()


def test_cases_and_vectors_hold_strings(tmp_path: Path) -> None:
    case = Case(name="real 0", origin="real", arrays={"text": TEXTS, "n": np.zeros(2)})
    write_cases([case], out=tmp_path / "cases")
    np.testing.assert_array_equal(next(read_cases(tmp_path / "cases")).arrays["text"], TEXTS)
    label = np.array(["yes", ""], dtype=object)
    entries = write_vectors(tmp_path, [Vector(case=case, outputs={"label": label})])
    found = next(read_vectors(tmp_path / "vectors.safetensors", entries))
    np.testing.assert_array_equal(found.case.arrays["text"], TEXTS)
    np.testing.assert_array_equal(found.outputs["label"], label)
