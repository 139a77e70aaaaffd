"""What a deployment target is: the protocol, and defaults that a target may alias."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.pipeline.toolchain import Toolchain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.pipeline.parity.gains import Weight

Kind = Literal["exported_program", "saved_model", "onnx", "ort", "tflite", "coreml"]
"""What a tree holds: `model.pt2`, `saved_model/`, `model.onnx`, `model.ort`, `model.tflite`,
`model.mlpackage/`."""

Delivered = Literal["fp32", "fp16", "int8", "int4"]


class Options(BaseModel):
    """Options of a conversion or quantization, each declared once: the YAML key, its type, its
    default and its documentation. Frozen, and closed to unknown keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class Session(Protocol):
    """A loaded model.

    inputs, outputs: what the file itself declares, in its order.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order. Every call starts from a fresh state."""
        ...


def remark(session: Session) -> str:
    """What is to be said of how the outputs were computed, such as by what, where that is not the
    runtime that the artifact ships to: the session's `remark`. Empty for those that have none.
    """
    return str(getattr(session, "remark", ""))


def classes(session: Session) -> tuple[str, ...]:
    """The names that the artifact itself gives its classes, in the order of their scores: the
    session's `labels`. Empty for those that have none.
    """
    return tuple(getattr(session, "labels", ()))


NOTES = "notes.json"
"""What a stage tells of the tree that it wrote, beside the model; it does not ship."""

PRECISION = "precision"
"""Its key for the source's own precision, where that is not fp32."""

SAID = "said"
"""Its key for what a conversion has to say of its result, for people."""

KEPT = "kept_in_float"
"""Its key for what stays in float where fewer bits would have cost too much: `operators` and
`weights`, each by name with the reason, and what else the quantizer tells of its choice."""

ADVICE = "advice"
"""Its key for what is to be tried where the artifact does not pass, for people."""


def read_notes(tree: Path) -> dict[str, Any]:
    """The notes of a tree; empty where it has none."""
    path = tree / NOTES
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return notes


