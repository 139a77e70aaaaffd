"""coremltools' own tests of MIL operators, with the evaluator in the place of Core ML.

They ship in coremltools' wheel and predict on macOS only. As a pytest plugin, this lets them think
that they run there, and gives them the evaluator's answers. What they expect and the evaluator
does not do is listed in `exceptions.txt`, with the reason.
"""

from __future__ import annotations

import gc
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.errors import StageError

EXCEPTIONS = Path(__file__).parent / "exceptions.txt"
MACOS = (26, 0)
HALF = 2.0**-9
"""Twice float16's precision: the expected numbers were rounded as well."""

os.environ["PYMIL_TEST_TARGETS"] = "mlprogram"
os.environ["INCLUDE_MIL_FP32_UNIT_TESTS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, help="run one test in so many, always those")


def pytest_configure(config: pytest.Config) -> None:
    import coremltools
    from coremltools.converters.mil import testing_utils
    from coremltools.models import utils

    testing_utils._IS_MACOS = True
    utils._is_macos = lambda: True
    utils._macos_version = lambda: MACOS
    testing_utils.compare_backend = compared(testing_utils.compare_backend)
    coremltools.models.MLModel.predict = predict
    coremltools.models.MLModel.make_state = make_state


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    every = config.getoption("--one-in")
    chosen, left = [], []
    for item in items:
        (left if zlib.crc32(named(item).encode()) % every else chosen).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen
    known = list(exceptions())
    for item in items:
        for pattern, reason in known:
            if re.match(pattern, named(item)):
                item.add_marker(pytest.mark.xfail(reason=reason))


def pytest_runtest_setup() -> None:
    # A conversion collects garbage, which takes seconds where it looks at the objects of all tests
    # and at what coremltools keeps of each.
    gc.freeze()


def named(item: pytest.Item) -> str:
    """A test without the directory of the wheel: iOS14/test_conv.py::TestConv::test_x[...]."""
    return item.nodeid.partition("ops/tests/")[2] or item.nodeid


def exceptions() -> Iterator[tuple[str, str]]:
    """Regular expressions of the names of tests that are known to fail, and why."""
    reason = ""
    for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line.strip():
            yield line.strip(), reason


def compared(compare: Callable[..., Any]) -> Callable[..., Any]:
    """coremltools' comparison, with float16's tolerance for programs that have float16.

    Its own looks at the precision of the conversion only, and holds such programs to float32's
    where a test gives them inputs or parameters of float16.
    """

    def comparison(
        mlmodel: Any,
        input_key_values: Any,
        expected_outputs: Any,
        dtype: str = "fp32",
        atol: float = 1e-4,
        rtol: float = 1e-5,
        **more: Any,
    ) -> Any:
        if dtype == "fp32" and has_half(mlmodel):
            atol, rtol = max(atol, HALF), max(rtol, HALF)
        return compare(
            mlmodel, input_key_values, expected_outputs, dtype=dtype, atol=atol, rtol=rtol, **more
        )

    return comparison


def has_half(model: Any) -> bool:
    from crosscast.targets.families.mil.program import operations

    function = _read(model)[1]
    ports = [*function.inputs, *(port for it in operations(function.block) for port in it.outputs)]
    return any(port.type.dtype == "fp16" for port in ports)


def predict(model: Any, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    """What `MLModel.predict` gives, by the evaluator on the package as it was saved."""
    import torch

    from crosscast.targets.families.mil import session
    from crosscast.targets.families.mil.evaluate import Evaluator

    spec, function = _read(model)
    fed = {
        feature.name: session.fitted(data[feature.name], feature)
        for feature in _description(spec, model.function_name).input
    }
    try:
        values = Evaluator(function).run(fed, state)
    except StageError as error:
        raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def make_state(model: Any) -> Any:
    from crosscast.targets.families.mil.evaluate import fresh_states

    return fresh_states(_read(model)[1])


def _read(model: Any) -> tuple[Any, Any]:
    """The model's protobuf and the function that it predicts with, from the package on disk."""
    from coremltools.proto import Model_pb2

    from crosscast.targets.families.coreml import SPEC
    from crosscast.targets.families.mil import session

    if model.package_path is None:
        pytest.skip("a neural network, no ML Program")
    path = Path(model.package_path) / SPEC
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    return spec, session.function_of(spec, path.parent, model.function_name or "")


def _description(spec: Any, name: str | None) -> Any:
    own = [entry for entry in spec.description.functions if entry.name == name]
    return own[0] if own else spec.description
