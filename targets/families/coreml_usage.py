"""How a Core ML artifact is used: from Swift and from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self

from crosscast.targets.families import preprocessing
from crosscast.targets.families.coreml_names import classifier, identifiers
from crosscast.targets.families.markdown import example_shape, names, note

UNITS = {
    "all": ".all",
    "cpu_only": ".cpuOnly",
    "cpu_and_gpu": ".cpuAndGPU",
    "cpu_and_ne": ".cpuAndNeuralEngine",
}
"""Swift's names of the processors that an app lets Core ML choose from."""

SWIFT = """
import CoreML

let configuration = MLModelConfiguration()
configuration.computeUnits = {units}
let package = URL(fileURLWithPath: {path}) // in an app, Xcode compiles it for you
let compiled = try await MLModel.compileModel(at: package)
let model = try MLModel(contentsOf: compiled, configuration: configuration)
{images}let inputs = try MLDictionaryFeatureProvider(dictionary: [
{feeds}
])
let outputs = try model.prediction(from: inputs)
{reads}
"""
READ = """for name in {outputs} {{
    print(name, outputs.featureValue(for: name)!.multiArrayValue!.shape)
}}"""
READ_CLASS = """print(outputs.featureValue(for: {label})!.stringValue)
print(outputs.featureValue(for: {scores})!.dictionaryValue) // the score of each class"""
IMAGE = """// {name}: a CGImage, resized and cropped as above; Core ML scales others itself
let {name}Constraint = model.modelDescription.inputDescriptionsByName["{name}"]!.imageConstraint!
"""
VISION = """
import Vision

// Vision takes an image of any size; it scales and crops it itself
let request = VNCoreMLRequest(model: try VNCoreMLModel(for: model)) {{ request, _ in
    for result in request.results as? [{observation}] ?? [] {{
        print({printed})
    }}
}}
request.imageCropAndScaleOption = .{option}
try VNImageRequestHandler(cgImage: {name}, options: [:]).perform([request])
"""
PYTHON = """
import sys

import coremltools
{numpy}{pillow}from safetensors.numpy import load_file

vectors = load_file("vectors.safetensors")
inputs = {{
{feeds}
}}
if sys.platform == "darwin":
    outputs = coremltools.models.MLModel({path}).predict(inputs)
{compared}{classes}else:  # Core ML predicts on macOS only
    description = coremltools.utils.load_spec({path}).description
    print("inputs:", [feature.name for feature in description.input])
    print("outputs:", [feature.name for feature in description.output])
"""
PYTHON_COMPARED = """    expected = {{
{expected}
    }}
    for name, array in expected.items():
        print(name, "largest difference:", np.abs(outputs[name] - array).max())
"""
PYTHON_CLASS = "    print(outputs[{label}], outputs[{scores}])\n"
TYPES = {"float32": ".float32", "float16": ".float16", "float64": ".double"}


@dataclass(frozen=True, kw_only=True)
class _Package:
    """What the snippets tell of a package.

    features: its names of inputs and outputs, by the manifest's. images: the inputs that are.
    scored: the output that a classifier gives as a class and a dictionary. batch: the dimension of
    which a prediction takes one. The last two are empty where there is none.
    """

    manifest: Mapping[str, Any]
    features: Mapping[str, str]
    images: tuple[str, ...]
    scored: str
    batch: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """As the manifest has it."""
        images = tuple(preprocessing.images(manifest.get("preprocessing") or {}))
        scored = (manifest.get("labels") or {"output": ""})["output"]
        tensors = (*manifest["inputs"], *manifest["outputs"])
        firsts = [it["shape"][:1] for it in tensors if it["name"] in (*images, scored)]
        return cls(
            manifest=manifest,
            features=identifiers([*names(manifest, "inputs"), *names(manifest, "outputs")]),
            images=images,
            scored=scored,
            batch=next((first for (first, *_) in firsts if isinstance(first, str)), ""),
        )

    @property
    def label(self) -> str:
        """The feature that has the class."""
        return classifier(self.features.values())[0]

    @property
    def scores(self) -> str:
        """The feature that has the scores by class."""
        return classifier(self.features.values())[1]

    @property
    def arrays(self) -> list[Mapping[str, Any]]:
        """The outputs that are arrays."""
        return [it for it in self.manifest["outputs"] if it["name"] != self.scored]


def usage(*, manifest: Mapping[str, Any]) -> str:
    """USAGE.md: how to run the artifact from its directory."""
    # A package is a directory; the manifest lists the files in it.
    path = json.dumps(PurePosixPath(manifest["files"][0]["path"]).parts[0])
    package = _Package.of(manifest)
    return note(
        manifest,
        ("Swift", "swift", _swift(package, path)),
        *_vision(package),
        ("Python (coremltools, safetensors)", "python", _python(package, path)),
        *preprocessing.blocks(manifest, "swift", "python"),
        remarks=_remarks(package),
    )


