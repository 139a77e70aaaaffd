"""What stays in float where int8 costs too much: as little as will do, found by trials. Pure.

The parts of a model are ranked by what each costs alone, halved for the fewest that leave room
enough, and each of these is left out again where the others do without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

from crosscast.targets.families.sensitivity import LEVELS, Room

Model = TypeVar("Model")
Part = tuple[str, ...]

PARTS = 48
"""Parts of a kind whose costs are measured; what is more are groups of neighbours. Bounds the
time."""

DOUBTED = 16
"""Of what was chosen, the most that are tried to be left out again. Bounds the time."""

FLOAT_SHARE = 0.12
"""Of the weights' elements, the most that may stay in float: with a fifth of them, floats would
hold half of the bytes, and biases are floats already."""

AIMS: Mapping[bool, Sequence[float]] = {False: (LEVELS[1], LEVELS[0]), True: LEVELS[::-1]}
"""Room of the hardest calibration sample that is aimed at, best first, by whether answers hide what
int8 costs. The parity samples had at most 2 dB less where they do not (EfficientNet-Lite0, ViT,
MiniLM), and more where they do: a voice detector 5, PP-OCR's recognition 8, an emotion classifier
10. Such need the more room, and are not trusted with little int8 (see `Search`)."""


class Kept(NamedTuple):
    """What stays in float: tensors, weights or operators, by name.

    corrected: whether biases take back what the others' rounding adds. is_float: whether operators
    that could read int8 weights beside floats are given their weights back as floats.
    """

    names: frozenset[str] = frozenset()
    corrected: bool = False
    is_float: bool = False


class Found(NamedTuple):
    """What a search has chosen, and by what.

    rooms: of the model that is all in int8, and of the chosen one. size: bytes of the former.
    alone: the room that is left where a name alone is in int8, for those that stay in float.
    trials: models that were made and run.
    """

    kept: Kept
    rooms: tuple[Room, Room]
    size: int
    alone: Mapping[str, Room]
    trials: int


class Candidates(NamedTuple):
    """What may stay in float.

    kinds: names in the model's order, each kind by itself. shares: of all weights' elements, for
    names of weights.
    """

    kinds: Sequence[Sequence[str]]
    shares: Mapping[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return union(self.kinds)

    def parts(self, among: Collection[str]) -> list[Part]:
        """Those of some names, few of each kind."""
        return [
            part
            for kind in self.kinds
            for part in parts(
                [name for name in kind if name in among and self._share((name,)) <= FLOAT_SHARE]
            )
        ]

    def together(self, order: Iterable[Part]) -> list[Part]:
        """The parts, in order, whose weights may all stay in float."""
        taken, kept = 0.0, []
        for part in order:
            if taken + self._share(part) <= FLOAT_SHARE:
                taken += self._share(part)
                kept.append(part)
        return kept

    def _share(self, part: Part) -> float:
        return math.fsum(self.shares.get(name, 0.0) for name in part)


class Search(Generic[Model]):
    """Finds the least that has to stay in float for a quantized model to keep its answers.

    quantized: makes the model that keeps so much, with ranges from all samples or from half of
    them. room: what a model leaves. size: its bytes. operators: how many are in int8.
    measured: the room that each of some parts leaves where it alone is in int8, on the samples at
    some places. candidates: what may stay in float; asked for only where something has to. hides:
    whether answers hide what int8 costs. fragile: names that are expected to cost much, costliest
    first, and are tried before the others. ample: the room with which nothing has to be done.
    is_hybrid: whether operators can read int8 weights beside floats.
    """

    def __init__(
        self,
        *,
        quantized: Callable[[Kept, bool], Model],
        room: Callable[[Model], Room],
        size: Callable[[Model], int],
        operators: Callable[[Kept], int],
        measured: Callable[[Sequence[Part], Sequence[int]], Sequence[Room]],
        candidates: Callable[[], Candidates],
        hides: bool,
        fragile: Sequence[str] = (),
        ample: float = LEVELS[0],
        is_hybrid: bool = False,
    ) -> None:
        self._quantized, self._tried, self._size = quantized, room, size
        self._operators, self._measuring = operators, measured
        self._asked, self._hides, self._fragile = candidates, hides, fragile
        self._ample, self._is_hybrid = ample, is_hybrid
        self._rooms: dict[Kept, Room] = {}
        self._alone: dict[str, Room] = {}

    def found(self) -> tuple[Model, Found]:
        """The model and what it keeps in float: nothing where it has room as it is, and as much as
        may be where nothing helps.
        """
        model = self._quantized(Kept(), True)
        before, size = self._tried(model), self._size(model)
        self._rooms[Kept()] = before
        if self._is_ample(before):
            return model, Found(Kept(), (before, before), size, {}, 1)
        del model  # which frees it first
        kept = self._chosen(before)
        alone = {name: room for name, room in self._alone.items() if name in kept.names}
        rooms = before, self._room(kept)
        return self._quantized(kept, True), Found(kept, rooms, size, alone, len(self._rooms))

    def _is_ample(self, room: Room) -> bool:
        # What is fragile has room on these samples only by chance, unless it is ample.
        return room.reaches(LEVELS[-1] if self._fragile else self._ample)

    def _chosen(self, before: Room) -> Kept:
        fragile, room = frozenset(self._fragile), before
        if fragile:
            self._measured([(name,) for name in self._fragile], before.hardest())
            room = self._room(Kept(fragile))
            if room.reaches(self._ample):
                return self._needed(Kept(fragile), self._fragile, room.level)
        corrected = Kept(fragile, corrected=True)
        if room.reaches(LEVELS[0]) and self._room(corrected).reaches(self._ample):
            return corrected
        return self._least(room.hardest())

    def _least(self, hardest: Sequence[int]) -> Kept:
        aims, kept = AIMS[self._hides], Kept(corrected=True)
        if self._room(kept).reaches(aims[0]):
            return kept
        order = self._ranked(self._candidates.names, hardest)
        every = union(order)
        if self._is_hybrid and self._asks_floats(every):
            kept = kept._replace(is_float=True)
        room = self._room(kept._replace(names=every))
        aim = next((aim for aim in aims if room.reaches(aim)), None)
        if aim is None:
            return kept._replace(names=every)
        if self._room(kept).reaches(aim):
            return kept
        return self._fewest(kept, order, hardest, aim)

    def _asks_floats(self, every: frozenset[str]) -> bool:
        """Whether what stays in float needs its weights as floats: where int8 weights leave little
        room, and floats more.
        """
        kept = Kept(every, corrected=True)
        rounded, exact = self._room(kept), self._room(kept._replace(is_float=True))
        return rounded.level < min(exact.level, LEVELS[1]) or exact.level == -math.inf

    def _fewest(
        self, kept: Kept, order: Sequence[Part], hardest: Sequence[int], aim: float
    ) -> Kept:
        """What reaches the aim, as all parts do: the first of them, one by one where they are
        groups, but for those that the others do without.

        All where answers hide what int8 costs and most of the operators would stay in float: other
        samples may fail by the rest (PP-OCR's text recognition, one word in twelve), which would
        hardly make it quicker.
        """
        chosen = self._enough(kept, order, aim)
        left = self._operators(kept._replace(names=chosen))
        if self._hides and 2 * left < self._operators(Kept()):
            whole = kept._replace(names=self._candidates.names.difference(self._candidates.shares))
            return whole if self._room(whole).reaches(aim) else kept._replace(names=union(order))
        order = [part for part in order if chosen.issuperset(part)]
        if any(len(part) > 1 for part in order):
            order = self._ranked(chosen, hardest)
            chosen = self._enough(kept, order, aim)
        names = [name for part in order for name in part if name in chosen]
        return self._needed(kept, names, aim)

    def _enough(self, kept: Kept, order: Sequence[Part], aim: float) -> frozenset[str]:
        """The names of as many of the parts, from the first, as reach the aim; at worst all."""

        def works(size: int) -> bool:
            return self._room(kept._replace(names=union(order[:size]))).reaches(aim)

        return union(order[: fewest(len(order), works)])

    def _needed(self, kept: Kept, names: Sequence[str], aim: float) -> Kept:
        """Those of the names, costliest first, that the aim is not reached without."""

        def works(some: frozenset[str]) -> bool:
            return self._room(kept._replace(names=some)).reaches(aim)

        return kept._replace(names=frozenset(needed(names, works)))

    @cached_property
    def _candidates(self) -> Candidates:
        return self._asked()

    def _ranked(self, among: Collection[str], hardest: Sequence[int]) -> list[Part]:
        """The parts of these names, costliest first, that may stay in float together."""
        rooms = self._measured(self._candidates.parts(among), hardest)
        return self._candidates.together(ranked(rooms))

    def _measured(self, found: Sequence[Part], hardest: Sequence[int]) -> dict[Part, Room]:
        """The room that each of the parts leaves where it alone is in int8."""
        rooms = dict(zip(found, self._measuring(found, hardest), strict=True))
        self._alone |= {name: room for part, room in rooms.items() for name in part}
        return rooms

    def _room(self, kept: Kept) -> Room:
        if kept not in self._rooms:
            self._rooms[kept] = self._tried(self._quantized(kept, False))
        return self._rooms[kept]


def parts(names: Sequence[str]) -> list[Part]:
    """Neighbours put together, so that there are PARTS at the most."""
    size = -(-len(names) // PARTS) or 1
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


def ranked(rooms: Mapping[Part, Room]) -> list[Part]:
    """The parts, costliest first; equal ones in their order."""
    return sorted(rooms, key=lambda part: -rooms[part].cost)


def union(groups: Iterable[Collection[str]]) -> frozenset[str]:
    """The names of all groups."""
    return frozenset(name for group in groups for name in group)


def needed(names: Sequence[str], works: Callable[[frozenset[str]], bool]) -> list[str]:
    """The names, costliest first, without those that the others work without: each of the last
    DOUBTED is tried, the cheapest first.
    """
    kept = list(names)
    for name in names[: -DOUBTED - 1 : -1]:
        others = [each for each in kept if each != name]
        if works(frozenset(others)):
            kept = others
    return kept


def fewest(count: int, works: Callable[[int], bool]) -> int | None:
    """The least number, 1 to `count`, that works; None where `count` does not.

    All numbers above one that works are taken to work: about log2(count) are tried.
    """
    if count < 1 or not works(count):
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if works(middle):
            high = middle
        else:
            low = middle
    return high
