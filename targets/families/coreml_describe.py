"""What a config says of a model, written into its Core ML package: names, dimensions, metadata, a
sentence for each input, and the classes, which make it a classifier.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor, scored
from crosscast.targets.families import preprocessing
from crosscast.targets.families.coreml import DIM_PREFIX
from crosscast.targets.families.coreml_features import BATCH, SCORES
from crosscast.targets.families.coreml_names import NAME_PREFIX, classifier, identifiers


@dataclass(frozen=True, kw_only=True)
class About:
    """What a config says of a model.

    metadata: author, license and description; empty text for what is not told. labels: of classes,
    in the order of their scores, each once. preprocessing: by input, as a manifest has it.
    """

    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Self:
        """From the option of a conversion; None for a config that says nothing."""
        told = value or {}
        return cls(**{**told, "labels": tuple(told.get("labels", ()))})

    @property
    def images(self) -> tuple[str, ...]:
        """The inputs that are images, whose preprocessing is in the model."""
        return tuple(preprocessing.images(self.preprocessing))


def batch_of(signature: Signature, about: About) -> str:
    """The dimension of which Core ML takes one at a time, since it is that of images or of what is
    classified; empty where there is none, or nothing but one.

    Raises StageError where that would leave something out.
    """
    images = [tensor for tensor in signature.inputs if tensor.name in about.images]
    for tensor in images:
        if tensor.layout != "nhwc":
            raise StageError(
                f"Core ML: the image '{tensor.name}' has the layout {tensor.layout}",
                fix="remove `layout` from the target that this one starts from",
            )
    firsts = {tensor.name: tensor.shape[0] for tensor in images}
    if about.labels:
        scores = scored(signature.outputs, about.labels)
        firsts |= {scores.name: scores.shape[0]} if len(scores.shape) > 1 else {}
    for name, first in firsts.items():
        if isinstance(first, int) and first != 1:
            raise StageError(
                f"Core ML takes one image and classifies one thing at a time, and '{name}' is of "
                f"{first}",
                fix="declare 'batch' or 1 as the first dimension of the inputs, if the model "
                "takes that",
            )
    names = sorted({first for first in firsts.values() if isinstance(first, str)})
    for name in names:
        wrong = [it for it in signature.inputs if it.shape.count(name) > 1]
        wrong += [it for it in signature.outputs if it.shape.count(name) != 1]
        if wrong or len(names) > 1 or not any(name in it.shape for it in signature.inputs):
            told = ", ".join(f"'{it.name}' {list(it.shape)}" for it in wrong or signature.inputs)
            raise StageError(
                "Core ML takes one image and classifies one thing at a time, and what goes in and "
                f"comes out cannot be divided along '{name}': {told}",
                fix=f"declare 1 in place of {' and of '.join(map(repr, names))} in the inputs",
            )
    return "".join(names)


def single(signature: Signature, batch: str) -> Signature:
    """The signature with one in place of a dimension."""

    def one(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=tuple(1 if dim == batch else dim for dim in tensor.shape))

    return replace(
        signature,
        inputs=tuple(map(one, signature.inputs)),
        outputs=tuple(map(one, signature.outputs)),
    )


def describe(spec: Any, signature: Signature, about: About) -> None:
    """Write all that into a package's model.

    signature: as the model has it, whose `batch_of` the package takes one.
    """
    if about.labels:
        _classify(spec, signature, about.labels)
    _name(spec.description, signature, batch_of(signature, about))
    _explain(spec.description, signature, about)


def _name(description: Any, signature: Signature, batch: str) -> None:
    """Write names that a ML Program cannot have, and those of dynamic dimensions, into the metadata
    of a model.
    """
    metadata = description.metadata.userDefined
    features = {feature.name for feature in (*description.input, *description.output)}
    names = _features(signature)
    for name, feature in names.items():
        if name != feature and feature in features:
            metadata[f"{NAME_PREFIX}{feature}"] = name
    for tensor, axis, dim in _dims(signature, batch):
        if names[tensor.name] in features:
            metadata[f"{DIM_PREFIX}{names[tensor.name]}.{axis}"] = dim
    if batch:
        metadata[BATCH] = batch


def _dims(signature: Signature, batch: str) -> Iterator[tuple[Tensor, int, str]]:
    """The named dimensions of inputs, and of outputs that of which a prediction gives one."""
    for tensors, is_told in ((signature.inputs, None), (signature.outputs, batch)):
        for tensor in tensors:
            for axis, dim in enumerate(tensor.shape):
                if isinstance(dim, str) and is_told in (None, dim):
                    yield tensor, axis, dim


def _features(signature: Signature) -> dict[str, str]:
    return identifiers(tensor.name for tensor in (*signature.inputs, *signature.outputs))


def _explain(description: Any, signature: Signature, about: About) -> None:
    """Write what people read: of the model, and of its inputs."""
    metadata = description.metadata
    metadata.shortDescription = about.metadata.get("description", "")
    metadata.author = about.metadata.get("author", "")
    metadata.license = about.metadata.get("license", "")
    metadata.versionString = about.version
    features = {feature.name: feature for feature in description.input}
    names = _features(signature)
    for tensor in signature.inputs:
        if (feature := features.get(names[tensor.name])) is not None:
            feature.shortDescription = _sentence(tensor, about)


def _sentence(tensor: Tensor, about: About) -> str:
    if (entry := about.preprocessing.get(tensor.name)) is not None:
        return f"An image: {preprocessing.line(entry)}."
    if tensor.range is not None:
        return f"Values from {tensor.range[0]:g} to {tensor.range[1]:g}."
    return ""


# The classifier


def _classify(spec: Any, signature: Signature, labels: Sequence[str]) -> None:
    """Have the model tell the class, and all scores by class, in place of an output."""
    names, description = _features(signature), spec.description
    scores = scored(signature.outputs, labels)
    block = _block(spec)
    inside = {port.name for operation in block.operations for port in operation.outputs}
    label, feature = classifier(inside | {*names.values()})
    kept = [name for name in block.outputs if name != names[scores.name]]
    block.outputs[:] = [label, feature, *kept]
    _add_operator(block, names[scores.name], labels, label, feature)
    others = [it for it in description.output if it.name != names[scores.name]]
    made = [_feature(description, label), _feature(description, feature)]
    made[0].type.stringType.SetInParent()
    made[0].shortDescription = "The class with the greatest score."
    made[1].type.dictionaryType.stringKeyType.SetInParent()
    made[1].shortDescription = "The score of each class."
    del description.output[:]
    description.output.extend([*made, *others])
    description.predictedFeatureName = label
    description.predictedProbabilitiesName = feature
    metadata = description.metadata.userDefined
    metadata[f"{NAME_PREFIX}{feature}"] = scores.name
    place = signature.outputs.index(scores)
    metadata[SCORES] = json.dumps({"place": place, "shape": scores.shape})


def without_classes(spec: Any) -> Callable[[Any], None]:
    """Take the last operator of a classifier out of a model, since what changes its weights may
    put others behind it; gives what puts it back, into the changed model.
    """
    block = _block(spec)
    if not spec.description.predictedFeatureName:
        return lambda _: None
    operation, outputs = block.operations.pop(), list(block.outputs)
    (scores,) = operation.inputs["probabilities"].arguments
    block.outputs[:] = [scores.name, *outputs[2:]]

    def put_back(changed: Any) -> None:
        _block(changed).operations.append(operation)
        _block(changed).outputs[:] = outputs

    return put_back


def _block(spec: Any) -> Any:
    (function,) = spec.mlProgram.functions.values()
    return function.block_specializations[function.opset]


def _feature(description: Any, name: str) -> Any:
    feature = type(description).FromString(b"").output.add()
    feature.name = name
    return feature


def _add_operator(block: Any, scores: str, labels: Sequence[str], label: str, feature: str) -> None:
    """Add the operator that has to be the last of a classifier, as coremltools writes it."""
    from coremltools.proto.MIL_pb2 import DataType

    text = DataType.STRING
    operation = block.operations.add(type="classify")
    operation.inputs["probabilities"].arguments.add(name=scores)
    classes = operation.inputs["classes"].arguments.add().value
    classes.type.listType.type.tensorType.dataType = text
    classes.type.listType.length.constant.size = len(labels)
    for name in labels:
        _tell(classes.immediateValue.list.values.add(), name, text)
    _tell(operation.attributes["name"], "classify", text)
    operation.outputs.add(name=label).type.tensorType.dataType = text
    made = operation.outputs.add(name=feature).type.dictionaryType
    made.keyType.tensorType.dataType = text
    made.valueType.tensorType.dataType = DataType.FLOAT64


def _tell(value: Any, text: str, dtype: int) -> None:
    value.type.tensorType.dataType = dtype
    value.immediateValue.tensor.strings.values.append(text)
