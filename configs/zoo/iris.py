"""A random forest on iris, trained here: the same one on every run."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split


def build() -> RandomForestClassifier:
    """Sepal and petal, length and width in cm -> the species by name, probabilities [N, 3]."""
    flowers, species = split()[0]
    return RandomForestClassifier(n_estimators=50, random_state=0).fit(flowers, species)


def parity() -> Iterator[dict[str, np.ndarray]]:
    """The flowers that it was not trained on."""
    for flower in split()[1][0]:
        yield {"features": flower[None].astype(np.float32)}


def split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test data: measures, names of the species."""
    iris = load_iris()
    names = iris.target_names[iris.target].astype(str)
    train, test, known, unknown = train_test_split(
        iris.data, names, test_size=0.2, random_state=0, stratify=names
    )
    return (train, known), (test, unknown)
