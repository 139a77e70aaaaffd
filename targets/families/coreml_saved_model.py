"""SavedModels to Core ML ML Programs, by coremltools' front end for TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor
from crosscast.targets.families.tensorflow import SAVED_MODEL, SERVING, framework, keys

FIX = "replace it in the model with operations that Core ML has, or remove this target"


def converted(tree: Path, outputs: Sequence[Tensor], **settings: Any) -> Any:
    """The package of the tree's SavedModel, its outputs named as they are in `outputs`.

    settings: further arguments of coremltools.convert. Raises StageError where it fails.
    """
    import coremltools

    tf = framework()
    _add_operators()
    loaded = tf.saved_model.load(str(tree / SAVED_MODEL))  # alive for as long as its function
    function = loaded.signatures[SERVING]
    found = dict(zip(sorted(function.structured_outputs), function.outputs, strict=True))
    made = {
        tensor.name: found[key].name.partition(":")[0]
        for tensor, key in zip(outputs, keys(outputs, "output"), strict=True)
    }
    types = [
        coremltools.TensorType(name=made[tensor.name], dtype=_dtype(tensor)) for tensor in outputs
    ]
    try:
        package = coremltools.convert(
            [function], source="tensorflow", convert_to="mlprogram", outputs=types,
            skip_model_load=True, **settings,
        )  # fmt: skip
    except Exception as error:
        raise StageError(
            f"Core ML: cannot be converted from a SavedModel: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}",
            fix=FIX,
        ) from error
    return _renamed(package, made)


def _renamed(package: Any, made: dict[str, str]) -> Any:
    import coremltools

    spec, program = package.get_spec(), package._mil_program
    for name, found in made.items():
        coremltools.utils.rename_feature(spec, found, name, rename_inputs=False)
    renamed = coremltools.models.MLModel(
        spec, weights_dir=package.weights_dir, skip_model_load=True
    )
    renamed._mil_program = program
    return renamed


def _dtype(tensor: Tensor) -> Any:
    import numpy as np

    return np.float32 if tensor.dtype.startswith("float") else None


def _add_operators() -> None:
    """Teach the front end erfc, which TensorFlow writes exact GELU with, and that DivNoNan by 0
    is 0, which it takes for a plain division.
    """
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import (
        _TF_OPS_REGISTRY,
        register_tf_op,
    )
    from coremltools.converters.mil.mil import Builder

    if "Erfc" in _TF_OPS_REGISTRY:
        return

    def Erfc(context: Any, node: Any) -> None:
        x = Builder.erf(x=context[node.inputs[0]])
        context.add(node.name, Builder.sub(x=1.0, y=x, name=node.name))

    def DivNoNan(context: Any, node: Any) -> None:
        x, y = (Builder.cast(x=context[name], dtype="fp32") for name in node.inputs[:2])
        ratio = Builder.real_div(x=x, y=y)
        is_zero = Builder.equal(x=y, y=0.0)
        context.add(node.name, Builder.select(cond=is_zero, a=0.0, b=ratio, name=node.name))

    register_tf_op(Erfc)
    register_tf_op(DivNoNan, override=True)
