"""Convolutions and pools against torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from crosscast.pipeline.errors import Unproven

torch = pytest.importorskip("torch")
functional = torch.nn.functional
conv = pytest.importorskip("crosscast.targets.families.mil.ops.conv")

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("rank", "stride", "dilation", "groups", "pad"),
    [*product((1, 2, 3), (1, 2), (1, 2), (1, 2), (0, 1))],
)
def test_conv(rank: int, stride: int, dilation: int, groups: int, pad: int) -> None:
    x, bias = torch.randn(2, 4, *[7, 8, 6][:rank]), torch.randn(6)
    weight = torch.randn(6, 4 // groups, *[3, 2, 3][:rank])
    found = conv.conv(
        x=x,
        weight=weight,
        bias=bias,
        strides=[stride] * rank,
        pad_type="custom",
        pad=[pad] * 2 * rank,
        dilations=[dilation] * rank,
        groups=groups,
    )
    close(found, CONV[rank](x, weight, bias, stride, pad, dilation, groups))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pad"),
    [*product(([5], [1, 5], [5, 1], [1, 1], [2, 3]), (1, 2), (1, 2), (0, 1))],
)
def test_filters_of_one_signal(kernel: list[int], stride: int, dilation: int, pad: int) -> None:
    rank = len(kernel)
    x, weight, bias = torch.randn(2, 1, *[13] * rank), torch.randn(4, 1, *kernel), torch.randn(4)
    found = conv.conv(
        x=x,
        weight=weight,
        bias=bias,
        strides=[stride] * rank,
        pad_type="custom",
        pad=[pad] * 2 * rank,
        dilations=[dilation] * rank,
    )
    close(found, CONV[rank](x, weight, bias, stride, pad, dilation))


def test_a_filter_adds_its_products_in_order() -> None:
    x, weight = torch.randn(1, 1, 999), torch.randn(3, 1, 256)
    total = torch.zeros(1, 3, 744)
    for tap in range(256):  # of float32, products are exact in float64
        term = weight[:, :, tap].double() * x[0, :, tap : tap + 744].double()
        total = (total.double() + term).float()
    assert torch.equal(conv.conv(x=x, weight=weight), total)


def test_conv_pads_each_side_by_its_own() -> None:
    x, weight = torch.randn(1, 2, 5, 6), torch.randn(3, 2, 2, 3)
    found = conv.conv(x=x, weight=weight, pad_type="custom", pad=[0, 1, 2, 3])
    close(found, functional.conv2d(functional.pad(x, (2, 3, 0, 1)), weight))


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [*product((5, 6, 7), (1, 2, 3, 4), (1, 2, 3))]
)
def test_same_gives_the_size_by_the_stride(size: int, kernel: int, stride: int) -> None:
    x, weight = torch.randn(1, 1, size), torch.randn(1, 1, kernel)
    given = {"x": x, "weight": weight, "strides": [stride]}
    upper, lower = conv.conv(**given, pad_type="same"), conv.conv(**given, pad_type="same_lower")
    count = -(-size // stride)
    total = max((count - 1) * stride + kernel - size, 0)
    for found, before in ((upper, total // 2), (lower, total - total // 2)):
        padded = functional.pad(x, (before, total - before))
        close(found, functional.conv1d(padded, weight, stride=stride))
        assert found.shape[-1] == count


@pytest.mark.parametrize(
    ("rank", "stride", "dilation", "groups", "pad"),
    [*product((1, 2, 3), (1, 2, 3), (1, 2), (1, 2), (0, 1))],
)
def test_conv_transpose(rank: int, stride: int, dilation: int, groups: int, pad: int) -> None:
    x, bias = torch.randn(2, 4, *[4, 5, 3][:rank]), torch.randn(6)
    weight = torch.randn(4, 6 // groups, *[3, 2, 3][:rank])
    found = conv.conv_transpose(
        x=x,
        weight=weight,
        bias=bias,
        pad_type="custom",
        pad=[pad] * 2 * rank,
        strides=[stride] * rank,
        dilations=[dilation] * rank,
        groups=groups,
    )
    close(found, TRANSPOSED[rank](x, weight, bias, stride, pad, 0, groups, dilation))


@pytest.mark.parametrize("extra", [0, 1])
def test_conv_transpose_to_an_output_shape(extra: int) -> None:
    x, weight, bias = torch.randn(1, 2, 4, 4), torch.randn(2, 3, 3, 3), torch.randn(3)
    wanted = functional.conv_transpose2d(x, weight, bias, 2, 1, extra)
    found = conv.conv_transpose(
        x=x,
        weight=weight,
        bias=bias,
        pad_type="custom",
        pad=[1, 1, 1, 1],
        strides=[2, 2],
        output_shape=list(wanted.shape),
    )
    close(found, wanted)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_conv_transpose_same_gives_the_size_times_the_stride(kernel: int) -> None:
    x, weight = torch.randn(1, 1, 5), torch.randn(1, 1, kernel)
    found = conv.conv_transpose(x=x, weight=weight, pad_type="same", strides=[2])
    whole = functional.pad(functional.conv_transpose1d(x, weight, stride=2), (0, 1))
    before = max(kernel - 2, 0) // 2
    close(found, whole[..., before : before + 10])


POOLS = list(product((1, 2, 3), (2, 3), (1, 2, 3), (0, 1), (False, True)))


@pytest.mark.parametrize(("rank", "kernel", "stride", "pad", "ceil"), POOLS)
def test_max_pool(rank: int, kernel: int, stride: int, pad: int, ceil: bool) -> None:
    x = torch.randn(2, 3, *[7, 8, 6][:rank])
    found = conv.max_pool(
        x=x,
        kernel_sizes=[kernel] * rank,
        strides=[stride] * rank,
        pad_type="custom",
        pad=[pad] * 2 * rank,
        ceil_mode=ceil,
    )
    close(found, MAX[rank](x, kernel, stride, pad, ceil_mode=ceil))


@pytest.mark.parametrize(("rank", "kernel", "stride", "pad", "ceil"), POOLS)
@pytest.mark.parametrize("excluded", [False, True])
def test_avg_pool(
    rank: int, kernel: int, stride: int, pad: int, ceil: bool, excluded: bool
) -> None:
    x = torch.randn(2, 3, *[7, 8, 6][:rank])
    found = conv.avg_pool(
        x=x,
        kernel_sizes=[kernel] * rank,
        strides=[stride] * rank,
        pad_type="custom",
        pad=[pad] * 2 * rank,
        exclude_padding_from_average=excluded,
        ceil_mode=ceil,
    )
    close(found, MEAN[rank](x, kernel, stride, pad, ceil, not excluded))


def test_l2_pool_is_the_root_of_the_sum_of_squares() -> None:
    x = torch.randn(1, 2, 6, 6)
    found = conv.l2_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    close(found, functional.lp_pool2d(x.abs(), 2.0, 2))


@pytest.mark.parametrize(
    "given",
    [
        lambda: conv.conv(x=torch.zeros(1, 1, 4), weight=torch.zeros(1, 1, 2), pad_type="full"),
        lambda: conv.conv_transpose(
            x=torch.zeros(1, 1, 4), weight=torch.zeros(1, 1, 2), pad_type="full"
        ),
        lambda: conv.max_pool(x=torch.zeros(1, 1, 4), kernel_sizes=[2], pad_type="full"),
    ],
)
def test_other_paddings_are_refused(given: Any) -> None:
    with pytest.raises(Unproven, match=r"evaluator has no .* with pad_type 'full'"):
        given()
