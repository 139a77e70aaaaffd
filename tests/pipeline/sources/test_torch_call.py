"""How inputs become arguments: positions, names, nesting, constants. No torch."""

from __future__ import annotations

from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.torch_call import bound, nested


class Net:
    """Gives back what forward() got."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


class Plain(Net):
    def forward(self, x, state=None, *, scale=1):  # type: ignore[no-untyped-def]
        return x, state, scale


class Open(Net):
    def forward(self, **batch):  # type: ignore[no-untyped-def]
        return batch


class Half(Net):
    def forward(self, ids, mask=None, **more):  # type: ignore[no-untyped-def]
        return ids, mask, more


class Many(Net):
    def forward(self, *tensors):  # type: ignore[no-untyped-def]
        return tensors


@pytest.mark.parametrize(
    ("net", "names", "frozen", "result", "flat"),
    [
        (Plain, ["x", "state"], {}, (0, 1, 1), True),
        (Plain, ["image", "hidden"], {}, (0, 1, 1), True),
        (Plain, ["state", "x"], {}, (1, 0, 1), False),
        (Plain, ["x", "scale"], {}, (0, None, 1), False),
        (Plain, ["x"], {"scale": 3}, (0, None, 3), False),
        (Plain, ["x"], {"state": None}, (0, None, 1), False),
        (Plain, ["x", "state.0", "state.1"], {}, (0, (1, 2), 1), False),
        (Open, ["a", "b.c"], {"d": True}, {"a": 0, "b": {"c": 1}, "d": True}, False),
        (Half, ["tokens", "attention"], {}, (0, 1, {}), True),
        (Half, ["ids", "other"], {}, (0, None, {"other": 1}), False),
        (Many, ["a", "b"], {}, (0, 1), False),
    ],
)
def test_inputs_reach_their_arguments(
    net: type[Net], names: list[str], frozen: dict[str, Any], result: Any, flat: bool
) -> None:
    binding = bound(net(), names, frozen)
    assert binding(net(), list(range(len(names)))) == result
    assert binding.flat is flat


@pytest.mark.parametrize(
    ("names", "frozen", "message", "fix"),
    [
        (["state", "mask"], {}, "has an argument 'state', but no 'mask'", "as forward() does"),
        (["x"], {"x": 1}, "'x' is declared as an input as well", "do not freeze"),
        (["x"], {"rate": 1}, "no argument 'rate'; it takes x, state, scale", "by the names"),
    ],
)
def test_what_fits_no_argument_is_told(
    names: list[str], frozen: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(StageError) as caught:
        bound(Plain(), names, frozen)
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_names_nest() -> None:
    names = ["a.0.x", "a.1.x", "b", "c.k.0", "d.1"]
    assert nested(names, range(5)) == {
        "a": ({"x": 0}, {"x": 1}),
        "b": 2,
        "c": {"k": (3,)},
        "d": {"1": 4},
    }


@pytest.mark.parametrize("names", [["a", "a.0"], ["a.0", "a"], ["a.0", "a.0.x"]])
def test_an_input_cannot_be_part_of_another(names: list[str]) -> None:
    with pytest.raises(StageError, match="cannot be part of another input"):
        nested(names, range(2))
