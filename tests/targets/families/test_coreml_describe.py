"""What a config says of a model, in a package's model that is made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families import coreml
from crosscast.targets.families.coreml_describe import (
    About,
    batch_of,
    describe,
    single,
    without_classes,
)
from crosscast.targets.families.coreml_features import Scores, image

pytest.importorskip("coremltools.proto")

FOLD = {"folded": {"color": "rgb", "scale": 1.0, "mean": [], "std": []}}
ENTRY = {
    "resize": (8, 6), "fit": "stretch", "pad": 0, "interpolation": "bilinear", "crop": None,
    "color": "rgb", "scale": 1.0, "mean": [], "std": [],
}  # fmt: skip
IMAGES = About(preprocessing={"my x": {**ENTRY, **FOLD}})
LABELS = ("ant", "bee")
X = Tensor(name="my x", shape=("n", 8, 6, 3), dtype="uint8", layout="nhwc")
FACTOR = Tensor(name="factor", shape=(1, "n"), dtype="float32", range=(-1.0, 0.5))
SUMS = Tensor(name="sums", shape=(2, "n"), dtype="float32")
PROBS = Tensor(name="probs", shape=("n", 2), dtype="float32")
SIGNATURE = Signature(inputs=(X, FACTOR), outputs=(SUMS, PROBS), dims={"n": (1, 4)})


def test_images_and_classes_are_taken_one_at_a_time() -> None:
    assert batch_of(SIGNATURE, IMAGES) == "n"
    assert batch_of(SIGNATURE, About(labels=LABELS)) == "n"
    assert batch_of(SIGNATURE, About()) == ""
    one = single(SIGNATURE, "n")
    assert batch_of(one, replace(IMAGES, labels=LABELS)) == ""
    assert [it.shape for it in (*one.inputs, *one.outputs)] == [
        (1, 8, 6, 3),
        (1, 1),
        (2, 1),
        (1, 2),
    ]


def wrong(**changes: tuple[int | str, ...]) -> Signature:
    def changed(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=changes.get(tensor.name.removeprefix("my "), tensor.shape))

    return replace(
        SIGNATURE,
        inputs=tuple(map(changed, SIGNATURE.inputs)),
        outputs=tuple(map(changed, SIGNATURE.outputs)),
    )


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (wrong(x=(2, 8, 6, 3)), "'my x' is of 2"),
        (wrong(probs=(4, 2)), "'probs' is of 4"),
        (wrong(sums=(2,)), r"divided along 'n': 'sums' \[2\]"),
        (wrong(factor=("n", "n")), r"divided along 'n': 'factor' \['n', 'n'\]"),
        (wrong(x=("m", 8, 6, 3)), "divided along 'm'"),
        (wrong(x=(1, 8, 6, 3), factor=(1, 1), sums=(1,)), "divided along 'n'"),
    ],
)
def test_what_would_leave_something_out_is_refused(signature: Signature, said: str) -> None:
    with pytest.raises(StageError, match=said):
        batch_of(signature, replace(IMAGES, labels=LABELS))


def test_an_image_of_planes_is_refused() -> None:
    planes = replace(SIGNATURE, inputs=(X.permuted("nchw"), FACTOR))
    with pytest.raises(StageError, match="the image 'my x' has the layout nchw"):
        batch_of(planes, IMAGES)
    assert batch_of(planes, About()) == ""


def package() -> Any:
    """A model as a conversion leaves it."""
    spec = coreml._messages().Model()
    kind = spec.description.input.add(name="my_x").type.imageType
    kind.height, kind.width, kind.colorSpace = 8, 6, kind.RGB
    for features, name, shape in (
        (spec.description.input, "factor", (1, 1)),
        (spec.description.output, "sums", (2, 1)),
        (spec.description.output, "probs", (1, 2)),
    ):
        array = features.add(name=name).type.multiArrayType
        array.shape.extend(shape)
        array.dataType = array.FLOAT32
    function = spec.mlProgram.functions["main"]
    function.opset = "CoreML6"
    block = function.block_specializations["CoreML6"]
    block.outputs.extend(["sums", "probs"])
    for name in block.outputs:
        block.operations.add(type="identity").outputs.add(name=name)
    return spec


def test_a_package_says_what_it_is() -> None:
    spec = package()
    told = {"author": "Ada", "license": "MIT", "description": "Tells animals."}
    describe(spec, SIGNATURE, replace(IMAGES, metadata=told, version="1.2.3"))
    metadata = spec.description.metadata
    assert (metadata.author, metadata.license) == ("Ada", "MIT")
    assert (metadata.shortDescription, metadata.versionString) == ("Tells animals.", "1.2.3")
    assert dict(metadata.userDefined) == {
        "crosscast.name.my_x": "my x",
        "crosscast.batch": "n",
        "crosscast.dim.my_x.0": "n",
        "crosscast.dim.factor.1": "n",
        "crosscast.dim.sums.1": "n",
        "crosscast.dim.probs.0": "n",
    }
    sentences = [feature.shortDescription for feature in spec.description.input]
    assert sentences[0].startswith("An image: resize it to 8 x 6")
    assert sentences[1] == "Values from -1 to 0.5."
    found = image(spec.description.input[0])
    assert found is not None
    assert (found.shape, found.dtype) == ((1, 8, 6, 3), "uint8")


def test_a_classifier_says_what_its_scores_stand_for() -> None:
    spec = package()
    describe(spec, SIGNATURE, replace(IMAGES, labels=LABELS))
    assert [feature.name for feature in spec.description.output] == [
        "classLabel",
        "classLabel_probs",
        "sums",
    ]
    found = Scores.of(spec)
    assert found is not None
    assert (found.classes, found.place, found.shape) == (LABELS, 1, ("n", 2))
    metadata = spec.description.metadata.userDefined
    assert metadata["crosscast.name.classLabel_probs"] == "probs"
    assert "crosscast.dim.probs.0" not in metadata
    assert Scores.of(package()) is None


def test_an_output_that_has_the_name_of_the_class_keeps_it() -> None:
    named = replace(SIGNATURE, outputs=(replace(SUMS, name="classLabel"), PROBS))
    spec = package()
    describe(spec, named, About(labels=LABELS))
    assert spec.description.predictedFeatureName == "classLabel_0"


def test_classes_are_set_aside_and_put_back() -> None:
    spec = package()
    describe(spec, SIGNATURE, About(labels=LABELS))
    whole = spec.SerializeToString(deterministic=True)
    put_back = without_classes(spec)
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations["CoreML6"]
    assert list(block.outputs) == ["probs", "sums"]
    assert [operation.type for operation in block.operations] == ["identity", "identity"]
    put_back(spec)
    assert spec.SerializeToString(deterministic=True) == whole
    plain = package()
    without_classes(plain)(plain)
    assert plain == package()
