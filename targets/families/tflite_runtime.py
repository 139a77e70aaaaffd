"""TFLite artifacts: run by LiteRT, and audited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.gains import Weight
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Delivered, Precision
from crosscast.targets.families import tflite_compute
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_compute import ARITHMETIC, computing, problems

DELIVERED: Mapping[str, Delivered] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
"""Precisions by the dtype of weights; other constants are shapes, indices and biases."""

STUCK = (
    " (a dynamic dimension has not survived the conversion where this is about shapes: give the "
    "inputs fixed sizes)"
)

THREADS = 1
"""One, so that sums are taken in one order on every machine."""


class LiteRtSession:
    """A file loaded in LiteRT.

    inputs, outputs: in the order of the file's subgraph, which is the ONNX graph's (LiteRT lists
        a signature's alphabetically); dynamic dimensions are called "dim0", "dim1" … by axis.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        interpreter = self._fresh()
        runner = interpreter.get_signature_runner(files.SIGNATURE)
        self.inputs = _tensors(interpreter.get_input_details(), runner.get_input_details())
        self.outputs = _tensors(interpreter.get_output_details(), runner.get_output_details())

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs, by name and in order.

        Each call takes a new interpreter: recurrent operators keep their state from one call of
        an interpreter to the next. Raises StageError for inputs that the model cannot take.
        """
        interpreter = self._fresh()
        self._invoke(interpreter, inputs)
        return {
            tensor.name: interpreter.get_tensor(detail["index"])
            for tensor, detail in zip(self.outputs, interpreter.get_output_details(), strict=True)
        }

    def watched(self, inputs: Arrays) -> Any:
        """An interpreter that has run on the inputs and still holds every tensor: operator by
        operator, with no delegate. Raises StageError as `run` does.
        """
        from ai_edge_litert.interpreter import OpResolverType

        interpreter = self._fresh(
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._invoke(interpreter, inputs)
        return interpreter

    def _invoke(self, interpreter: Any, inputs: Arrays) -> None:
        try:
            self._computed(interpreter, inputs)
        except (RuntimeError, ValueError) as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            dynamic = any(isinstance(dim, str) for tensor in self.inputs for dim in tensor.shape)
            raise StageError(
                f"LiteRT could not run the model on {shapes}: {error}{STUCK if dynamic else ''}"
            ) from error

    def _computed(self, interpreter: Any, inputs: Arrays) -> None:
        import numpy as np

        details = interpreter.get_input_details()
        for tensor, detail in zip(self.inputs, details, strict=True):
            array = inputs[tensor.name]
            if tuple(detail["shape"]) != array.shape:
                interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
        interpreter.allocate_tensors()
        for tensor, detail in zip(self.inputs, details, strict=True):
            interpreter.set_tensor(detail["index"], np.asarray(inputs[tensor.name], order="C"))
        interpreter.invoke()

    def _fresh(self, **options: Any) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=str(self._path), num_threads=THREADS, **options)


def open(*, artifact: Path) -> LiteRtSession:
    """Load the artifact in LiteRT."""
    try:
        return LiteRtSession(artifact / FILE)
    except (RuntimeError, ValueError) as error:
        raise StageError(f"LiteRT cannot load the model: {error}") from error


def precision(*, artifact: Path) -> Precision:
    """Audit the file: bytes of its constants by dtype, and what holds most of the bytes of the
    weights of convolutions, matrix products and recurrent layers (of all constants, where the
    model has none of these); what these compute in, and the parameters of quantization.
    """
    return audited(files.read(artifact / FILE))


def weights(*, artifact: Path) -> Iterator[Weight]:
    """The real numbers that the file's constants stand for."""
    return tflite_compute.weights(files.read(artifact / FILE))


def audited(made: Any) -> Precision:
    """The audit of a file's objects."""
    every: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for graph in made.subgraphs:
        for index, readers in files.constants(made, graph).items():
            dtype = files.numpy_name(graph.tensors[index].type)
            size = files.data_of(made, graph.tensors[index]).size if dtype in DELIVERED else 0
            every[dtype] += size
            weights[dtype] += size if ARITHMETIC & readers else 0
    judged = weights if any(weights.values()) else every
    heaviest = max(DELIVERED, key=lambda dtype: judged[dtype])
    return Precision(
        delivered=DELIVERED[heaviest],
        weights=dict(sorted((+every).items())),
        operators=computing(made),
        problems=tuple(problems(made)),
    )


def _tensors(details: list[dict[str, Any]], named: dict[str, Any]) -> tuple[Tensor, ...]:
    import numpy as np

    names = {detail["index"]: name for name, detail in named.items()}
    return tuple(
        Tensor(
            name=names[detail["index"]],
            shape=tuple(
                f"dim{axis}" if size < 0 else int(size)
                for axis, size in enumerate(detail["shape_signature"])
            ),
            dtype=np.dtype(detail["dtype"]).name,
            quantization=_quantization(detail),
        )
        for detail in details
    )


def _quantization(detail: dict[str, Any]) -> tuple[float, int] | None:
    """Scale and zero point of an 8-bit tensor that stands for real numbers."""
    import numpy as np

    scale, point = detail["quantization"]
    is_byte = np.dtype(detail["dtype"]).name in ("int8", "uint8")
    return (float(scale), int(point)) if is_byte and scale else None