def _remarks(package: _Package) -> list[str]:
    found = [f"`{package.features[name]}` is an image to Core ML." for name in package.images]
    if package.scored:
        found.append(
            f"Core ML gives `{package.scored}` as `{package.label}`, the class with the greatest "
            f"score, and `{package.scores}`, the score of each class."
        )
    if package.batch:
        found.append(
            f"It takes one at a time: where `{package.batch}` stands above, 1 is meant, and "
            "several are several predictions (`predictions(fromBatch:)`)."
        )
    return [" ".join(found)] if found else []


def _swift(package: _Package, path: str) -> str:
    features = package.features
    arrays = json.dumps([features[it["name"]] for it in package.arrays])
    reads = [READ.format(outputs=arrays)] if package.arrays else []
    if package.scored:
        label, scores = json.dumps(package.label), json.dumps(package.scores)
        reads.append(READ_CLASS.format(label=label, scores=scores))
    return SWIFT.format(
        path=path,
        units=UNITS[package.manifest.get("options", {}).get("compute_units", "all")],
        images="".join(IMAGE.format(name=features[name]) for name in package.images),
        feeds="\n".join(_swift_feed(it, package) for it in package.manifest["inputs"]),
        reads="\n".join(reads),
    )


def _swift_feed(tensor: Mapping[str, Any], package: _Package) -> str:
    name = package.features[tensor["name"]]
    if tensor["name"] in package.images:
        value = f"MLFeatureValue(cgImage: {name}, constraint: {name}Constraint)"
    else:
        kind = TYPES.get(tensor["dtype"], ".int32")
        value = f"MLMultiArray(shape: {example_shape(tensor)}, dataType: {kind})"
    return f"    {json.dumps(name)}: try {value},"


def _vision(package: _Package) -> list[tuple[str, str, str]]:
    """How Vision runs it, which feeds models of one image."""
    if len(package.manifest["inputs"]) != 1 or not package.images:
        return []
    (name,) = package.images
    observation, printed = "VNCoreMLFeatureValueObservation", "result.featureName"
    if package.scored:
        observation, printed = "VNClassificationObservation", "result.identifier, result.confidence"
    entry = package.manifest["preprocessing"][name]
    option = {"letterbox": "scaleFit"}.get(entry["fit"], "scaleFill")
    if entry["crop"] is not None or isinstance(entry["resize"], int):
        option = "centerCrop"
    code = VISION.format(
        observation=observation, printed=printed, option=option, name=package.features[name]
    )
    return [("Swift (Vision)", "swift", code)]


def _python(package: _Package, path: str) -> str:
    label, scores = json.dumps(package.label), json.dumps(package.scores)
    expected = "\n".join(f"        {line}" for line in _python_expected(package))
    return PYTHON.format(
        path=path,
        numpy="import numpy as np\n" if expected else "",
        pillow="from PIL import Image\n" if package.images else "",
        feeds="\n".join(f"    {line}" for line in _python_feeds(package)),
        compared=PYTHON_COMPARED.format(expected=expected) if expected else "",
        classes=PYTHON_CLASS.format(label=label, scores=scores) if package.scored else "",
    )


def _python_feeds(package: _Package) -> Iterator[str]:
    for tensor in package.manifest["inputs"]:
        name = json.dumps(package.features[tensor["name"]])
        if tensor["name"] in package.images:
            place = "[0, ..., 0]" if tensor["shape"][3] == 1 else "[0]"
            yield f"{name}: Image.fromarray({_vector('in', tensor)}{place}),"
        else:
            dtype = tensor["dtype"] if tensor["dtype"] in TYPES else "int32"
            yield f'{name}: {_one("in", tensor, package)}.astype("{dtype}"),'


def _python_expected(package: _Package) -> Iterator[str]:
    for tensor in package.arrays:
        yield f"{json.dumps(package.features[tensor['name']])}: {_one('out', tensor, package)},"


def _vector(side: str, tensor: Mapping[str, Any]) -> str:
    return f"vectors[{json.dumps(f'0/{side}/' + tensor['name'], ensure_ascii=False)}]"


def _one(side: str, tensor: Mapping[str, Any], package: _Package) -> str:
    """The vector, or what of it one prediction takes or gives."""
    if not package.batch or package.batch not in tensor["shape"]:
        return _vector(side, tensor)
    return f"{_vector(side, tensor)}.take([0], {tensor['shape'].index(package.batch)})"
