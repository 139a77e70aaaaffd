"""Verdicts on quantized artifacts, given those on what they were quantized from."""

from __future__ import annotations

import pytest

from crosscast.pipeline.parity.chain import chained
from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.pipeline.parity.verdict import Audit, Row, Verdict, judge


def verdict(precision: str, snr_db: float, *, unproven: str = "") -> Verdict:
    numbers = Numbers(elements=10, snr_db=snr_db, max_error=1e-4)
    return judge(
        audit=Audit(asked=precision, delivered=precision),
        tolerance=TOLERANCES[precision],
        outputs=["y"],
        rows=[Row(case="real 0", output="y", origin="real", gated=True, numbers=numbers)],
        origins={"real": 1},
        unproven=unproven,
    )


INT8 = verdict("int8", 22.0)


def test_one_that_is_as_good_as_int8_passes_where_its_float_form_does() -> None:
    found = chained(INT8, before=verdict("fp32", 107.0))
    assert found.status == "passed"
    assert found.reason == "1 real; at worst 'y' 22.0 dB; 107.0 dB before quantization"
    assert found.rows == INT8.rows


def test_an_error_that_int8_would_hide_fails() -> None:
    """A lost bias of the digits' autoencoder: 22 dB in float as in int8, which may have 17."""
    found = chained(INT8, before=verdict("fp32", 22.6))
    assert found.status == "failed"
    assert found.reason.startswith("before quantization: output 'y', case 'real 0': snr_db is 22.6")


def test_both_reasons_are_told() -> None:
    found = chained(verdict("int8", 3.0), before=verdict("fp32", 2.0))
    assert [line.partition(",")[0] for line in found.reason.split("\n")] == [
        "before quantization: output 'y'",
        "output 'y'",
    ]


@pytest.mark.parametrize("before", [verdict("fp32", 107.0), verdict("fp32", 107.0, unproven="-")])
def test_a_sound_float_form_makes_nothing_pass(before: Verdict) -> None:
    assert chained(verdict("int8", 3.0), before=before) == verdict("int8", 3.0)
    assert chained(verdict("int8", 22.0, unproven="no runtime"), before=before).status == (
        "unverified"
    )
