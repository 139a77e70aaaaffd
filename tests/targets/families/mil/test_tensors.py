"""Operators that make, move, gather and scatter elements, against numpy and torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven

torch = pytest.importorskip("torch")
functional = torch.nn.functional
table = pytest.importorskip("crosscast.targets.families.mil.ops.table")


def op(name: str, opset: int = 15, **arguments: Any) -> Any:
    return table.operator(name, opset).function(**arguments)


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def counted(*shape: int) -> Any:
    return torch.arange(float(np.prod(shape))).reshape(shape)


# --- slices and shapes ---------------------------------------------------------------------------

SLICES: list[tuple[dict[str, Any], Any]] = [
    ({"begin": [1, 0, 2], "end": [3, 4, 5]}, np.s_[1:3, 0:4, 2:5]),
    ({"begin": [0, 1, 0], "end": [0, 3, 0], "end_mask": [True, False, True]}, np.s_[:, 1:3, :]),
    (
        {"begin": [9, 1, 9], "end": [2, 4, 3], "begin_mask": [True, False, True]},
        np.s_[:2, 1:4, :3],
    ),
    ({"begin": [-2, -3, -4], "end": [-1, -1, 5]}, np.s_[-2:-1, -3:-1, -4:5]),
    ({"begin": [0, 0, 0], "end": [3, 4, 5], "stride": [2, 3, 1]}, np.s_[::2, ::3, :]),
    ({"begin": [2, 3, 4], "end": [0, 0, 1], "stride": [-1, -2, -1]}, np.s_[2:0:-1, 3:0:-2, 4:1:-1]),
    (
        {
            "begin": [0, 0, 0],
            "end": [0, 0, 0],
            "stride": [-1, 1, -2],
            "begin_mask": [True] * 3,
            "end_mask": [True] * 3,
        },
        np.s_[::-1, :, ::-2],
    ),
    (
        {"begin": [-1, 0, 2], "end": [0, 4, 0], "squeeze_mask": [True, False, True]},
        np.s_[-1, 0:4, 2],
    ),
    ({"begin": [0, 0, 0], "end": [99, 99, 99]}, np.s_[:, :, :]),
]


@pytest.mark.parametrize(("given", "wanted"), SLICES)
def test_slice_by_index(given: dict[str, Any], wanted: Any) -> None:
    x = counted(3, 4, 5)
    same(op("slice_by_index", x=x, **given), x.numpy()[wanted])


@pytest.mark.parametrize(("given", "wanted"), SLICES)
def test_slice_update(given: dict[str, Any], wanted: Any) -> None:
    x, expected = counted(3, 4, 5), counted(3, 4, 5).numpy()
    update = -torch.ones(expected[wanted].shape)
    expected[wanted] = -1
    same(op("slice_update", 18, x=x, update=update, **given), expected)
    same(x, counted(3, 4, 5))


def test_slice_by_size() -> None:
    x = counted(3, 4, 5)
    same(op("slice_by_size", x=x, begin=[1, 0, 2], size=[2, 3, -1]), x[1:3, :3, 2:])
    with pytest.raises(StageError, match="slice at 2 of 2 elements of an axis of 3"):
        op("slice_by_size", x=x, begin=[2, 0, 0], size=[2, 1, 1])


@pytest.mark.parametrize(
    ("opset", "shape", "wanted"),
    [
        (15, [4, -1], (4, 6)),
        (15, [0, -1, 0], (2, 3, 4)),
        (15, [-1], (24,)),
        (17, [1, 0, -1, 0], (1, 2, 3, 4)),
        (17, [0, -1], (3, 8)),
        (17, [0, 1, -1, 0, 0], (1, 1, 2, 3, 4)),
    ],
)
def test_reshape(opset: int, shape: list[int], wanted: tuple[int, ...]) -> None:
    x = counted(2, 3, 4)
    same(op("reshape", opset, x=x, shape=shape), x.reshape(wanted))


@pytest.mark.parametrize("shape", [[5, 5], [-1, -1], [-1, 7]])
def test_shapes_that_do_not_fit_are_errors(shape: list[int]) -> None:
    with pytest.raises((StageError, RuntimeError), match=r"reshape|invalid for input"):
        op("reshape", x=counted(2, 3, 4), shape=shape)


def test_reshape_like() -> None:
    found = op(
        "reshape_like",
        16,
        x=counted(180),
        ref_tensors=[counted(2, 3, 4), counted(1, 5, 6)],
        begins=[0, 1],
        ends=[2, 0],
        end_masks=[False, True],
    )
    assert found.shape == (2, 3, 5, 6)


def test_axes_of_one() -> None:
    x = counted(2, 1, 3, 1)
    assert op("squeeze", x=x).shape == (2, 3)
    assert op("squeeze", x=x, axes=[-1, 0]).shape == (2, 1, 3)
    assert op("expand_dims", x=counted(2, 3), axes=[0, -1]).shape == (1, 2, 3, 1)
    assert op("flatten2d", x=counted(3), axis=1).shape == (3, 1)
    assert op("flatten2d", x=counted(2, 3, 2), axis=-1).shape == (6, 2)
    assert op("shape", x=x).tolist() == [2, 1, 3, 1]


def test_turned() -> None:
    x = counted(2, 3, 4)
    same(op("transpose", x=x, perm=[2, 0, 1]), x.permute(2, 0, 1))
    same(op("reverse", x=x, axes=[0, -1]), x.flip(0, 2))
    same(op("reverse", x=x), x.flip(0, 1, 2))
    found = op("reverse_sequence", x=x, lengths=[2, 4], seq_axis=2, batch_axis=0)
    same(found[0, 0], [1, 0, 2, 3])
    same(found[1, 0], [15, 14, 13, 12])


def test_sliding_windows() -> None:
    x = counted(2, 7)
    found = op("sliding_windows", x=x, axis=-1, size=3, stride=2)
    same(found, x.unfold(1, 3, 2))
    assert op("sliding_windows", x=x.T, axis=0, size=3, stride=2).shape == (3, 3, 2)


def test_depth_is_block_first_and_pixels_are_channel_first() -> None:
    x = counted(1, 8, 2, 3)
    same(op("pixel_shuffle", x=x, upscale_factor=2), functional.pixel_shuffle(x, 2))
    y = counted(1, 2, 4, 6)
    same(op("pixel_unshuffle", 16, x=y, downscale_factor=2), functional.pixel_unshuffle(y, 2))
    deep = op("space_to_depth", x=y, block_size=2)
    same(deep[0, 0], y[0, 0, ::2, ::2])
    same(deep[0, 1], y[0, 1, ::2, ::2])
    same(deep[0, 2], y[0, 0, ::2, 1::2])
    same(op("depth_to_space", x=deep, block_size=2), y)


def test_batches_of_blocks() -> None:
    x = counted(1, 2, 3, 5)
    made = op("space_to_batch", x=x, block_shape=[2, 3], paddings=[0, 1, 1, 0])
    padded = functional.pad(x, (1, 0, 0, 1))
    assert made.shape == (6, 2, 2, 2)
    same(made[0], padded[0, :, ::2, ::3])
    same(made[1], padded[0, :, ::2, 1::3])
    same(made[3], padded[0, :, 1::2, ::3])
    same(op("batch_to_space", x=made, block_shape=[2, 3], crops=[0, 1, 1, 0]), x)


# --- made and joined -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_joined(axis: int) -> None:
    x, y = counted(2, 3), -counted(2, 3)
    same(op("concat", values=[x, y], axis=axis), torch.cat([x, y], axis))
    same(op("stack", values=[x, y], axis=axis), torch.stack([x, y], axis))
    mixed = op("concat", values=[x, y], axis=axis, interleave=True)
    same(mixed.movedim(axis, 0)[::2], x.movedim(axis, 0))
    same(mixed.movedim(axis, 0)[1::2], y.movedim(axis, 0))


def test_scalars_are_concatenated_to_a_vector() -> None:
    same(op("concat", values=[torch.tensor(3), torch.tensor(4)], axis=0), [3, 4])


def test_split() -> None:
    x = counted(2, 6)
    for found, wanted in zip(op("split", x=x, axis=1, num_splits=3), x.split(2, 1), strict=True):
        same(found, wanted)
    found = op("split", x=x, axis=-1, split_sizes=[1, 5], num_splits=2)
    assert [part.shape[1] for part in found] == [1, 5]
    with pytest.raises(StageError, match="an axis of 6 cannot be split into 4 equal parts"):
        op("split", x=x, axis=1, num_splits=4)


@pytest.mark.parametrize(("exclusive", "reverse"), [*product((False, True), (False, True))])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_cumsum(exclusive: bool, reverse: bool, dtype: str) -> None:
    x = counted(2, 4).to(getattr(torch, dtype))
    wanted = x.flip(1).cumsum(1) if reverse else x.cumsum(1)
    if exclusive:
        wanted = functional.pad(wanted[:, :-1], (1, 0))
    wanted = wanted.flip(1) if reverse else wanted
    same(op("cumsum", x=x, axis=1, exclusive=exclusive, reverse=reverse), wanted)


@pytest.mark.parametrize(("lower", "upper"), [*product((-1, 0, 1), (-1, 0, 2))])
def test_band_part(lower: int, upper: int) -> None:
    x = torch.full((2, 4, 5), -torch.inf)
    found = op("band_part", x=x, lower=lower, upper=upper)
    for row, column in product(range(4), range(5)):
        kept = (lower < 0 or row - column <= lower) and (upper < 0 or column - row <= upper)
        assert found[0, row, column] == (-torch.inf if kept else 0)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    indices = torch.tensor([[0, 2], [1, -1]])
    found = op("one_hot", indices=indices, one_hot_vector_size=3, axis=axis)
    wanted = (indices.unsqueeze(-1) == torch.arange(3)).int().movedim(-1, axis)
    same(found, wanted)
    values = {"on_value": torch.tensor(2.5), "off_value": torch.tensor(-1.0)}
    found = op("one_hot", indices=indices, one_hot_vector_size=3, axis=axis, **values)
    same(found, torch.where(wanted.bool(), 2.5, -1.0))


@pytest.mark.parametrize(
    ("mode", "torch_mode"), [("reflect", "reflect"), ("replicate", "replicate")]
)
def test_pad_from_the_edges(mode: str, torch_mode: str) -> None:
    x = counted(1, 2, 4, 5)
    found = op("pad", x=x, pad=[2, 1, 3, 2], mode=mode)
    same(found, functional.pad(x, (3, 2, 2, 1), mode=torch_mode))


def test_pad_with_a_constant() -> None:
    x = counted(2, 3)
    found = op("pad", x=x, pad=[1, 0, 0, 2], constant_val=torch.tensor(-1.0))
    same(found, functional.pad(x, (0, 2, 1, 0), value=-1))
    with pytest.raises(Unproven, match="evaluator has no pad with mode 'circular'"):
        op("pad", x=x, pad=[1, 1], mode="circular")


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 5, 1), (5, 0, -2), (2, 2, 1), (0.5, 3, 0.5)]
)
def test_range(start: float, end: float, step: float) -> None:
    given = [torch.tensor(value) for value in (start, end, step)]
    found = op("range_1d", start=given[0], end=given[1], step=given[2])
    same(found, np.arange(start, end, step))


def test_filled() -> None:
    same(op("fill", shape=[2, 3], value=torch.tensor(4)), np.full((2, 3), 4))
    same(
        op("fill_like", 16, ref_tensor=counted(2, 3), value=torch.tensor(1.5)), np.full((2, 3), 1.5)
    )
    same(op("tile", x=counted(1, 2), reps=[3, 2]), np.tile([[0.0, 1.0]], (3, 2)))


def test_chosen() -> None:
    x, y = counted(2, 3), -counted(2, 3)
    same(op("select", cond=x > 2, a=x, b=y), torch.where(x > 2, x, y))
    same(op("non_zero", x=torch.tensor([[0, 1], [2, 0]])), [[0, 1], [1, 0]])


# --- sorted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "ascending", "k"), [*product((0, -1), (False, True), (1, 3, -1))])
def test_topk(axis: int, ascending: bool, k: int) -> None:
    x = torch.randn(4, 5)
    values, indices = op("topk", 17, x=x, k=k, axis=axis, ascending=ascending)
    wanted = x.topk(x.shape[axis] if k == -1 else k, axis, largest=not ascending)
    same(values, wanted.values)
    same(indices, wanted.indices)
    same(op("topk", 17, x=x, k=k, axis=axis, ascending=ascending, return_indices=False), values)


@pytest.mark.parametrize("ascending", [False, True])
def test_argsort_keeps_the_order_of_equal_ones(ascending: bool) -> None:
    x = torch.tensor([1, 0, 1, 0])
    wanted = [1, 3, 0, 2] if ascending else [0, 2, 1, 3]
    assert op("argsort", x=x, ascending=ascending).tolist() == wanted


# --- gathered and scattered ----------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [[0, 2, 1], [[0, -1], [1, 1]], -1])
def test_gather(axis: int, indices: Any) -> None:
    x = counted(3, 4, 5)
    same(
        op("gather", x=x, indices=torch.tensor(indices), axis=axis),
        np.take(x.numpy(), indices, axis),
    )


def test_one_element_gathered_from_a_vector_is_a_scalar() -> None:
    found = op("gather", x=counted(3), indices=torch.tensor(2), axis=0)
    assert found.shape == ()
    assert found == 2


def test_gather_from_each_batch() -> None:
    x, indices = counted(2, 3, 4), torch.tensor([[0, 2], [1, 0]])
    found = op("gather", 16, x=x, indices=indices, axis=1, batch_dims=1)
    same(found, torch.stack([x[0][[0, 2]], x[1][[1, 0]]]))


@pytest.mark.parametrize("name", ["gather", "gather_along_axis"])
@pytest.mark.parametrize(("opset", "index"), [(15, 3), (15, -4), (17, -1), (17, 3)])
def test_indices_that_an_opset_does_not_define_are_errors(
    name: str, opset: int, index: int
) -> None:
    with pytest.raises(StageError, match=f"index {index} is outside an axis of 3"):
        op(name, opset, x=counted(3), indices=torch.tensor([index]))


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_along_axis(axis: int) -> None:
    x, indices = counted(3, 3), torch.tensor([[0, -1, 1], [2, 0, 0]])
    indices = indices if axis == 0 else indices.T
    wanted = np.take_along_axis(x.numpy(), indices.numpy(), axis)
    same(op("gather_along_axis", x=x, indices=indices, axis=axis), wanted)


def test_gather_nd() -> None:
    x, indices = counted(2, 3, 4), torch.tensor([[[1, 2], [0, -1]]])
    same(op("gather_nd", x=x, indices=indices), x[torch.tensor([[1, 0]]), torch.tensor([[2, 2]])])
    found = op("gather_nd", 16, x=x, indices=torch.tensor([[[1]], [[2]]]), batch_dims=1)
    same(found, torch.stack([x[0][[1]], x[1][[2]]]))


MODES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@pytest.mark.parametrize("mode", [*MODES, "update"])
def test_scatter(mode: str) -> None:
    data, updates = counted(3, 4) + 1, counted(2, 4) + 2
    wanted, chosen = data.numpy().copy(), [2, 0]
    if mode == "update":
        wanted[chosen] = updates
    else:
        MODES[mode].at(wanted, chosen, updates.numpy())
    indices = torch.tensor(chosen)
    same(op("scatter", data=data, indices=indices, updates=updates, mode=mode), wanted)
    found = op("scatter_nd", data=data, indices=indices[:, None], updates=updates, mode=mode)
    same(found, wanted)
    along = indices[:, None].expand(2, 4)
    found = op("scatter_along_axis", data=data, indices=along, updates=updates, mode=mode)
    same(found, wanted)
    found = op("scatter", data=data.T, indices=indices, updates=updates.T, axis=-1, mode=mode)
    same(found.T, wanted)


def test_repeated_places_add_up() -> None:
    found = op("scatter", data=counted(2), indices=torch.tensor([1, 1]), updates=torch.ones(2))
    assert found.tolist() == [0, 3]


def test_another_mode_is_refused() -> None:
    with pytest.raises(Unproven, match="evaluator has no scatter with mode 'mean'"):
        op(
            "scatter",
            data=counted(2),
            indices=torch.tensor([0]),
            updates=torch.ones(1),
            mode="mean",
        )


# --- boxes ---------------------------------------------------------------------------------------


def overlap(first: Any, second: Any) -> float:
    low = np.maximum(first[:2] - first[2:] / 2, second[:2] - second[2:] / 2)
    high = np.minimum(first[:2] + first[2:] / 2, second[:2] + second[2:] / 2)
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / float(np.prod(first[2:]) + np.prod(second[2:]) - common)


@pytest.mark.parametrize("per_class", [False, True])
def test_non_maximum_suppression(per_class: bool) -> None:
    rng = np.random.default_rng(0)
    boxes = (rng.random((1, 20, 4)) + np.array([0, 0, 0.2, 0.2])).astype(np.float32)
    scores = rng.random((1, 20, 3)).astype(np.float32)
    kept: list[int] = []
    for box in np.argsort(-scores[0].max(1)):
        rivals = [
            i for i in kept if not per_class or scores[0, i].argmax() == scores[0, box].argmax()
        ]
        if scores[0, box].max() > 0.4 and all(
            overlap(boxes[0, box], boxes[0, i]) <= 0.3 for i in rivals
        ):
            kept.append(int(box))
    given = {"iou_threshold": 0.3, "max_boxes": 15, "per_class_suppression": per_class}
    tensors = {"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores)}
    found = op("non_maximum_suppression", score_threshold=0.4, **tensors, **given)
    assert found[3].tolist() == [min(len(kept), 15)]
    padded = (kept + [-1] * 15)[:15]
    assert found[2].tolist() == [padded]
    same(found[0][0, : len(kept)], boxes[0, kept[:15]])
    turned = {name: value.mT for name, value in tensors.items()}
    later = op("non_maximum_suppression", 17, **turned, **given)
    assert len(later) == 3
    assert later[0].shape == (1, 4, 15)
