"""alt-profanity-check as its authors publish it (see models.txt): two pickles, one model."""

from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

DATA = Path(__file__).parent / "models/profanity_check/data"
TEXTS = (
    "Hello there, how are you?",
    "Have a nice day!",
    "You are a stupid idiot.",
    "Go to hell, you dirty scum",
    "That wiener dog is so cute",
    "What the hell is this shit?",
    "Thanks a lot for the naïve café recommendation",
    "HE SCREAMED AT THE SCREEN; nobody listened",
    "I'll fix the tests tomorrow -- promise.",
    "fuck",
    "東京 is nice in spring",
    "",
)


def build() -> Pipeline:
    """TF-IDF of 15,442 words and calibrated linear SVMs: text -> label, probabilities [N, 2].

    Pickles, which run code when they are read: the package is pinned by its digest.
    """
    return Pipeline(
        [
            ("vectorizer", joblib.load(DATA / "vectorizer.joblib")),
            ("classifier", joblib.load(DATA / "model.joblib")),
        ]
    )


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Texts, rude and polite, one at a time."""
    for text in TEXTS:
        yield {"text": np.array([text], dtype=object)}
