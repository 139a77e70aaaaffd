r"""CountVectorizer in ONNX: documents become counts of their n-grams, as scikit-learn counts them.

Tokens are found by ONNX Runtime's Tokenizer (com.microsoft), whose regular expressions are RE2's:
what Python's `\w` means is spelled out as Unicode classes, and what RE2 cannot say is refused.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.sklearn_nodes import Nodes

PADDING = "\x01"
"""What fills the rows of tokens; no token is it, since no class of characters that is taken has
control characters."""

WORD, DIGIT, SPACE = r"\p{L}\p{N}_", r"\p{Nd}", r"\t-\r\x1c-\x20\x85\p{Z}"
CLASSES = {"w": WORD, "d": DIGIT, "s": SPACE}
_QUANTIFIER = r"(?:[+*?]|\{\d+(?:,\d*)?\})?"
_CLASS = r"\[(?:\\[wds.\-]|[^\\\]\[^])+\]"
_ATOM = rf"(?:\\[wds]|{_CLASS}|[A-Za-z0-9_@#])"
_OPEN_END = r"(?:\\w|\[[^\]]*\\w[^\]]*\])(?:\+|\{\d+,\})$"


def pattern(token_pattern: str) -> str | None:
    """RE2's expression that finds the tokens of Python's; None where this cannot tell.

    Taken are sequences of characters and classes with greedy counts. Word boundaries around them
    are left out where they change nothing: before and after runs that end by themselves.
    """
    bare = token_pattern.removeprefix("(?u)")
    start, end = bare.startswith(r"\b"), bare.endswith(r"\b")
    inner = bare[2 * start : len(bare) - 2 * end]
    if not re.fullmatch(rf"(?:{_ATOM}{_QUANTIFIER})+", inner):
        return None
    pure = re.fullmatch(rf"(?:\\w{_QUANTIFIER})+", inner) is not None
    if (start or end) and not (pure and re.search(_OPEN_END, inner)):
        return None
    return "".join(_spelled(atom) for atom in re.findall(rf"{_ATOM}{_QUANTIFIER}", inner))


def _spelled(atom: str) -> str:
    if atom.startswith("["):
        return re.sub(r"\\([wds])", lambda found: CLASSES[found[1]], atom)
    return re.sub(r"^\\([wds])", lambda found: f"[{CLASSES[found[1]]}]", atom)


def problem(vectorizer: Any) -> tuple[str, str] | None:
    """What of a vectorizer has no equivalent in ONNX and what to do; None where all has."""
    name = type(vectorizer).__name__
    if name == "HashingVectorizer":
        return f"{name}: ONNX has no hashing of tokens", "use CountVectorizer or TfidfVectorizer"
    for key in ("tokenizer", "preprocessor"):
        if getattr(vectorizer, key) is not None:
            return (
                f"{name}({key}=...): code of one's own cannot be put into the graph",
                "leave it to a token_pattern, or do it before the text is given to the model",
            )
    if vectorizer.strip_accents is not None:
        return (
            f"{name}(strip_accents={vectorizer.strip_accents!r}): ONNX has no such operator",
            "strip the accents before the text is given to the model, and fit without it",
        )
    if vectorizer.analyzer != "word":
        return (
            f"{name}(analyzer={vectorizer.analyzer!r}): the graph counts n-grams of words only",
            "fit it with analyzer='word'",
        )
    if pattern(vectorizer.token_pattern) is None:
        return (
            f"{name}(token_pattern={vectorizer.token_pattern!r}): the runtime's expressions (RE2) "
            "cannot be shown to find the same tokens",
            r"use a sequence of characters and classes such as '(?u)\b\w\w+\b' or '[a-z]+'",
        )
    return _vocabulary_problem(vectorizer)


def _vocabulary_problem(vectorizer: Any) -> tuple[str, str] | None:
    low, high = vectorizer.ngram_range
    terms = getattr(vectorizer, "vocabulary_", {})  # none in the template of a fitted copy
    odd = next((term for term in terms if not low <= len(term.split(" ")) <= high), None)
    if odd is None:
        return None
    return (
        f"{type(vectorizer).__name__}: '{odd}' of its vocabulary is no n-gram of its tokens",
        "use a token_pattern whose tokens hold no space",
    )


def convert(scope: Any, operator: Any, container: Any) -> None:
    """skl2onnx's converter of CountVectorizer, and of TfidfVectorizer's first half."""
    vectorizer = operator.raw_operator
    told = problem(vectorizer)
    if told is not None:
        raise StageError(told[0], fix=told[1])
    nodes = Nodes(scope, container)
    text = nodes.node("Reshape", operator.input_full_names[0], nodes.integers([-1]))
    if vectorizer.lowercase:
        text = nodes.node(
            "StringNormalizer",
            text,
            case_change_action="LOWER",
            is_case_sensitive=1,
            locale=_locale(vectorizer),
        )
    tokens = _tokens(nodes, text, vectorizer)
    counts = nodes.node("TfIdfVectorizer", tokens, **_ngrams(vectorizer))
    if vectorizer.binary:
        counts = nodes.node("Sign", counts)
    nodes.node("Identity", counts, outputs=operator.output_full_names)


def _locale(vectorizer: Any) -> str:
    """Whose rules lower-case: "C" knows ASCII only and is there wherever ONNX Runtime is, which
    does for a vocabulary in ASCII. Hosts without Unicode's "C.UTF-8" refuse to load the others.
    """
    return "C" if all(term.isascii() for term in vectorizer.vocabulary_) else "C.UTF-8"


def _tokens(nodes: Nodes, text: str, vectorizer: Any) -> str:
    """Tokens [documents, tokens + 1], filled up with PADDING."""
    found = nodes.node(
        "Tokenizer",
        text,
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value=PADDING,
        tokenexp=pattern(vectorizer.token_pattern),
    )
    # a column of padding, since documents without tokens would leave none at all
    blank = nodes.node("Slice", nodes.node("Shape", text), nodes.integers([0]), nodes.integers([1]))
    width = nodes.node("Concat", blank, nodes.integers([1]), axis=0)
    padding = nodes.node("Expand", nodes.strings([PADDING]), width)
    padded = nodes.node("Concat", found, padding, axis=1)
    stop_words = vectorizer.get_stop_words()
    if not stop_words or vectorizer.ngram_range[1] == 1:
        return padded
    return _without(nodes, padded, sorted(stop_words))


def _without(nodes: Nodes, tokens: str, stop_words: list[str]) -> str:
    """The tokens with stop words moved behind the others, whose order is kept: n-grams reach over
    them.
    """
    shape = nodes.node("Shape", tokens)
    # Tokenizer is not ONNX's: without an operator that says strings by itself, the type of what
    # follows is unknown, on which ONNX's own inference for LabelEncoder crashes.
    flat = nodes.node("Reshape", tokens, nodes.integers([-1]))
    typed = nodes.node("StringNormalizer", flat, case_change_action="NONE", locale="C")
    stopped = nodes.node(
        "LabelEncoder",
        typed,
        domain="ai.onnx.ml",
        keys_strings=stop_words,
        values_int64s=[1] * len(stop_words),
        default_int64=0,
    )
    stopped = nodes.node("Reshape", stopped, shape)
    size = nodes.node("Slice", shape, nodes.integers([1]), nodes.integers([2]))
    zeros = nodes.node("Mul", stopped, nodes.integers([0]))
    ones = nodes.node("Add", zeros, nodes.integers([1]))
    places = nodes.node("CumSum", ones, nodes.scalar(1))
    order = nodes.node("Add", nodes.node("Mul", stopped, size), places)
    indices = nodes.several("TopK", order, size, count=2, axis=1, largest=0, sorted=1)[1]
    return nodes.node("GatherElements", tokens, indices, axis=1)


def _ngrams(vectorizer: Any) -> dict[str, Any]:
    """The attributes of TfIdfVectorizer: its pool lists n-grams by their length."""
    low, high = vectorizer.ngram_range
    terms = sorted(
        (len(words := tuple(term.split(" "))), words, index)
        for term, index in vectorizer.vocabulary_.items()
    )
    pool: list[str] = []
    starts: list[int] = []
    for length in range(1, high + 1):
        starts.append(len(pool))
        pool.extend(word for size, words, _ in terms if size == length for word in words)
    return {
        "min_gram_length": low,
        "max_gram_length": high,
        "max_skip_count": 0,
        "mode": "TF",
        "ngram_counts": starts,
        "ngram_indexes": [int(np.int64(index)) for _, _, index in terms],
        "pool_strings": pool,
    }
