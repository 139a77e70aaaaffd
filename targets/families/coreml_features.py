"""What a package takes and gives that is no array: images, and a class with all scores.

Core ML takes one image at a time and classifies one thing at a time; several are predictions one
after another. What of that a package has no place for is in its user-defined metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Session, classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = "crosscast.batch"
"""Metadata: the name of the dimension of inputs and outputs of which a prediction takes one."""

UNITS = "crosscast.compute_units"
"""Metadata: the processors that the package was made for; none for all that there are."""

SCORES = "crosscast.scores"
"""Metadata: {"place", "shape"} of the output whose values the dictionary of a classifier has."""

CHANNELS = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1}
"""Of images, by their colour space."""

Predict = Callable[[Arrays], Mapping[str, Any]]
"""One prediction: features by name; arrays are numpy's, a class is text, scores a dictionary."""


def image(feature: Any) -> Tensor | None:
    """An image as a tensor uint8[1, height, width, channels], named "<feature>_<axis>" where its
    size is not fixed; None for other features and other kinds of images.
    """
    held = feature.type.imageType
    spaces = held.DESCRIPTOR.fields_by_name["colorSpace"].enum_type.values_by_number
    channels = CHANNELS.get(spaces[held.colorSpace].name)
    if not feature.type.HasField("imageType") or channels is None:
        return None
    listed = held.enumeratedSizes.sizes
    ranges = (held.imageSizeRange.heightRange, held.imageSizeRange.widthRange)
    is_range = held.HasField("imageSizeRange")
    sides = []
    for axis, (key, bounds) in enumerate(zip(("height", "width"), ranges, strict=True), 1):
        sizes = {getattr(held, key), *(getattr(size, key) for size in listed)}
        is_fixed = len(sizes) == 1 and not (is_range and bounds.lowerBound != bounds.upperBound)
        sides.append(getattr(held, key) if is_fixed else f"{feature.name}_{axis}")
    shape = (1, *sides, channels)
    return Tensor(name=feature.name, shape=shape, dtype="uint8", layout="nhwc", range=(0.0, 255.0))


def fed(array: NDArray[Any], tensor: Tensor) -> Any:
    """What coremltools takes for an input of one prediction: an image is Pillow's."""
    if tensor.layout is None:
        return array.astype(tensor.dtype, copy=False)
    from PIL import Image

    (pixels,) = array
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The output that a classifier gives as a dictionary.

    label, feature: the features that have the class and the dictionary. classes: in the order of
    the output's values. place: the output's among all. shape: as the source has it.
    """

    label: str
    feature: str
    classes: tuple[str, ...]
    place: int
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, spec: Any) -> Scores | None:
        """Those of a package's model; None where it is no classifier.

        Raises StageError for a classifier that does not say what array its dictionary stands for.
        """
        description = spec.description
        if not description.predictedFeatureName:
            return None
        try:
            told = json.loads(description.metadata.userDefined[SCORES])
            return cls(
                label=description.predictedFeatureName,
                feature=description.predictedProbabilitiesName,
                classes=_classes(spec),
                place=int(told["place"]),
                shape=tuple(told["shape"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"the Core ML model is a classifier whose metadata '{SCORES}' cannot be read",
                fix="build the artifact again",
            ) from error

    @property
    def features(self) -> tuple[str, str]:
        """The names of both features."""
        return self.label, self.feature

    def tensor(self) -> Tensor:
        """The output that the dictionary stands for."""
        return Tensor(name=self.feature, shape=self.shape, dtype="float32")

    def array(self, values: Mapping[str, Any]) -> NDArray[Any]:
        """The output, of a prediction's features.

        Raises StageError where the dictionary has other classes, or the class told is not the one
        with the greatest score.
        """
        import numpy as np

        found = values[self.feature]
        if set(found) != set(self.classes):
            raise StageError("the classifier gives scores of other classes than it declares")
        scores = np.array([found[name] for name in self.classes], np.float32)
        told = values[self.label]
        if told not in found or np.float32(found[told]) < scores.max():
            best = self.classes[int(scores.argmax())]
            raise StageError(f"the classifier tells '{told}' where '{best}' has the greatest score")
        return scores.reshape([dim if isinstance(dim, int) else 1 for dim in self.shape])


def _classes(spec: Any) -> tuple[str, ...]:
    """The classes of the program's last operator."""
    (function,) = spec.mlProgram.functions.values()
    operation = function.block_specializations[function.opset].operations[-1]
    if operation.type != "classify":
        raise ValueError("the program of a classifier does not end with its classes")
    (given,) = operation.inputs["classes"].arguments
    entries = given.value.immediateValue.list.values
    return tuple(entry.immediateValue.tensor.strings.values[0] for entry in entries)


