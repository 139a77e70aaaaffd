from __future__ import annotations

import json
import math

import pytest

from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.samples import Origin
from crosscast.pipeline.parity.tolerance import TOLERANCES, tolerance
from crosscast.pipeline.parity.verdict import Audit, FellBack, Row, Verdict, judge

FP32 = Audit(asked="fp32", delivered="fp32", weights={"float32": 100})
LIMITS = TOLERANCES["fp32"]


def row(
    case: str = "real 0",
    *,
    output: str = "y",
    origin: Origin = "real",
    gated: bool = True,
    snr_db: float | None = 120.0,
    max_error: float | None = 1e-6,
    mismatch: float | None = None,
    elements: int = 10,
    problem: str = "",
) -> Row:
    return Row(
        case=case,
        output=output,
        origin=origin,
        gated=gated,
        numbers=Numbers(
            problem=problem,
            elements=elements,
            snr_db=snr_db,
            max_error=max_error,
            cosine=1.0,
            mismatch=mismatch,
        ),
    )


def counted(case: str, mismatch: float, elements: int = 10) -> Row:
    return row(case, snr_db=None, max_error=None, mismatch=mismatch, elements=elements)


def decide(*rows: Row, **more: object) -> Verdict:
    settings = {"audit": FP32, "tolerance": LIMITS, "outputs": ["y"], "origins": {"real": 1}}
    return judge(rows=rows, **{**settings, **more})  # type: ignore[arg-type]


def test_all_within_the_limits_passes() -> None:
    verdict = decide(row(), row("zeros", origin="adversarial", snr_db=math.inf, max_error=0.0))
    assert verdict.status == "passed"
    assert verdict.reason == "1 real; at worst 'y' 120.0 dB"


def test_a_failure_names_output_case_metric_value_limit_and_what_to_try() -> None:
    verdict = decide(row("a", snr_db=12.34), row("b", snr_db=3.21), row("c"))
    assert verdict.status == "failed"
    assert verdict.reason == (
        "output 'y', case 'b': snr_db is 3.2, the limit is 80 (and 1 more cases); suspect layout,"
        " order of channels, weights or value range; try another route or opset"
    )
    assert verdict.worst["y"].case == "b"


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        (row(snr_db=75.0), "try a wider precision"),
        (row(snr_db=3.0), "try another route or opset"),
        (row(snr_db=75.0, origin="adversarial"), "declare the range"),
    ],
)
def test_what_to_try_depends_on_the_failure(failing: Row, expected: str) -> None:
    assert expected in decide(failing).reason


@pytest.mark.parametrize(
    "failing",
    [
        row(snr_db=math.nan),
        row(max_error=math.nan),
        row(max_error=math.inf),
        row(snr_db=-math.inf),
        row(snr_db=None, max_error=None),
        row(problem="shape (1,) where the source gives (2,)"),
        row(problem="nan at (0,)", gated=False),
        counted("x", math.nan),
        counted("x", 1.0),
    ],
)
def test_any_bad_row_fails(failing: Row) -> None:
    assert decide(row(), failing, row()).status == "failed"


def test_ungated_numbers_are_reported_and_do_not_decide() -> None:
    verdict = decide(row(), row("zeros", gated=False, snr_db=3.0))
    assert verdict.status == "passed"
    assert len(verdict.rows) == 2
    assert verdict.worst["y"].case == "real 0"


def test_integers_are_judged_over_all_cases() -> None:
    many = [counted(f"real {index}", 0.0, elements=5000) for index in range(3)]
    assert decide(*many, counted("near tie", 1.0, elements=1)).status == "passed"
    verdict = decide(*many, counted("wrong", 0.5, elements=1000))
    assert verdict.status == "failed"
    assert "worst in case 'wrong': mismatch is 0.0312, the limit is 0.001" in verdict.reason


def test_an_output_that_no_gated_case_compared_is_unverified() -> None:
    assert decide().status == "unverified"
    assert decide(row(gated=False)).status == "unverified"
    verdict = decide(row(), outputs=["y", "z"])
    assert (verdict.status, verdict.reason) == ("unverified", "no case was compared for z")
    assert decide(outputs=[]).status == "unverified"


def test_unproven_is_unverified_with_its_reason() -> None:
    verdict = decide(row(), unproven="no Core ML runtime on this host")
    assert (verdict.status, verdict.reason) == ("unverified", "no Core ML runtime on this host")


def test_failed_goes_before_unverified() -> None:
    assert decide(row(snr_db=1.0), unproven="hardly vary").status == "failed"
    assert decide(row(), problems=["its runtime fails"], unproven="x").status == "failed"


