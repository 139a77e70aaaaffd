"""Operators that onnx2tf does wrong or not at all, spelled out in those that it does right.

Each rewrite is a function of a node, the facts of its graph and a `Spelling`; it gives False where
it leaves the node as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.onnx_nodes import Spelling, replace_nodes
from crosscast.targets.families.tflite_rewrites_conv import conv, conv_transpose
from crosscast.targets.families.tflite_rewrites_facts import Facts
from crosscast.targets.families.tflite_rewrites_math import (
    absolute,
    clip,
    cum_sum,
    einsum,
    elu,
    hard_sigmoid,
    layer_normalization,
    where,
)
from crosscast.targets.families.tflite_rewrites_pool import average_pool, max_pool
from crosscast.targets.families.tflite_rewrites_recurrent import recurrent

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Rewrite = Callable[["NodeProto", Spelling, Facts], Any]

REWRITES: Mapping[str, Rewrite] = {
    "Abs": absolute,
    "AveragePool": average_pool,
    "Clip": clip,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "CumSum": cum_sum,
    "Einsum": einsum,
    "Elu": elu,
    "GRU": recurrent,
    "HardSigmoid": hard_sigmoid,
    "LSTM": recurrent,
    "LayerNormalization": layer_normalization,
    "MaxPool": max_pool,
    "RNN": recurrent,
    "Where": where,
}


def apply(
    model: ModelProto,
    *,
    any_batch: bool,
    any_size: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> None:
    """Rewrite the operators of REWRITES, in place.

    any_batch, any_size: whether the file is to take any batch, and any size of what comes behind
        it, though shapes in the graph may be fixed.
    lengths: the greatest length of each recurrent layer whose length is dynamic, by its name.
    """
    facts = Facts.of(model, any_batch=any_batch, any_size=any_size, lengths=lengths or {})
    replace_nodes(model, {kind: partial(_rewritten, facts, kind) for kind in REWRITES})


def _rewritten(facts: Facts, kind: str, node: NodeProto, spell: Spelling) -> Any:
    return REWRITES[kind](node, spell, facts)
