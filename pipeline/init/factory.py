"""Which framework a 'file.py:function' belongs to: by what it imports, else by what it gives."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.worker.usercode import call, load_function

KIND = "kind.json"
IMPORTS = {"torch": "torch", "timm": "torch", "torchvision": "torch", "sklearn": "sklearn"}
"""Packages whose import leaves little doubt; TensorFlow's may mean a Keras model or none."""
DOUBTFUL = ("tensorflow", "keras", "tf_keras", "transformers", "xgboost", "lightgbm")
CLASSES = (
    ("torch.nn.modules.module", "Module", "torch"),
    ("torch.jit", "ScriptModule", "torch"),
    ("keras.src.models.model", "Model", "keras"),
    ("tf_keras.src.engine.training", "Model", "keras"),
    ("sklearn.base", "BaseEstimator", "sklearn"),
    ("tensorflow.python.module.module", "Module", "tensorflow"),
    ("tensorflow.python.trackable.autotrackable", "AutoTrackable", "tensorflow"),
)
"""Module, name and source of the classes that a factory's result is looked for among its own."""


def by_imports(path: Path) -> str:
    """The source that the file's imports speak for; empty where they leave it open."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, not of ours
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return ""  # calling it will tell what is wrong, and where
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    found = {IMPORTS[name] for name in names & IMPORTS.keys()}
    return found.pop() if len(found) == 1 and not names & set(DOUBTFUL) else ""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:  # noqa: ARG001
    """Write `kind.json`: the source of what the function `factory` of the options gives.

    Raises StageError where it is of no framework that is known here.
    """
    spec = options["factory"]
    made = call(load_function(spec), what=f"factory {spec}")
    write_json(out / KIND, kind_of(made, spec))
    return StageResult()


def kind_of(made: Any, spec: str) -> str:
    """The source that takes what a factory gave."""
    bases = {(base.__module__, base.__name__) for base in type(made).__mro__}
    for module, name, kind in CLASSES:
        if any(base == name and where.startswith(module) for where, base in bases):
            return kind
    if type(made).__module__.startswith("tensorflow."):
        return "tensorflow"  # a tf.function
    what = "None" if made is None else f"a {type(made).__name__}"
    raise StageError(
        f"the factory {spec} gave {what}, which is no model of PyTorch, Keras, TensorFlow or "
        "scikit-learn",
        fix="end it with `return model`, the model itself",
    )
