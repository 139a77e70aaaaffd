"""How what stays in float is chosen: by trials of a model that is foretold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from crosscast.targets.families import search
from crosscast.targets.families.search import Candidates, Found, Kept, Search
from crosscast.targets.families.sensitivity import Room


def test_parts_are_neighbours_and_few() -> None:
    assert search.parts(["a", "b"]) == [("a",), ("b",)]
    names = [str(number) for number in range(1000)]
    found = search.parts(names)
    assert len(found) <= search.PARTS
    assert [name for part in found for name in part] == names
    assert search.parts([]) == []


@pytest.mark.parametrize("needed", [1, 2, 7, 20, 40])
def test_the_fewest_are_found_by_few_trials(needed: int) -> None:
    tried: list[int] = []

    def works(size: int) -> bool:
        tried.append(size)
        return size >= needed

    assert search.fewest(40, works) == needed
    assert len(tried) <= 7
    assert search.fewest(needed - 1, works) is None


def test_the_costliest_come_first_and_equal_ones_in_order() -> None:
    rooms = {("a",): Room([3.0]), ("b",): Room([-5.0]), ("c",): Room([3.0])}
    assert search.ranked(rooms) == [("b",), ("a",), ("c",)]


class Model(NamedTuple):
    """What a search asked for."""

    kept: Kept
    every: bool


def searched(
    names: Sequence[str],
    costs: Mapping[str, float],
    needed: Mapping[float, set[str]],
    *,
    weights: Mapping[str, float] | None = None,
    hides: bool = False,
    fragile: Sequence[str] = (),
    is_hybrid: bool = False,
) -> tuple[Found, int]:
    """What is chosen where each level needs some names in float, and how many models were tried.

    costs: of each name in int8 alone; what is more costs more room. weights: their shares, by name.
    """
    tried: set[Kept] = set()
    shares = weights or {}

    def room(model: Model) -> Room:
        tried.add(model.kept)
        assert model.every == (model.kept == Kept())
        reached = [level for level, wanted in needed.items() if wanted <= model.kept.names]
        return Room([max(reached, default=-9.0), 99.0, 99.0])

    def measured(parts: Sequence[tuple[str, ...]], hardest: Sequence[int]) -> list[Room]:
        assert list(hardest) == [0, 1]
        return [Room([-sum(costs.get(name, 0.0) for name in part)]) for part in parts]

    model, found = Search(
        quantized=Model,
        room=room,
        size=lambda model: 10 - len(model.kept.names),
        operators=lambda kept: len(set(names) - kept.names),
        measured=measured,
        candidates=lambda: Candidates((names, list(shares)), shares),
        hides=hides,
        fragile=fragile,
        is_hybrid=is_hybrid,
    ).found()
    assert model == Model(found.kept, True)
    assert found.alone.keys() == found.kept.names
    assert found.size == 10
    assert found.trials == len(tried)
    return found, len(tried)


NAMES = list("abcdefgh")


def test_what_has_room_is_left_alone() -> None:
    found, trials = searched(NAMES, {}, {0.0: set()})
    assert (found.kept, trials) == (Kept(), 1)


def test_the_fewest_stay_in_float() -> None:
    costs = {"c": 9.0, "f": 5.0}
    assert searched(NAMES, costs, {3.0: {"c"}})[0].kept == Kept(frozenset("c"), corrected=True)
    assert searched(NAMES, costs, {3.0: {"c", "f"}})[0].kept.names == {"c", "f"}
    assert searched(NAMES, {}, {0.0: set(NAMES[:7])})[0].kept.names == set(NAMES[:7])


def test_what_others_do_without_is_left_out_again() -> None:
    """The ranking takes each alone: here `c` costs most, but is mended by `f`."""
    assert searched(NAMES, {"c": 9.0, "f": 5.0}, {0.0: {"f"}})[0].kept.names == {"f"}


def test_groups_are_taken_apart() -> None:
    names = [f"n{number}" for number in range(1000)]
    costs = {"n100": 30.0, "n777": 20.0}
    found, trials = searched(names, costs, {0.0: {"n100", "n777"}})
    assert found.kept.names == {"n100", "n777"}
    assert trials < 30


def test_more_room_is_aimed_at_where_answers_hide_what_is_lost() -> None:
    needed = {0.0: {"a"}, 3.0: {"a", "b"}, 6.0: {"a", "b", "c"}}
    costs = {"a": 9.0, "b": 8.0, "c": 7.0}
    for hides, names in ((False, "ab"), (True, "abc")):
        found, _ = searched(NAMES, costs, needed, hides=hides)
        assert found.kept.names == set(names)
        assert found.rooms[1].worst == (6.0 if hides else 3.0)


def test_where_answers_hide_what_is_lost_most_or_all_is_all() -> None:
    assert searched(NAMES, {}, {6.0: set("abcd")}, hides=True)[0].kept.names == set("abcd")
    assert searched(NAMES, {}, {6.0: set("abcde")}, hides=True)[0].kept.names == set(NAMES)


def test_all_stays_in_float_where_nothing_helps() -> None:
    found, _ = searched(NAMES, {"c": 9.0}, {0.0: {"none of these"}})
    assert found.kept == Kept(frozenset(NAMES), corrected=True)


def test_weights_stay_in_float_beside_what_is_computed() -> None:
    found, _ = searched(
        NAMES, {"c": 9.0, "w": 5.0}, {0.0: {"c", "w"}}, weights={"v": 0.05, "w": 0.1}
    )
    assert found.kept.names == {"c", "w"}


def test_few_weights_may_stay_in_float() -> None:
    """`v` and `w` cost most, but only one of them is within the share; `x` is not by itself."""
    shares = {"v": 0.08, "w": 0.08, "x": 0.5}
    found, _ = searched(
        NAMES, {"v": 9.0, "w": 8.0, "x": 99.0}, {0.0: {"none of these"}}, weights=shares
    )
    assert found.kept.names == {*NAMES, "v"}


def test_the_fragile_come_first() -> None:
    found, _ = searched(NAMES, {}, {-1.0: set(), 3.0: {"b"}}, fragile=["b", "a"])
    assert found.kept == Kept(frozenset("b"))


def test_floats_are_given_back_where_nothing_else_helps() -> None:
    found, _ = searched(NAMES, {}, {0.0: {"none of these"}}, is_hybrid=True)
    assert found.kept == Kept(frozenset(NAMES), corrected=True, is_float=True)
    found, _ = searched(NAMES, {"c": 9.0}, {3.0: {"c"}}, is_hybrid=True)
    assert found.kept == Kept(frozenset("c"), corrected=True)
