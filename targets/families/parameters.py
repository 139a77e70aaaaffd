"""Parameters of quantization that no quantizer may write, whatever the file's format.

A number is scale * (level - zero point).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.parity.gains import Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTHING = 1e-9
"""What quantizers write for a range without any value is no more than this, or 1."""

LEVELS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (0, 0)}
"""The least and the greatest zero point by the dtype of levels. int32 are biases, without one."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Those of one tensor.

    tensor: its name. scales, points: a number for all, or one for each channel or block; no points
    for 0. dtype: numpy's name of the levels'. channels: how many there are along the axis of the
    scales; None where that is not known, or they are by block. levels: those of a constant; None
    for what is computed. axis: of the levels, along which scales lie that have one axis of several.
    """

    tensor: str
    scales: NDArray[Any]
    points: NDArray[Any] | None = None
    dtype: str = "int8"
    channels: int | None = None
    levels: NDArray[Any] | None = None
    axis: int | None = None

    @property
    def weight(self) -> Weight | None:
        """The real numbers that the levels of a weight stand for; None for biases, for what is
        computed, and where it is not known which scale is whose.
        """
        import numpy as np

        if self.levels is None or self.dtype == "int32":
            return None
        steps = self._spread(self.scales)
        points = self._spread(np.zeros(1) if self.points is None else self.points)
        if steps is None or points is None:
            return None
        values = (self.levels.astype(np.float32) - points) * steps
        return Weight(self.tensor, values, steps)

    def _spread(self, numbers: NDArray[Any]) -> NDArray[Any] | None:
        """One for all, for each channel or for each block, in a shape that broadcasts to that of
        the levels; None where they do not fit.
        """
        import numpy as np

        assert self.levels is not None
        numbers, shape = np.asarray(numbers, np.float32), self.levels.shape
        if numbers.size == 1:
            return numbers.reshape([1] * len(shape))
        if numbers.ndim == 1 and self.axis is not None and numbers.size == shape[self.axis]:
            place = self.axis % len(shape)
            return numbers.reshape([-1 if axis == place else 1 for axis in range(len(shape))])
        if numbers.ndim != len(shape):
            return None
        for axis, (count, size) in enumerate(zip(numbers.shape, shape, strict=True)):
            if size % count:
                return None
            if count > 1:
                numbers = np.repeat(numbers, size // count, axis)
        return numbers

    def problems(self) -> Iterator[str]:
        """What is wrong with them, one line each."""
        import numpy as np

        scales = np.asarray(self.scales, np.float64)
        bad = scales[~(np.isfinite(scales) & (scales > 0))]
        if bad.size:
            which = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
            yield f"'{self.tensor}' has the scale {bad.flat[0]:g}{which}, which is no step's size"
        yield from self._off_range()
        if self.channels is not None and scales.size not in (1, self.channels):
            yield f"'{self.tensor}' has {scales.size} scales for {self.channels} channels"
        elif not bad.size and self._vanished(scales):
            yield (
                f"'{self.tensor}' is all zero at the scale {scales.max():g}, which is larger than "
                "any of its values"
            )

    def _off_range(self) -> Iterator[str]:
        import numpy as np

        if self.points is None or self.dtype not in LEVELS:
            return
        low, high = LEVELS[self.dtype]
        points = np.asarray(self.points).astype(np.int64)
        off = points[(points < low) | (points > high)]
        if off.size:
            yield (
                f"'{self.tensor}' has the zero point {off.flat[0]}, out of {low} to {high} of "
                f"{self.dtype}"
            )

    def _vanished(self, scales: NDArray[Any]) -> bool:
        """Whether all levels of weights stand for 0 where their scale says that there are values:
        the largest of them has one of the last levels by any way to choose a scale.
        """
        import numpy as np

        if self.levels is None or self.dtype not in ("int8", "uint8") or not self.levels.size:
            return False
        point = 0 if self.points is None else np.asarray(self.points).flat[0]
        given = (scales != 1) & (scales > NOTHING)
        return bool(given.any() and (self.levels == point).all())