def test_a_precision_that_was_not_delivered_fails_and_names_the_shares() -> None:
    audit = Audit(asked="int8", delivered="fp32", weights={"int8": 25, "float32": 75, "x": 0})
    verdict = decide(row(), audit=audit, unproven="no runtime")
    assert verdict.status == "failed"
    assert verdict.reason == (
        "int8 was asked for, fp32 was delivered (weights: float32 75 %, int8 25 %)"
    )


def fallen(*shares: float) -> tuple[FellBack, ...]:
    return tuple(
        FellBack(name=f"layer {index}", op="Conv", precision="fp32", share=share)
        for index, share in enumerate(shares)
    )


def test_a_precision_that_was_not_delivered_names_what_holds_the_rest() -> None:
    weights = {"int8": 25, "float32": 75}
    audit = Audit(
        asked="int8",
        delivered="fp32",
        weights=weights,
        fell_back=fallen(0.4, 0.2, 0.05, 0.05, 0.03, 0.02),
    )
    assert decide(row(), audit=audit).reason == (
        "int8 was asked for, fp32 was delivered (weights: float32 75 %, int8 25 %): 'layer 0' "
        "(Conv, fp32, 40 %), 'layer 1' (Conv, fp32, 20 %), 'layer 2' (Conv, fp32, 5 %), 'layer 3' "
        "(Conv, fp32, 5 %), 'layer 4' (Conv, fp32, 3 %) and 1 more"
    )


def test_a_table_in_int8_does_not_make_up_for_operators_that_are_not() -> None:
    audit = Audit(asked="int8", delivered="int8", fell_back=fallen(0.3, 0.21))
    verdict = decide(row(), audit=audit)
    assert verdict.status == "failed"
    assert verdict.reason == (
        "int8 was asked for, and 51 % of the weights that operators compute with are wider:"
        " 'layer 0' (Conv, fp32, 30 %), 'layer 1' (Conv, fp32, 21 %)"
    )
    half = Audit(asked="int8", delivered="int8", fell_back=fallen(0.3, 0.2))
    assert decide(row(), audit=half).status == "passed"


def test_bad_parameters_of_quantization_fail() -> None:
    audit = Audit(asked="int8", delivered="int8", problems=("'w' has the scale 0",))
    verdict = decide(row(), audit=audit)
    assert (verdict.status, verdict.reason) == ("failed", "'w' has the scale 0")


def test_long_reasons_are_cut() -> None:
    verdict = decide(problems=[f"problem {index}" for index in range(25)])
    assert verdict.reason.splitlines()[-1] == "and 15 more"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ({"adversarial": 4, "real": 6, "swept": 2}, "6 real, 2 swept, 4 adversarial"),
        ({"synthetic": 3, "adversarial": 4}, "synthetic inputs only: 3 synthetic, 4 adversarial"),
        ({}, "none"),
    ],
)
def test_origins_are_summed_up(origins: dict[str, int], expected: str) -> None:
    assert decide(row(), origins=origins).inputs == expected


def test_json_is_strict_and_comes_back() -> None:
    limits = tolerance("fp32", {"min_snr_db": 60.0, "reason": "measured"})
    rows = [row(), row("same", snr_db=math.inf), row("gone", snr_db=-math.inf, max_error=math.inf)]
    audit = Audit(
        asked="fp32", delivered="fp32", ops={"fp32": 2}, fell_back=fallen(0.1), problems=("x",)
    )
    verdict = decide(*rows, counted("n", 0.0), tolerance=limits, audit=audit)
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert Verdict.from_json(json.loads(text)) == verdict
    assert json.loads(text)["tolerance"]["override"] == "measured"


def test_the_limits_can_be_had_again_from_the_json() -> None:
    limits = tolerance("fp32", {"min_snr_db": 60.0, "reason": "measured"})
    assert tolerance("fp32", decide(row(), tolerance=limits).to_json()["parity"]) == limits
    assert decide(row()).to_json()["parity"] == {}


def test_numbers_are_rounded_to_what_every_run_gives_again() -> None:
    noisy = row(snr_db=120.0000001, max_error=1.0000001e-6)
    assert decide(noisy) == decide(row())
    negative = row()._replace(numbers=Numbers(snr_db=90.0, max_error=0.0, cosine=-1e-9))
    assert str(decide(negative).rows[0].numbers.cosine) == "0.0"


def test_cases_that_the_source_keeps_nothing_of_are_named() -> None:
    numbers = Numbers(snr_db=90.0, max_error=0.0, elements=4)
    rows = [
        Row(case="real 0", output="y", origin="real", gated=True, numbers=numbers),
        Row(
            case="adversarial least",
            output="y",
            origin="adversarial",
            gated=False,
            numbers=numbers,
            floor_db=0.0,
        ),
    ]
    audit = Audit(asked="fp32", delivered="fp32")
    found = judge(audit=audit, tolerance=TOLERANCES["fp32"], outputs=["y"], rows=rows)
    assert found.status == "passed"
    assert "not judged by numbers: 'adversarial least'" in found.reason
