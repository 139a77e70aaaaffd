"""A TFLite file as the source: LiteRT is its reference."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources.outputs import described, named, shapes
from crosscast.pipeline.sources.tflite_file import Ports, completed, interpreter, ports, read
from crosscast.pipeline.sources.tflite_onnx import to_onnx
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import NOTES, PRECISION, Kind
from crosscast.targets.families import tflite_copy, tflite_runtime
from crosscast.targets.families import tflite_file as flat
from crosscast.targets.families.tflite import FILE, LITERT

toolchain = Toolchain(
    name="tflite-source",
    preload=LITERT.preload,
    distributions=(*LITERT.distributions, "onnx", "tensorflow", "tf2onnx"),
    extra="tensorflow,tflite",
)
"""TensorFlow is imported by the export to ONNX alone, and only there has to be installed."""

kinds: tuple[Kind, ...] = ("tflite", "onnx")


def files(options: Mapping[str, Any]) -> dict[str, Path]:
    """The model file."""
    return {"model": Path(options["model"])}


def dependencies() -> tuple[str, ...]:
    """Nothing is read but the model file."""
    return ()


def signature(*, source: Mapping[str, Any], declared: Signature) -> Signature:
    """What was declared, with the names, shapes and dtypes that the file tells."""
    model = read(Path(source["model"]))
    return completed(model, ports(model, source["signature"]), declared)


class Reference:
    """The file in LiteRT, a new interpreter for each run, since operators may keep a state."""

    def __init__(
        self, path: Path, found: Ports, signature: Signature, outputs: Sequence[str] | None
    ) -> None:
        self._path = path
        self._ports = found
        self._names = named(found.outputs, outputs)
        self.inputs = signature.inputs
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        fed = {tensor.name: inputs[tensor.name] for tensor in self.inputs}
        made = interpreter(self._path)
        try:
            found = self._by_key(made, fed) if self._ports.subgraph else self._by_index(made, fed)
        except (RuntimeError, ValueError) as error:
            raise StageError(
                f"the model refuses inputs {shapes(fed)}: {' '.join(str(error).split())[:400]}",
                fix="make the config's `inputs` (shape, dtype, sizes) those that the model takes",
            ) from error
        return dict(zip(self._names, found, strict=True))

    def _by_key(self, made: Any, fed: Arrays) -> list[Any]:
        # Another subgraph than the first is run by its signature alone.
        found = made.get_signature_runner(self._ports.key)(**fed)
        return [found[name] for name in self._ports.outputs]

    def _by_index(self, made: Any, fed: Arrays) -> list[Any]:
        details = made.get_input_details()
        for detail, name in zip(details, self._ports.inputs, strict=True):
            if tuple(detail["shape"]) != fed[name].shape:
                made.resize_tensor_input(detail["index"], fed[name].shape, strict=True)
        made.allocate_tensors()
        for detail, name in zip(details, self._ports.inputs, strict=True):
            made.set_tensor(detail["index"], fed[name])
        made.invoke()
        return [made.get_tensor(detail["index"]) for detail in made.get_output_details()]


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The file, run by LiteRT as its users run it."""
    path = Path(source["model"])
    model = read(path)
    found = ports(model, source["signature"])
    interpreter(path)
    return Reference(path, found, completed(model, found, signature), outputs)


def export(
    *,
    to: Kind,
    source: Mapping[str, Any],
    signature: Signature,
    outputs: Sequence[str] | None,
    opset: int | None,
    layout: Layout | None,
    program: Path | None,  # noqa: ARG001 - a file comes from no program
    out: Path,
) -> dict[str, Any]:
    """Write the file with the signature's names ("tflite"), or what tf2onnx makes of it ("onnx").

    Raises StageError for an operator that tf2onnx does not know, naming it.
    """
    reference = load(source=source, signature=signature, outputs=outputs)
    ours = replace(signature, inputs=reference.inputs, outputs=reference.outputs)
    model = read(Path(source["model"]))
    tflite_copy.name_ports(
        model,
        subgraph=ports(model, source["signature"]).subgraph,
        inputs=[tensor.name for tensor in ours.inputs],
        outputs=[tensor.name for tensor in ours.outputs],
    )
    if to == "tflite":
        return _as_it_is(model, ours, layout, out)
    if to != "onnx":
        raise StageError(f"a TFLite file cannot be exported as {to}")
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        path = Path(scratch) / FILE
        flat.write(model, path)
        return to_onnx(path, ours, opset=opset, layout=layout, out=out)


def _as_it_is(model: Any, ours: Signature, layout: Layout | None, out: Path) -> dict[str, Any]:
    if ours.permuted(layout) != ours:
        raise StageError(
            f"a TFLite file keeps its own layout, which is not {layout}",
            fix="remove 'layout', or set 'via: onnx' on the target",
        )
    flat.write(model, out / FILE)
    held = tflite_runtime.precision(artifact=out).delivered
    notes = {} if held == "fp32" else {PRECISION: held}
    write_json(out / "signature.json", ours.to_json())
    write_json(out / NOTES, notes)
    return notes
