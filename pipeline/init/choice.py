"""Which targets a config starts with, and why others are left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.errors import ConfigError, StageError
from crosscast.pipeline.init.facts import Facts
from crosscast.pipeline.init.settle import bound
from crosscast.targets.base import Kind, Target
from crosscast.targets.families.onnx_stored import INTEGER

FLOAT = ("onnx", "tflite-fp32")
STATIC = ("onnx-int8", "tflite-int8")
DYNAMIC = ("onnx-int8-dynamic", "tflite-int8-dynamic")
PER_CHANNEL_OPSET = 13
"""From there on ONNX has a scale for each channel."""
RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """targets: those of the config, each with its keys. left_out: others by name, and why."""

    targets: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    why_int8: str = ""


def chosen(
    facts: Facts, *, asked: Sequence[str], targets: Mapping[str, Target], kinds: Sequence[Kind]
) -> Choice:
    """The targets asked for, or by default those of the ONNX and TFLite families in float and int8.

    kinds: of tree that the source can be exported to.
    Raises ConfigError where one that is asked for is unknown, or the model's file shows that it
    cannot be; StageError where it shows that none can.
    """
    for name in asked:
        if name not in targets:
            hint = did_you_mean(name, targets) or f"; there are {', '.join(targets)}"
            raise ConfigError(f"no target '{name}'{hint}", fix="see `crosscast targets`")
    int8, why = int8_targets(facts)
    # A file that is int8 already is the same as ONNX of either kind.
    second = (int8[0],) if facts.held not in ("int8", "int4") else ()
    usual = (FLOAT[0], *second, FLOAT[1], int8[1])
    wanted = list(asked) or [name for name in usual if name in targets]
    reasons = {name: refusal(facts, targets[name], kinds) for name in wanted}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    if asked and left_out:
        lines = (f"target '{name}' cannot take this model: {why}" for name, why in left_out.items())
        raise ConfigError("\n".join(lines), fix=f"leave {', '.join(left_out)} out")
    kept = [name for name in wanted if name not in left_out]
    if not kept:
        raise StageError(f"no target can take this model: {next(iter(left_out.values()))}")
    return Choice(
        targets={name: _keys(targets[name], facts) for name in kept},
        left_out=left_out,
        why_int8=why if set(kept) & {*STATIC, *DYNAMIC} and not asked else "",
    )


def int8_targets(facts: Facts) -> tuple[tuple[str, str], str]:
    """The int8 targets that suit the model, and why.

    Convolutions gain from ranges that are measured beforehand; activations of attention and of
    recurrent layers vary too much for one range, and their weights are what costs: the advice of
    ONNX Runtime's and LiteRT's documentation.
    """
    count = facts.operators.get
    convolutions = count("Conv", 0) + count("ConvTranspose", 0)
    products = count("MatMul", 0) + count("Gemm", 0)
    for name, what in (("Attention", "attention"), *((name, name) for name in RECURRENT)):
        if count(name):
            return DYNAMIC, f"dynamic int8 suits {what} layers: ranges are measured as it runs"
    if convolutions and convolutions >= products:
        return STATIC, "static int8 suits convolutions: ranges are measured on calibration samples"
    return DYNAMIC, "dynamic int8 suits matrix products: ranges are measured as it runs"


KEEPING = ("onnx", "coreml")
"""Formats whose int8 keeps the numbers of a file that is in int8."""


def refusal(facts: Facts, target: Target, kinds: Sequence[Kind]) -> str:
    """Why the target cannot take the model; empty where nothing is known against it."""
    if not set(target.accepts) & set(kinds):
        return f"it starts from {' or '.join(target.accepts)}, which this source cannot give"
    if target.format in facts.limits:
        return facts.limits[target.format]
    if _lost(facts, target):
        return (
            f"the file holds {facts.held} weights: what they were in float32 is lost, and a file "
            f"in {target.precision_asked} would not compute what it does"
        )
    quantized = target.precision_asked in ("int8", "int4")
    return facts.limits.get("int8", "") if quantized else ""


def _lost(facts: Facts, target: Target) -> bool:
    """Whether the target wants a precision that the file's weights are no longer in.

    As an ONNX file they are shipped as they are, or in int8 for int8, as which a Core ML package
    has them too; a TFLite file is, where its precision is asked.
    """
    if target.format == "tflite" and "tflite" in facts.source:
        return facts.held not in ("fp32", target.precision_asked)
    as_it_is = target.format in ("onnx", "ort") and target.precision_asked in (None, "fp32")
    if facts.held not in ("int8", "int4") or as_it_is:
        return False
    if target.format in KEEPING and target.precision_asked == facts.held == "int8":
        return False
    # Weights are given back where the arithmetic is float; LiteRT rounds what they multiply.
    given_back = target.format in KEEPING and "onnx" in facts.source
    return not given_back or not INTEGER.isdisjoint(facts.operators)


def fitted(facts: Facts, choice: Choice, targets: Mapping[str, Target]) -> Facts:
    """The facts, with dynamic dimensions made fixed where one of the targets demands it."""
    takes = any(targets[name].format == "tflite" for name in choice.targets)
    kind = next((name for name in RECURRENT if facts.operators.get(name)), "")
    if not (takes and kind and facts.dims):
        return facts
    fixed = {
        name: low if high <= 4 else _middle(low, high) for name, (low, high) in facts.dims.items()
    }
    inputs, _ = bound(facts.inputs, fixed)
    shown = ", ".join(f"{name} ({low} to {high})" for name, (low, high) in facts.dims.items())
    note = (
        f"Sizes are fixed since TFLite's {kind} layers hold a state of one size. The model also "
        f"takes other sizes of {shown}: without TFLite targets, write the names into `shape`."
    )
    return replace(facts, inputs=inputs, dims={}, notes=(*facts.notes, note))


def _middle(low: int, high: int) -> int:
    return min(high, max(low, 16))


def _keys(target: Target, facts: Facts) -> dict[str, Any]:
    """What a target needs in its config so that it builds, on this host too."""
    keys: dict[str, Any] = {}
    per_channel = target.format == "onnx" and target.precision_asked == "int8"
    if per_channel and 0 < facts.opset < PER_CHANNEL_OPSET:
        keys["opset"] = PER_CHANNEL_OPSET
    if target.no_runtime:
        keys["allow_unverified"] = target.no_runtime
    return keys
