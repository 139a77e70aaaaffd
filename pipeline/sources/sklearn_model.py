"""A fitted estimator as the reference: scikit-learn's own answers, under names that artifacts have.

classifier  label [batch], probabilities [batch, classes]; without predict_proba: scores,
            what decision_function gives ([batch] for two classes); several targets: label
            [batch, targets] and probabilities_0, probabilities_1 …
regressor   prediction [batch], or predictions [batch, targets]
outlier     label [batch], 1 or -1, and scores [batch] (decision_function)
clusterer   label [batch], and scores [batch, clusters] (transform) where it has them
mixture     label [batch], probabilities [batch, components]
transformer transformed [batch, features]
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.sources.outputs import described, named, shapes
from crosscast.pipeline.sources.sklearn_inputs import Inputs
from crosscast.pipeline.sources.sklearn_walk import class_labels, last


class Reference:
    """The estimator as a Session that scikit-learn itself runs, in float64."""

    def __init__(
        self,
        estimator: Any,
        inputs: Inputs,
        signature: Signature,
        outputs: Sequence[str] | None,
    ) -> None:
        self.estimator = estimator
        self.given = inputs
        self.inputs = signature.inputs
        self.classes = class_labels(estimator)
        double = any(tensor.dtype == "float64" for tensor in self.inputs)
        self.dtype = "float64" if double else "float32"
        self._wanted = outputs
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _answers(self.estimator, self.given.given(inputs))
        except StageError:
            raise
        except Exception as error:
            raise StageError(
                f"the estimator refuses inputs {shapes(inputs)}: {type(error).__name__}: "
                f"{str(error).strip()[:400]}",
                fix="make the config's `inputs` (dtype, range, values) those that it was fitted on",
            ) from error
        names = named([name for name, _ in found], self._wanted)
        arrays = [self._delivered(array) for _, array in found]
        return dict(zip(names, arrays, strict=True))

    def _delivered(self, array: Any) -> Any:
        """Floats in the inputs' precision, labels as int64 or strings."""
        import numpy as np

        dense = np.asarray(array.toarray() if hasattr(array, "toarray") else array)
        if dense.dtype.kind in "OU" and self.classes and isinstance(self.classes[0][0], int):
            return dense.astype(np.int64)
        if dense.dtype.kind in "OU":
            return dense.astype(object)
        return dense.astype(self.dtype if dense.dtype.kind == "f" else np.int64)


def role(estimator: Any) -> str:
    """One of the roles above. Raises StageError for an estimator that answers nothing."""
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    tests = {
        "classifier": is_classifier,
        "outlier": is_outlier_detector,
        "regressor": is_regressor,
        "clusterer": is_clusterer,
    }
    method = "predict" if hasattr(estimator, "predict") else "transform"
    for name, test in tests.items():
        if test(estimator) and method == "predict":
            return name
    if hasattr(estimator, "predict") and hasattr(estimator, "predict_proba"):
        return "mixture"
    if hasattr(estimator, "transform"):
        return "transformer"
    raise StageError(
        f"{type(estimator).__name__} has neither predict() nor transform() for new data",
        fix="take an estimator that has one of them",
    )


def _answers(estimator: Any, given: Any) -> list[tuple[str, Any]]:
    kind = role(estimator)
    if kind == "transformer":
        return [("transformed", _floats(estimator.transform(given)))]
    label = estimator.predict(given)
    if kind == "regressor":
        return [("prediction" if label.ndim == 1 else "predictions", _floats(label))]
    found = [("label", _integers(label))]
    if hasattr(estimator, "predict_proba"):
        found += _probabilities(estimator.predict_proba(given))
    elif hasattr(estimator, "decision_function"):
        found.append(("scores", _floats(estimator.decision_function(given))))
    elif kind == "clusterer" and hasattr(last(estimator), "transform"):
        found.append(("scores", _floats(estimator.transform(given))))
    return found


def _probabilities(found: Any) -> list[tuple[str, Any]]:
    if isinstance(found, list):
        return [(f"probabilities_{index}", array) for index, array in enumerate(found)]
    return [("probabilities", found)]


def _floats(array: Any) -> Any:
    return array.astype("float64")


def _integers(array: Any) -> Any:
    """Labels that are whole numbers kept as floats; strings and integers as they are."""
    return array.astype("int64") if array.dtype.kind == "f" else array
