"""A sample of coremltools' own tests of MIL operators; `make mil-suite` runs them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
coremltools = pytest.importorskip("coremltools")

PLUGIN = Path(__file__).parent.parent / "mil_suite"
ONE_IN = 100


LACKING = {
    "const", "_const_symbolic", "cond", "while_loop",  # the evaluator's own, no operators
    "coreml_update_state",  # saved as the two that it is made of
    "conv_quantized",  # of neural networks only
    "random_bernoulli", "random_categorical", "random_normal", "random_uniform",
}  # fmt: skip


def test_the_evaluator_has_all_operators_but_those_named() -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    from crosscast.targets.families.mil.ops.table import OPS

    assert set(SSAOpRegistry.core_ops) - set(OPS) <= LACKING
    assert set(OPS) - set(SSAOpRegistry.core_ops) == {"write_state"}


@pytest.mark.timeout(600)
def test_a_sample_of_the_suite_that_nobody_here_wrote(tmp_path: Path) -> None:
    plugins = ["-p", "plugin", "-p", "no:cacheprovider"]
    words = ["-c", os.devnull, *plugins, "-q", "-W", "ignore", "--tb=line", "--pyargs"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", *words, "--one-in", str(ONE_IN),
            "coremltools.converters.mil.mil.ops.tests",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PLUGIN), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted
    assert int(counted[1]) > 100
