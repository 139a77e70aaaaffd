"""scikit-learn as a source, as far as it needs no scikit-learn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crosscast.pipeline.sources import open_source
from crosscast.pipeline.sources.sklearn_file import is_code
from crosscast.pipeline.sources.sklearn_text import pattern

SKLEARN = {"kind": "sklearn", "trusted": False}


def test_it_declares_its_file() -> None:
    source = open_source(SKLEARN)
    for model, file in (("/a/m.skops", "/a/m.skops"), ("/a/zoo.py:build", "/a/zoo.py")):
        assert source.files({**SKLEARN, "model": model}) == {"model": Path(file)}


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("/a/zoo.py:build", True),
        ("/a/m.skops", False),
        ("/a:b/m.joblib", False),
        ("C:/m.pkl", False),
    ],
)
def test_functions_are_told_from_files(spec: str, code: bool) -> None:
    assert is_code(spec) is code


@pytest.mark.parametrize(
    ("token_pattern", "expected"),
    [
        (r"(?u)\b\w\w+\b", r"[\p{L}\p{N}_][\p{L}\p{N}_]+"),
        (r"(?u)\b\w+\b", r"[\p{L}\p{N}_]+"),
        (r"\w{3,}", r"[\p{L}\p{N}_]{3,}"),
        (r"[a-zA-Z]+", "[a-zA-Z]+"),
        (r"[\w-]+", r"[\p{L}\p{N}_-]+"),
        (r"#\w+", r"#[\p{L}\p{N}_]+"),
        # what Python finds and RE2 may not, or only with other meanings
        (r"(?u)\b\w{2}\b", None),
        (r"\b[a-z]+\b", None),
        (r"(\w+)", None),
        (r"\w+|\d+", None),
        (r"(?<=a)\w+", None),
        (r"\S+", None),
        (r"\w+?", None),
        (r"[^a]+", None),
        (r".+", None),
    ],
)
def test_token_patterns_are_spelled_for_re2_or_not_taken(
    token_pattern: str, expected: str | None
) -> None:
    assert pattern(token_pattern) == expected


def test_the_classes_of_re2_mean_what_pythons_do() -> None:
    # of the categories that stand for \w; RE2 itself is tried where ONNX Runtime is
    import unicodedata

    for code in range(0x3000):
        character = chr(code)
        ours = unicodedata.category(character)[0] in "LN" or character == "_"
        assert ours == bool(re.match(r"\w", character)), hex(code)
