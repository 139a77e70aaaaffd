"""Resizing, cropping and resampling against torch, and against the documented points."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from crosscast.pipeline.errors import Unproven

torch = pytest.importorskip("torch")
functional = torch.nn.functional
table = pytest.importorskip("crosscast.targets.families.mil.ops.table")


def op(name: str, opset: int = 15, **arguments: Any) -> Any:
    return table.operator(name, opset).function(**arguments)


def counted(*shape: int) -> Any:
    return torch.arange(float(torch.tensor(shape).prod())).reshape(shape)


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted), atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


SIZES = [*product((4, 5, 7), (2, 5, 8, 13))]


@pytest.mark.parametrize(("size", "count"), SIZES)
def test_aligned_corners_are_those_of_torch(size: int, count: int) -> None:
    x = torch.randn(1, 2, size, size + 1)
    wanted = functional.interpolate(x, (count, count + 1), mode="bilinear", align_corners=True)
    for mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        given = {"target_size_height": count, "target_size_width": count + 1}
        close(op("resize_bilinear", x=x, sampling_mode=mode, **given), wanted)
        found = op("resize", 17, x=x, shape=[count, count + 1], resized_dims=2, sampling_mode=mode)
        close(found, wanted)


@pytest.mark.parametrize(("size", "count"), SIZES)
def test_unaligned_corners_are_those_of_torch(size: int, count: int) -> None:
    x = torch.randn(1, 2, size, size + 1)
    wanted = functional.interpolate(x, (count, count + 1), mode="bilinear", align_corners=False)
    given = {"target_size_height": count, "target_size_width": count + 1}
    close(op("resize_bilinear", x=x, sampling_mode="UNALIGN_CORNERS", **given), wanted)


@pytest.mark.parametrize(
    ("mode", "count", "wanted"),
    [
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("DEFAULT", 6, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0.0]),
    ],
)
def test_points_are_as_documented(mode: str, count: int, wanted: list[float]) -> None:
    x = torch.tensor([[[0.0, 1.0]]])
    given = {"target_size_height": 1, "target_size_width": count, "sampling_mode": mode}
    close(op("resize_bilinear", x=x, **given), [[wanted]])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(
        Unproven, match="evaluator has no resize_bilinear with sampling_mode 'MAGIC'"
    ):
        op("resize_bilinear", x=torch.zeros(1, 2, 2), sampling_mode="MAGIC")


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_nearest_by_whole_factors(factor: int) -> None:
    x = torch.randn(1, 2, 3, 4)
    wanted = functional.interpolate(x, scale_factor=factor, mode="nearest")
    given = {"scale_factor_height": factor, "scale_factor_width": factor}
    close(op("upsample_nearest_neighbor", x=x, **given), wanted)
    given = {"target_size_height": 3 * factor, "target_size_width": 4 * factor}
    close(op("resize_nearest_neighbor", x=x, **given), wanted)


def test_nearest_by_a_fraction_takes_points_by_the_sizes() -> None:
    x = torch.tensor([[[10.0, 20.0, 30.0]]])
    for factor, wanted in ((1.12, [10.0, 20.0, 30.0]), (0.67, [10.0, 20.0])):
        found = op("upsample_nearest_neighbor", x=x, scale_factor_width=factor)
        close(found, [[wanted]])


def test_nearest_is_refused_where_its_points_are_not_told() -> None:
    given = {"target_size_height": 2, "target_size_width": 2}
    with pytest.raises(Unproven, match="with nearest elements of sizes '4 to 2'"):
        op("resize_nearest_neighbor", x=torch.randn(1, 1, 4, 4), **given)
    with pytest.raises(Unproven, match="evaluator has no resize with nearest elements"):
        op(
            "resize", 17, x=torch.randn(1, 1, 2, 2), shape=[4, 4], resized_dims=2,
            interpolation_mode="NEAREST_NEIGHBOR",
        )  # fmt: skip


def test_resize_takes_the_nearest_of_rounded_points() -> None:
    x = torch.tensor([[10.0, 20.0]])
    found = op("resize", 17, x=x, shape=[3], resized_dims=1, interpolation_mode="NEAREST_NEIGHBOR")
    close(found, [[10.0, 20.0, 20.0]])
    close(op("resize", 17, x=x, shape=[0], resized_dims=1), x)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("factor", [2.0, 2.5, 0.5])
def test_upsample_bilinear(corners: bool, factor: float) -> None:
    x = torch.randn(1, 2, 4, 6)
    found = op(
        "upsample_bilinear", x=x, scale_factor_height=factor, scale_factor_width=factor,
        align_corners=corners,
    )  # fmt: skip
    close(
        found,
        functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=corners),
    )


def test_crop() -> None:
    x = torch.randn(1, 2, 5, 6)
    close(op("crop", x=x, crop_height=[1, 2], crop_width=[0, 1]), x[:, :, 1:3, :5])


BOX = [0.5, 1.0, 2.5, 3.0]


def test_boxes_are_cut_out() -> None:
    x, box = torch.randn(2, 3, 4, 5), torch.tensor(BOX)
    rows, columns = torch.linspace(0.5, 2.5, 4), torch.linspace(1, 3, 3)
    grid = torch.stack(torch.meshgrid(columns * 2 / 4 - 1, rows * 2 / 3 - 1, indexing="xy"), -1)
    wanted = functional.grid_sample(x, grid.expand(2, -1, -1, -1), align_corners=True)
    sizes = {"target_height": 4, "target_width": 3, "sampling_mode": "ALIGN_CORNERS"}
    roi = box.reshape(1, 1, 4, 1, 1)
    close(op("crop_resize", x=x, roi=roi, **sizes), wanted[None])
    second = torch.cat([torch.tensor([1.0]), box]).reshape(1, 1, 5, 1, 1)
    close(op("crop_resize", x=x, roi=second, **sizes), wanted[None, 1:])
    turned = box[[1, 0, 3, 2]].reshape(1, 1, 4, 1, 1)
    mode = {"box_coordinate_mode": "CORNERS_WIDTH_FIRST"}
    close(op("crop_resize", x=x, roi=turned, **mode, **sizes), wanted[None])
    given = {"boxes": box[None] / torch.tensor([3, 4, 3, 4]), "box_indices": [1]}
    found = op("crop_resize", 17, x=x, normalized_coordinates=True, **given, **sizes)
    close(found, wanted[1:])


def test_points_outside_have_the_padding_value_where_an_opset_has_one() -> None:
    x, roi = torch.ones(1, 1, 2, 2), torch.tensor([0.0, 0.0, 2.0, 1.0]).reshape(1, 1, 4, 1, 1)
    given = {
        "x": x, "roi": roi, "target_height": 3, "target_width": 2, "sampling_mode": "ALIGN_CORNERS"
    }  # fmt: skip
    found = op("crop_resize", 16, pad_value=7.0, **given)
    close(found[0, 0, 0], [[1.0, 1.0], [1.0, 1.0], [7.0, 7.0]])
    with pytest.raises(Unproven, match="crop_resize with a box 'outside of the image'"):
        op("crop_resize", **given)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("padding", "torch_padding", "corners"),
    [
        ("constant", "zeros", True),
        ("constant", "zeros", False),
        ("border", "border", True),
        ("reflection", "reflection", True),
        ("symmetric", "reflection", False),
    ],
)
def test_resample(mode: str, padding: str, torch_padding: str, corners: bool) -> None:
    x, grid = torch.randn(2, 3, 4, 5), torch.rand(2, 6, 7, 2) * 4 - 2
    wanted = functional.grid_sample(x, grid, mode, torch_padding, corners)
    given = {
        "sampling_mode": mode, "padding_mode": padding, "padding_value": 0.0,
        "align_corners": corners,
    }  # fmt: skip
    minus, zero = "normalized_minus_one_to_one", "normalized_zero_to_one"
    close(op("resample", x=x, coordinates=grid, coordinates_mode=minus, **given), wanted)
    close(op("resample", x=x, coordinates=(grid + 1) / 2, coordinates_mode=zero, **given), wanted)


def test_the_nearest_of_two_is_the_later() -> None:
    x, given = counted(1, 1, 1, 4), torch.tensor([0.5, 0.0, 1.5, 0.0]).reshape(1, 1, 2, 2)
    options = {
        "sampling_mode": "nearest", "padding_mode": "border", "padding_value": 0.0,
        "coordinates_mode": "unnormalized", "align_corners": False,
    }  # fmt: skip
    close(op("resample", x=x, coordinates=given, **options), [[[[1.0, 2.0]]]])
    options["padding_mode"] = "reflection"
    with pytest.raises(Unproven, match="in the middle of two elements below zero"):
        op("resample", x=x, coordinates=torch.tensor([[[[-1.5, 0.0]]]]), **options)


def test_affine() -> None:
    x, matrix = torch.randn(2, 3, 4, 5), torch.randn(1, 6)
    grid = functional.affine_grid(matrix.reshape(1, 2, 3).expand(2, 2, 3), [2, 3, 6, 7], True)
    found = op(
        "affine", x=x, transform_matrix=matrix, output_height=6, output_width=7,
        sampling_mode="bilinear", padding_mode="constant", padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one", align_corners=True,
    )  # fmt: skip
    close(found, functional.grid_sample(x, grid, align_corners=True))