class PackageSession:
    """A package as a session: several at a time, and arrays only.

    inputs, outputs: as `coreml.interface` has them. batch: the dimension of which a prediction
    takes one; empty for none. labels: the classes of its scores, in order; empty for none.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        batch: str,
        scores: Scores | None,
        remark: str = "",
    ) -> None:
        self._predict, self._batch, self._scores = predict, batch, scores
        self.inputs, self.outputs, self.remark = inputs, outputs, remark
        self.labels = scores.classes if scores else ()

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order, one prediction after another.

        Raises StageError for inputs of unequal numbers.
        """
        import numpy as np

        made = [self._arrays(self._predict(part)) for part in self._parts(inputs)]
        if not self._batch:
            return made[0]
        return {
            tensor.name: np.concatenate(
                [one[tensor.name] for one in made], axis=tensor.shape.index(self._batch)
            )
            for tensor in self.outputs
        }

    def _parts(self, inputs: Arrays) -> Iterator[Arrays]:
        axes = {
            it.name: it.shape.index(self._batch) for it in self.inputs if self._batch in it.shape
        }
        counts = {inputs[name].shape[axis] for name, axis in axes.items()} or {1}
        if len(counts) > 1:
            raise StageError(f"inputs have '{self._batch}' of {sorted(counts)}, not of one size")
        for index in range(counts.pop()):
            parts = {name: inputs[name].take([index], axis) for name, axis in axes.items()}
            yield {
                tensor.name: parts.get(tensor.name, inputs[tensor.name]) for tensor in self.inputs
            }

    def _arrays(self, values: Mapping[str, Any]) -> Arrays:
        import numpy as np

        scores = self._scores
        return {
            tensor.name: scores.array(values)
            if scores is not None and tensor.name == scores.feature
            else np.asarray(values[tensor.name]).astype(tensor.dtype, copy=False)
            for tensor in self.outputs
        }


class Beside:
    """Core ML's session, whose answers are held against the reference evaluator's of the same file.

    What differs is no fault of the artifact, which the source decides on: `remark` tells it.
    """

    def __init__(self, session: Session, evaluator: Callable[[], Session]) -> None:
        """evaluator: opens the other one; may raise StageError or Unproven."""
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.labels = classes(session)
        self._evaluated: Session | None = None
        self._agreement_db, self._lacking = math.inf, ""
        try:
            self._evaluated = evaluator()
        except (StageError, Unproven) as error:
            self._lacking = error.message

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs by Core ML, by name and in order."""
        found = self._session.run(inputs)
        if self._evaluated is not None:
            try:
                self._compare(found, self._evaluated.run(inputs))
            except (StageError, Unproven) as error:
                self._evaluated, self._lacking = None, error.message
        return found

    @property
    def remark(self) -> str:
        """How near both are, at worst, so far."""
        if self._lacking:
            return f"the reference evaluator could not be held against Core ML: {self._lacking}"
        return f"Core ML and the reference evaluator agree to {self._agreement_db:.1f} dB"

    def _compare(self, found: Arrays, expected: Arrays) -> None:
        from crosscast.pipeline.parity.metrics import Extent, compare

        for name, wanted in expected.items():
            numbers = compare(wanted, found[name], typical=Extent.of(wanted))
            if numbers.problem:
                raise StageError(f"output '{name}': {numbers.problem}")
            if numbers.snr_db is not None:
                self._agreement_db = min(self._agreement_db, numbers.snr_db)
