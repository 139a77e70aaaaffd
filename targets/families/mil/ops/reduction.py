"""Reductions over axes, all of them where none are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from crosscast.targets.families.mil.ops.arguments import Ints, Op, Since, Tensor, unknown

Reduce = Callable[[Tensor, Ints, bool], Tensor]


def _over(reduce: Reduce) -> Op:
    def reduced(*, x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        return reduce(x, list(range(x.dim())) if axes is None else axes, keep_dims)

    return reduced


def _arg(reduce: Op) -> Op:
    def reduced(
        *, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
    ) -> Tensor:
        if output_dtype not in ("int32", "uint16"):
            raise unknown(f"reduce_{reduce.__name__}", "output_dtype", output_dtype)
        return reduce(x, axis, keepdim=keep_dims)

    return reduced


def _mean(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.float().mean(axes, keep)


def _prod(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted((axis % max(x.dim(), 1) for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _log_sum_exp(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.float().logsumexp(axes, keep)


REDUCTIONS: Mapping[str, Reduce] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.float().square().sum(axes, keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.float().sum(axes, keep).log(),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": torch.amax,
    "reduce_mean": _mean,
    "reduce_min": torch.amin,
    "reduce_prod": _prod,
    "reduce_sum": torch.sum,
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}

OPS: Mapping[str, Op | Since] = {
    **{name: _over(reduce) for name, reduce in REDUCTIONS.items()},
    "reduce_argmax": _arg(torch.argmax),
    "reduce_argmin": _arg(torch.argmin),
}
