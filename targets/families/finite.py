"""Numbers that a file may not hold where it computes with them, whatever its format.

A NaN makes one of all that is added to it or multiplied by it. Whether that is seen in an output is
chance: rows of a table may be read by no sample, and what rounds to integers, or cuts off, makes a
number of it again. Infinities are right where they are added (masks, classes that are ruled out) or
chosen (bounds, fills), but not as weights of sums of products, where a zero makes a NaN of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def problem(name: str, array: NDArray[Any], *, is_summed: bool) -> str:
    """What is wrong with a constant that operators calculate with; empty where nothing is.

    is_summed: whether one of them sums products by it. Its biases are that as well, but have fewer
    dimensions than weights.
    """
    import numpy as np

    if np.isfinite(array).all():
        return ""
    bad = np.isnan(array)
    if is_summed and array.ndim > 1:
        bad |= np.isinf(array)
    places = np.argwhere(bad)
    if not len(places):
        return ""
    place = tuple(map(int, places[0]))
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"'{name}' holds {array[place]} at {place}{more}, which no calculation may be given"