BITS: Mapping[str, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
"""Of the numbers of a precision."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """An operator that sums products: a convolution, a matrix product, a recurrent or an attention
    layer. They are nearly all of a network's arithmetic; sums, activations and the like are not
    counted, nor are look-ups in tables, which compute nothing.

    name: in the file. operator: its type there. arithmetic: what it multiplies in.
    stored: what most bytes of its weights are kept in; None where it has none.
    size: bytes of its weights.
    """

    name: str
    operator: str
    arithmetic: Delivered
    stored: Delivered | None = None
    size: int = 0

    @property
    def form(self) -> str:
        """The arithmetic, as in "int8"; "int8 weights" where these are made wider for it."""
        if self.stored and BITS[self.stored] < BITS[self.arithmetic]:
            return f"{self.stored} weights"
        return self.arithmetic

    def fell_back(self, asked: str) -> bool:
        """Whether it has weights, and neither keeps them nor computes in what was asked for."""
        if self.stored is None:
            return False
        return min(BITS[self.stored], BITS[self.arithmetic]) > BITS[asked]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The audit of what was delivered.

    delivered: the precision that holds most of the weights' bytes.
    weights: bytes of weights by dtype (numpy's names).
    operators: those that compute, in the file's order.
    problems: parameters of quantization that no quantizer may write, one line each.
    """

    delivered: Delivered
    weights: Mapping[str, int] = field(default_factory=dict)
    operators: tuple[Computing, ...] = ()
    problems: tuple[str, ...] = ()


class Quantize(Protocol):
    """A quantization: one function."""

    __module__: str
    __qualname__: str

    def __call__(
        self, *, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path
    ) -> None:
        """Write the quantized file under `out` from a tree that `convert` wrote.

        samples: tree of calibration samples, in the model's layout; None where the target asks
        for none, or for those that there are and there are none.
        """
        ...


class Target(Protocol):
    """A format + precision + runtime that a model ships to: one module that has these members.

    summary: one line for `crosscast targets`.
    format: kind of tree that the chain ends with.
    accepts: kinds that `convert` can start from, best first.
    toolchain, quantizer, runtime: where `convert`, `quantize`, and `open` and `precision` run.
        A mapping where `convert` runs elsewhere for each kind, so that none needs the others'.
    calibrated: whether `quantize` reads calibration samples; None where it does without, but tries
        its work on them where the config has real ones.
    no_runtime: why `open` gives None on this host; empty where it does not.
    """

    summary: str
    format: Kind
    accepts: tuple[Kind, ...]
    runtime: Toolchain
    no_runtime: str

    # Properties, since a module may narrow what it is never told to set.
    @property
    def calibrated(self) -> bool | None:
        """See above."""
        ...

    @property
    def Options(self) -> type[BaseModel]:
        """The target's own YAML keys."""
        ...

    @property
    def precision_asked(self) -> Delivered | None:
        """What the audit must find delivered; None for that of what the target starts from."""
        ...

    @property
    def toolchain(self) -> Toolchain | Mapping[Kind, Toolchain]:
        """Where `convert` runs; read it by `toolchains`."""
        ...

    @property
    def QuantizeOptions(self) -> type[BaseModel] | None:
        """The keys under `quantize`; None where there are none."""
        ...

    @property
    def quantizer(self) -> Toolchain | None:
        """Where `quantize` runs; None where `convert` ends the chain."""
        ...

    def convert(self, *, model: Path, options: Mapping[str, Any], out: Path) -> None:
        """Write this format's file under `out` from the tree `model`, of a kind in `accepts`.

        Raises StageError where the model has what the format cannot express: it names the
        operator, the layer and what to do.
        """
        ...

    @property
    def quantize(self) -> Quantize | None:
        """Writes the quantized file; None where `convert` ends the chain."""
        ...

    def open(self, *, artifact: Path) -> Session | None:
        """Load the artifact in its own runtime, or None where this host has none.

        Raises Unproven where what computes it here lacks something that the model has.
        """
        ...

    def precision(self, *, artifact: Path) -> Precision:
        """Audit what the file holds."""
        ...

    def usage(self, *, manifest: Mapping[str, Any]) -> str:
        """The Markdown of USAGE.md: snippets that match the manifest's names and shapes."""
        ...


def tried(target: Target) -> bool:
    """Whether the target's `convert` also takes `samples`: a tree of the calibration samples, in
    the model's layout, or None where the config has no real ones.
    """
    return "samples" in signature(target.convert).parameters


def judged(target: Target) -> bool:
    """Whether the target's `quantize` also takes `parity`: the limits that the config sets for it,
    in the form that `tolerance` takes, for it to aim at what the gate will ask.
    """
    return target.quantize is not None and "parity" in signature(target.quantize).parameters


def finishing(target: Target) -> tuple[str, ...]:
    """The target's own options that are for the step that ends its chain, not for its conversion:
    its member `finishing`. `io` for those that have none.
    """
    found: tuple[str, ...] = getattr(target, "finishing", ("io",))
    return found


def described(target: Target) -> bool:
    """Whether the target's `convert` also takes `about`: what the config says of the model that
    the format has a place for, {"version", "metadata", "labels", "preprocessing"}.
    """
    return "about" in signature(target.convert).parameters


def narrowed(target: Target) -> dict[str, str]:
    """What the target's inputs and outputs are for dtypes of the source that its format has no form
    of: its member `narrowed`, by the source's dtype. Empty for those that have none.
    """
    return dict(getattr(target, "narrowed", {}))


def computing(target: Target) -> Delivered | Literal[""]:
    """What a file computes in before it is quantized, where its weights do not tell: the target's
    member `computes`. Empty for those that have none.
    """
    found: Delivered | Literal[""] = getattr(target, "computes", "")
    return found


def weighing(target: Target) -> Callable[..., Iterator[Weight]] | None:
    """The target's way to read what a file's constants stand for: its member `weights(*,
    artifact)`, which takes the trees that its `quantize` reads and writes. None for those that have
    none.
    """
    found: Callable[..., Iterator[Weight]] | None = getattr(target, "weights", None)
    return found


def explaining(target: Target) -> Callable[..., list[str]] | None:
    """The target's own way to tell why an artifact's outputs are off: its member `explain(*,
    artifact, inputs)`, which gives lines for the inputs of a case. None for those that have none.
    """
    found: Callable[..., list[str]] | None = getattr(target, "explain", None)
    return found


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A tensor of real numbers that an artifact computes on the way.

    name, operator, layer: as the artifact has them: of the tensor, of the operator's kind, and of
        the operator itself. called: the name without what converters and quantizers add to it, by
        which its counterpart in the source's graph is found: that of a value, or of a node
        followed by `_input` or `_output`.
    """

    name: str
    operator: str
    layer: str
    called: str
    array: NDArray[Any]


def stripped(name: str, added: re.Pattern[str]) -> str:
    """A name without the endings that `added` finds."""
    while (found := added.search(name)) is not None:
        name = name[: found.start()]
    return name


def tapping(target: Target) -> Callable[..., None] | None:
    """The target's way to show what its artifacts compute: its member `taps(*, artifact, inputs,
    tell)`, which calls `tell` with each Tap in order. None for those that have none.
    """
    found: Callable[..., None] | None = getattr(target, "taps", None)
    return found


def toolchains(target: Target) -> dict[Kind, Toolchain]:
    """Where the target's `convert` runs, by the kind that it starts from, best first."""
    chain = target.toolchain
    return {kind: chain if isinstance(chain, Toolchain) else chain[kind] for kind in target.accepts}
