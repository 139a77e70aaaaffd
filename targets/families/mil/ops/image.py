"""Resizing, cropping and resampling images: the last two axes."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import Ints, Op, Since, Tensor, unknown


def grid(operator: str, mode: str, first: float, span: float, size: int, count: int) -> Tensor:
    """Where `count` elements are taken from, in elements of the input.

    first, span: the first element and the distance to the last one. size: elements of the input;
    points of modes other than for boxes are kept inside.
    """
    places = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return first + torch.full((1,), span / 2 if mode == "ALIGN_CORNERS" else 0.0).double()
        return first + places * span / (count - 1)
    if mode == "OFFSET_CORNERS":
        return first + (places + 0.5) * max(1.0, span) / count
    if mode == "DEFAULT":
        return (places * size / count).clamp(0, size - 1)
    if mode == "UNALIGN_CORNERS":
        return ((places + 0.5) * size / count - 0.5).clamp(0, size - 1)
    raise unknown(operator, "sampling_mode", mode)


def _whole(operator: str, mode: str, size: int, count: int) -> Tensor:
    return grid(operator, mode, 0.0, size - 1.0, size, count).clamp(0, size - 1)


def interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Elements between neighbours of an axis; `points` lie inside it."""
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    along = [1] * x.dim()
    along[axis] = -1
    share = (points - low).float().reshape(along)
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below + (above - below) * share


