"""How a Core ML artifact is used: from Swift and from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from crosscast.targets.families import preprocessing
from crosscast.targets.families.coreml_names import identifiers
from crosscast.targets.families.markdown import example_shape, names, note

SWIFT = """
import CoreML

let configuration = MLModelConfiguration()
configuration.computeUnits = .all
let package = URL(fileURLWithPath: {path}) // in an app, Xcode compiles it for you
let compiled = try await MLModel.compileModel(at: package)
let model = try MLModel(contentsOf: compiled, configuration: configuration)
let inputs = try MLDictionaryFeatureProvider(dictionary: [
{feeds}
])
let outputs = try model.prediction(from: inputs)
for name in {outputs} {{
    print(name, outputs.featureValue(for: name)!.multiArrayValue!.shape)
}}
"""
PYTHON = """
import sys

import coremltools
import numpy as np
from safetensors.numpy import load_file

vectors = load_file("vectors.safetensors")
types = {types}
{own}inputs = {{name: vectors[f"0/in/{{{key}}}"].astype(dtype) for name, dtype in types.items()}}
if sys.platform == "darwin":
    outputs = coremltools.models.MLModel({path}).predict(inputs)
    for name in {outputs}:
        expected = vectors[f"0/out/{{{key}}}"]
        print(name, "largest difference:", np.abs(outputs[name] - expected).max())
else:  # Core ML predicts on macOS only
    description = coremltools.utils.load_spec({path}).description
    print("inputs:", [feature.name for feature in description.input])
    print("outputs:", [feature.name for feature in description.output])
"""
OWN = "own = {own}  # names that Core ML cannot have\n"
TYPES = {"float32": ".float32", "float16": ".float16", "float64": ".double"}


def usage(*, manifest: Mapping[str, Any]) -> str:
    """USAGE.md: how to run the artifact from its directory."""
    # A package is a directory; the manifest lists the files in it.
    path = json.dumps(PurePosixPath(manifest["files"][0]["path"]).parts[0])
    features = identifiers([*names(manifest, "inputs"), *names(manifest, "outputs")])
    own = {feature: name for name, feature in features.items() if name != feature}
    outputs = json.dumps([features[name] for name in names(manifest, "outputs")])
    feeds = "\n".join(_swift(tensor, features) for tensor in manifest["inputs"])
    types = {features[tensor["name"]]: _python_dtype(tensor) for tensor in manifest["inputs"]}
    return note(
        manifest,
        ("Swift", "swift", SWIFT.format(path=path, feeds=feeds, outputs=outputs)),
        (
            "Python (coremltools, safetensors)",
            "python",
            PYTHON.format(
                path=path,
                types=json.dumps(types),
                outputs=outputs,
                own=OWN.format(own=json.dumps(own)) if own else "",
                key="own.get(name, name)" if own else "name",
            ),
        ),
        *preprocessing.blocks(manifest, "swift", "python"),
    )


def _swift(tensor: Mapping[str, Any], features: Mapping[str, str]) -> str:
    kind = TYPES.get(tensor["dtype"], ".int32")
    shape = example_shape(tensor)
    name = json.dumps(features[tensor["name"]])
    return f"    {name}: try MLMultiArray(shape: {shape}, dataType: {kind}),"


def _python_dtype(tensor: Mapping[str, Any]) -> str:
    return tensor["dtype"] if tensor["dtype"] in TYPES else "int32"
