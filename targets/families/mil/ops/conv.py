"""Convolutions and pools."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import ceil, prod

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import Ints, Op, Since, Tensor, unknown

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def conv(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    spans = [
        (size - 1) * dilation + 1
        for size, dilation in zip(weight.shape[2:], dilations, strict=True)
    ]
    pads = padding("conv", pad_type, pad, x, spans, strides)
    if groups == weight.shape[1] == 1 and prod(weight.shape[2:]) == max(weight.shape[2:]):
        return filtered(functional.pad(x, flat(pads)), weight, bias, strides, dilations)
    if all(before == after for before, after in pads):
        given, around = x, [before for before, _ in pads]
    else:
        given, around = functional.pad(x, flat(pads)), [0] * rank
    return CONV[rank](given, weight, bias, strides, around, dilations, groups)


def filtered(x: Tensor, weight: Tensor, bias: Tensor | None, strides: Ints, steps: Ints) -> Tensor:
    """Filters of one signal, padded already: products are added in their order, each with one
    rounding, as TensorFlow, TFLite and ONNX Runtime do.

    A band of a spectrum in which there is little sound is a sum of large terms of both signs, and
    its logarithm shows in which order they were added: outputs of basic-pitch differ by up to 3e-4
    from those of the others where torch chooses the order, by 2e-4 where sums are exact, and by
    1e-6 in the same order.
    """
    whole = zip(x.shape[2:], weight.shape[2:], strides, steps, strict=True)
    sizes = [(size - (taps - 1) * step - 1) // stride + 1 for size, taps, stride, step in whole]
    total = torch.zeros(x.shape[0], weight.shape[0], *sizes)
    for tap in product(*map(range, weight.shape[2:])):
        begins = [place * step for place, step in zip(tap, steps, strict=True)]
        ends = [
            begin + (size - 1) * stride + 1
            for begin, size, stride in zip(begins, sizes, strides, strict=True)
        ]
        window = x[(..., *map(slice, begins, ends, strides))].contiguous()  # six times as fast
        total.addcmul_(weight[(..., *tap)].reshape(-1, *[1] * len(sizes)), window)
    return total if bias is None else total + bias.reshape(-1, *[1] * len(sizes))


def conv_transpose(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """What the windows leave out beyond the far end is zero before the bias is added."""
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    whole = TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    wanted = None if output_shape is None else output_shape[-rank:]
    if pad_type in ("same", "same_lower"):
        wanted = wanted or [
            size * stride for size, stride in zip(x.shape[2:], strides, strict=True)
        ]
        begins = [
            (size - want + (pad_type == "same_lower")) // 2
            for size, want in zip(whole.shape[2:], wanted, strict=True)
        ]
    elif pad_type in ("valid", "custom"):
        pads = pairs(pad or [0] * 2 * rank)
        begins = [before for before, _ in pads]
        wanted = wanted or [
            size - before - after
            for size, (before, after) in zip(whole.shape[2:], pads, strict=True)
        ]
    else:
        raise unknown("conv_transpose", "pad_type", pad_type)
    cut = [
        (-max(begin, 0), want + max(begin, 0) - size)
        for begin, want, size in zip(begins, wanted, whole.shape[2:], strict=True)
    ]
    made = functional.pad(whole, flat(cut))
    return made if bias is None else made + bias.reshape(-1, *[1] * rank)


def max_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    rank = x.dim() - 2
    strides = strides or [1] * rank
    pads = padding("max_pool", pad_type, pad, x, kernel_sizes, strides)
    ends = overhang(x, pads, kernel_sizes, strides, ceil_mode)
    around = [(before, after + more) for (before, after), more in zip(pads, ends, strict=True)]
    return MAX[rank](functional.pad(x, flat(around), value=-torch.inf), kernel_sizes, strides)


def avg_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """What a window has beyond the padding does not count, as in torch."""
    rank = x.dim() - 2
    strides = strides or [1] * rank
    pads = padding("avg_pool", pad_type, pad, x, kernel_sizes, strides)
    ends = overhang(x, pads, kernel_sizes, strides, ceil_mode)
    around = [(before, after + more) for (before, after), more in zip(pads, ends, strict=True)]
    mean = MEAN[rank](functional.pad(x, flat(around)), kernel_sizes, strides)
    if not any(ends) and not (exclude_padding_from_average and any(map(any, pads))):
        return mean
    counted = torch.ones(1, 1, *x.shape[2:])
    if exclude_padding_from_average:
        counted = functional.pad(counted, flat(around))
    else:
        counted = functional.pad(counted, flat(pads), value=1.0)
        counted = functional.pad(counted, flat([(0, more) for more in ends]))
    return mean / MEAN[rank](counted, kernel_sizes, strides)


def l2_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The root of the sum of squares of each window."""
    rank = x.dim() - 2
    strides = strides or [1] * rank
    pads = padding("l2_pool", pad_type, pad, x, kernel_sizes, strides)
    ends = overhang(x, pads, kernel_sizes, strides, ceil_mode)
    around = [(before, after + more) for (before, after), more in zip(pads, ends, strict=True)]
    squares = functional.pad(x.square(), flat(around))
    return (MEAN[rank](squares, kernel_sizes, strides) * prod(kernel_sizes)).sqrt()


def padding(
    operator: str, pad_type: str, pad: Ints | None, x: Tensor, spans: Ints, strides: Ints
) -> list[tuple[int, int]]:
    """What is padded before and after each spatial axis."""
    sizes = list(x.shape[2:])
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return pairs(pad or [0] * 2 * len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise unknown(operator, "pad_type", pad_type)
    totals = [
        max((ceil(size / stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(sizes, spans, strides, strict=True)
    ]
    if pad_type == "same":
        return [(total // 2, total - total // 2) for total in totals]
    return [(total - total // 2, total // 2) for total in totals]


def overhang(
    x: Tensor, pads: list[tuple[int, int]], kernel: Ints, strides: Ints, ceil_mode: bool
) -> Ints:
    """How far the last window reaches beyond the padding, by axis: it does in ceil mode, where it
    begins before the padding behind the last element.
    """
    if not ceil_mode:
        return [0] * len(kernel)
    ends = []
    for size, (before, after), window, stride in zip(
        x.shape[2:], pads, kernel, strides, strict=True
    ):
        whole = size + before + after
        last = ceil((whole - window) / stride) * stride
        last -= stride if last >= size + before else 0
        ends.append(max(last + window - whole, 0))
    return ends


def pairs(values: Ints) -> list[tuple[int, int]]:
    return list(zip(values[::2], values[1::2], strict=True))


def flat(pads: list[tuple[int, int]]) -> Ints:
    """As torch takes them: the last axis first."""
    return [size for pair in reversed(pads) for size in pair]


OPS: Mapping[str, Op | Since] = {
    function.__name__: function for function in (conv, conv_transpose, max_pool, avg_pool, l2_pool)
}