def resize_bilinear(
    *,
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    for axis, count in ((-2, target_size_height), (-1, target_size_width)):
        points = _whole("resize_bilinear", sampling_mode, x.shape[axis], count)
        x = interpolated(x, x.dim() + axis, points)
    return x


def resize_nearest_neighbor(
    *, x: Tensor, target_size_height: int, target_size_width: int
) -> Tensor:
    """Whether points are the elements' beginnings or their middles is not told."""
    for axis, count in ((-2, target_size_height), (-1, target_size_width)):
        places, size = torch.arange(count), x.shape[axis]
        begins, middles = places * size // count, (2 * places + 1) * size // (2 * count)
        chosen = _agreed("resize_nearest_neighbor", f"{size} to {count}", begins, middles)
        x = x.index_select(x.dim() + axis, chosen)
    return x


def resize(
    *,
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """IOS 17: the last `resized_dims` axes; 0 keeps a size. The nearest element is that of a
    rounded point; which of two as near it is, is not told.
    """
    rank = x.dim()
    for back in range(resized_dims, 0, -1):
        axis, count = rank - back, shape[-back] or x.shape[-back]
        points = _whole("resize", sampling_mode, x.shape[axis], count)
        if interpolation_mode == "LINEAR":
            x = interpolated(x, axis, points)
        elif interpolation_mode == "NEAREST_NEIGHBOR":
            below, above = (points + shift for shift in (0.499999, 0.500001))
            sizes = f"{x.shape[axis]} to {count}"
            x = x.index_select(axis, _agreed("resize", sizes, below.long(), above.long()))
        else:
            raise unknown("resize", "interpolation_mode", interpolation_mode)
    return x


def _agreed(operator: str, sizes: str, *readings: Tensor) -> Tensor:
    """The elements that all readings of an operator choose."""
    if not all(torch.equal(readings[0], reading) for reading in readings):
        raise unknown(operator, "nearest elements of sizes", sizes)
    return readings[0]


def upsample_nearest_neighbor(
    *, x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    """The element at or before each point; points lie by the sizes, not by the factors."""
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        count = floor(size * scale + 1e-5)
        x = x.index_select(x.dim() + axis, torch.arange(count) * size // count)
    return x


def upsample_bilinear(
    *,
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """half_pixel_centers: from iOS 16 on; where it is not given, the opposite of the corners."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise unknown("upsample_bilinear", "half_pixel_centers", "of aligned corners")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        points = _whole(
            "upsample_bilinear", mode, x.shape[axis], floor(x.shape[axis] * scale + 1e-5)
        )
        x = interpolated(x, x.dim() + axis, points)
    return x


def crop(*, x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    top, bottom = crop_height
    left, right = crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def crop_resize(
    *,
    x: Tensor,
    roi: Tensor,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float | None = None,
) -> Tensor:
    """roi: (N, 1, 4, 1, 1), each box for every image; or (N, 1, 5, 1, 1), the image's index first.

    pad_value: what lies outside, from iOS 16 on; not told before.
    """
    rows = roi.reshape(roi.shape[0], -1)
    scaled = rows[:, -4:] * spatial_scale
    images = [x[int(row[0])][None] if len(row) == 5 else x for row in rows]
    crops = [
        _crop(
            image,
            _corners(box, box_coordinate_mode, image, normalized_coordinates),
            (target_height, target_width),
            sampling_mode,
            pad_value,
        )
        for image, box in zip(images, scaled, strict=True)
    ]
    return torch.stack(crops)


def crop_resize_17(
    *,
    x: Tensor,
    boxes: Tensor,
    box_indices: Ints | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """IOS 17: one image a box, the i-th where no indices are given."""
    images = list(range(len(boxes))) if box_indices is None else box_indices
    indexed = torch.cat([torch.tensor(images).float().unsqueeze(1), boxes.float()], 1)
    made = crop_resize(
        x=x,
        roi=indexed[:, None, :, None, None],
        target_height=target_height,
        target_width=target_width,
        normalized_coordinates=normalized_coordinates,
        spatial_scale=spatial_scale,
        box_coordinate_mode=box_coordinate_mode,
        sampling_mode=sampling_mode,
        pad_value=pad_value,
    )
    return made.squeeze(1)


def _corners(box: Tensor, mode: str, image: Tensor, normalized: bool) -> list[tuple[float, float]]:
    """First and last element of the height and of the width."""
    first, second, third, fourth = box.tolist()
    if mode == "CORNERS_HEIGHT_FIRST":
        ends = [(first, third), (second, fourth)]
    elif mode == "CORNERS_WIDTH_FIRST":
        ends = [(second, fourth), (first, third)]
    else:
        raise unknown("crop_resize", "box_coordinate_mode", mode)
    if not normalized:
        return ends
    return [
        (low * (size - 1), high * (size - 1))
        for (low, high), size in zip(ends, image.shape[-2:], strict=True)
    ]


def _crop(
    image: Tensor,
    ends: list[tuple[float, float]],
    counts: tuple[int, int],
    mode: str,
    pad_value: float | None,
) -> Tensor:
    """One box of images; points outside are the padding's value."""
    if mode in ("DEFAULT", "UNALIGN_CORNERS"):
        raise unknown("crop_resize", "sampling_mode", mode)
    made, inside = image, torch.ones(())
    for axis, ((low, high), count) in enumerate(zip(ends, counts, strict=True), image.dim() - 2):
        size = image.shape[axis]
        points = grid("crop_resize", mode, low, high - low, size, count)
        within = (points >= -1e-6) & (points <= size - 1 + 1e-6)
        made = interpolated(made, axis, points.clamp(0, size - 1))
        inside = inside.unsqueeze(-1) * within
    if inside.all():
        return made
    if pad_value is None:
        raise unknown("crop_resize", "a box", "outside of the image")
    return torch.where(inside.bool(), made, pad_value)


def affine(
    *,
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    matrices = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    size = [x.shape[0], x.shape[1], output_height, output_width]
    return resample(
        x=x,
        coordinates=functional.affine_grid(matrices, size, align_corners=align_corners),
        sampling_mode=sampling_mode,
        padding_mode=padding_mode,
        padding_value=padding_value,
        coordinates_mode=coordinates_mode,
        align_corners=align_corners,
    )


def resample(
    *,
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """coordinates: (n, height, width, 2), x before y. The nearest of two elements is the later."""
    columns, rows = (
        _pixels(coordinates[..., axis].double(), size, coordinates_mode, align_corners)
        for axis, size in enumerate((x.shape[-1], x.shape[-2]))
    )
    if sampling_mode == "nearest":
        up, away = (
            _picked(x, to_whole(rows), to_whole(columns), padding_mode, padding_value)
            for to_whole in (_half_up, _half_away)
        )
        if not torch.equal(up, away):
            raise unknown("resample", "coordinates", "in the middle of two elements below zero")
        return up
    if sampling_mode != "bilinear":
        raise unknown("resample", "sampling_mode", sampling_mode)
    top, left = rows.floor(), columns.floor()
    made = torch.zeros(())
    for row, high in ((top, rows - top), (top + 1, top + 1 - rows)):
        for column, wide in ((left, columns - left), (left + 1, left + 1 - columns)):
            share = ((1 - high.abs()) * (1 - wide.abs())).float().unsqueeze(1)
            made = made + share * _picked(x, row, column, padding_mode, padding_value)
    return made


def _half_up(values: Tensor) -> Tensor:
    return (values + 0.5).floor()


def _half_away(values: Tensor) -> Tensor:
    return values.sign() * (values.abs() + 0.5).floor()


def _pixels(values: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates in elements."""
    if mode == "unnormalized":
        return values
    if mode == "normalized_minus_one_to_one":
        values = (values + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise unknown("resample", "coordinates_mode", mode)
    return values * (size - 1) if align_corners else values * size - 0.5


def _picked(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: float) -> Tensor:
    """The elements at whole rows and columns of each image, those beyond its edges as padded."""
    height, width = x.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    row, column = _folded(rows, height, mode), _folded(columns, width, mode)
    images = torch.arange(x.shape[0])[:, None, None]
    made = x.permute(0, 2, 3, 1)[images, row, column].permute(0, 3, 1, 2)
    return torch.where(inside.unsqueeze(1), made, value) if mode == "constant" else made


def _folded(places: Tensor, size: int, mode: str) -> Tensor:
    wide = places.long()
    if mode in ("constant", "border"):
        return wide.clamp(0, size - 1)
    if mode == "reflection":
        period = max(2 * (size - 1), 1)
        wide = wide % period
        return torch.where(wide < size, wide, period - wide).clamp(0, size - 1)
    if mode == "symmetric":
        wide = wide % (2 * size)
        return torch.where(wide < size, wide, 2 * size - 1 - wide)
    raise unknown("resample", "padding_mode", mode)


OPS: Mapping[str, Op | Since] = {
    **{
        function.__name__: function
        for function in (
            resize_bilinear, resize_nearest_neighbor, resize, upsample_nearest_neighbor,
            upsample_bilinear, crop, affine, resample,
        )
    },
    "crop_resize": {15: crop_resize, 17: crop_resize_17},
}  # fmt: skip
