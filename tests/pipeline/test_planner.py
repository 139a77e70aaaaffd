"""Plans of configs: which steps there are, and who shares them. Nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.graph import File, Output, Plan
from crosscast.pipeline.planner import plan, tool_versions
from crosscast.pipeline.toolchain import CORE, Toolchain
from crosscast.targets import TARGETS

ROOT = Path(__file__).parents[2]
SEVEN = (
    "{onnx: {}, onnx-fp16: {}, onnx-int8: {}, tflite-fp32: {}, tflite-fp16: {}, tflite-int8: {}, "
    "coreml-fp16: {}}"
)
CONFIG = """
model: tiny
version: 1.0.0
source: {source}
inputs:
  image: {{shape: [batch, 3, 8, 8], dtype: float32}}
samples: {{calibration: data.py:samples}}
targets: {targets}
"""

Planned = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """The plan of a config with those targets."""
    (tmp_path / "net.py").write_text("def build(): ...\n")
    (tmp_path / "data.py").write_text("def samples(): ...\ndef labelled(): ...\n")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (tmp_path / "net.onnx").write_bytes(b"onnx")

    def one(targets: str, *only: str, source: str = "{torch: net.py:build}") -> Plan:
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG.format(source=source, targets=targets))
        return plan(load(path), only=only)

    return one


def stages(plan: Plan) -> dict[str, int]:
    return dict(Counter(step.stage for step in plan.steps))


def ids(plan: Plan, stage: str) -> list[str]:
    return [step.id for step in plan.steps if step.stage == stage]


def above(plan: Plan, step: str) -> set[str]:
    found = {step}
    for name in plan.step(step).upstream():
        found |= above(plan, name)
    return found


def export_of(plan: Plan, target: str) -> str:
    source = plan.step(f"package {target}").inputs["export"]
    assert isinstance(source, Output)
    return source.step


def test_seven_targets_share_what_they_can(planned: Planned) -> None:
    assert stages(planned(SEVEN)) == {
        "export": 2,  # the program, and the ONNX that is made from it
        "simplify": 1,
        "convert": 3,  # onnx, tflite, coreml
        "quantize": 4,
        "samples": 2,
        "reference": 1,
        "verify": 9,  # the ONNX and the TFLite file as well that four are quantized from
        "package": 7,
    }


def test_what_is_quantized_is_judged_before_by_the_limits_of_its_own_precision(
    planned: Planned,
) -> None:
    found = planned("{onnx-int8: {parity: {min_snr_db: 15, reason: mine}}, coreml-int8: {}}")
    verify = found.step("verify onnx-int8")
    before = found.step("verify before quantize onnx-int8")
    assert verify.inputs["before"] == Output(before.id)
    assert verify.inputs["floats"] == before.inputs["model"]
    assert verify.options["weights"] in verify.functions
    assert before.inputs["model"] == found.step("quantize onnx-int8").inputs["model"]
    assert before.inputs["reference"] == verify.inputs["reference"]
    assert (before.options["precision_asked"], before.options["parity"]) == ("", {})
    assert before.options["computes"] == ""  # its weights tell: a source may be quantized itself
    # whatever its weights are
    assert found.step("verify before quantize coreml-int8").options["computes"] == "fp16"


def test_what_is_not_quantized_has_one_verdict(planned: Planned) -> None:
    found = planned("{onnx: {}, coreml-fp32: {}, coreml-fp16: {}}")
    assert len(ids(found, "verify")) == 3
    for step in ids(found, "verify"):
        assert not {"before", "floats"} & found.step(step).inputs.keys()


def test_the_example_has_the_plan_of_its_seven_targets(planned: Planned) -> None:
    example = plan(load(ROOT / "configs/efficientnet-lite0.yaml"))
    assert stages(example) == stages(planned(SEVEN))


def test_ids_are_unique_and_inputs_come_first(planned: Planned) -> None:
    seen: set[str] = set()
    for step in planned(SEVEN).steps:
        assert step.id not in seen
        assert set(step.upstream()) <= seen
        seen.add(step.id)


def test_onnx_and_core_ml_are_made_from_one_graph(planned: Planned) -> None:
    found = planned("{onnx: {}, coreml-fp16: {}}")
    for name in ("onnx", "coreml-fp16"):
        assert "export exported_program" in above(found, f"package {name}")
        assert export_of(found, name) == "export onnx opset 18"
    assert len(ids(found, "simplify")) == 1


def test_core_ml_is_made_from_the_program_where_the_config_says_so(planned: Planned) -> None:
    found = planned("{coreml-fp16: {via: exported_program}}")
    assert export_of(found, "coreml-fp16") == "export exported_program"
    assert found.step("convert coreml-fp16").toolchain.name == "coreml"
    assert not ids(found, "simplify")


def test_each_target_can_be_explained_by_the_onnx_of_its_source(planned: Planned) -> None:
    found = planned(SEVEN)
    spare = [step.id for step in found.spare]
    assert spare == [f"explain {name}" for name in found.targets]
    for name, ends in found.targets.items():
        step = found.step(ends.explain)
        assert step.inputs["exported"] == Output("simplify onnx opset 18")
        assert step.inputs["program"] == Output("export exported_program")
        assert step.inputs["verdict"] == Output(f"verify {name}")
        assert "onnxruntime" in step.toolchain.distributions


def test_what_only_explains_is_built_for_nothing_else(planned: Planned) -> None:
    found = planned("{coreml-fp16: {via: exported_program, layout: nhwc}}")
    assert [step.id for step in found.spare] == [
        "export onnx opset 18 nhwc",
        "simplify onnx opset 18 nhwc",
        "explain coreml-fp16",
    ]
    assert not any("explain" in step.id or "onnx" in step.id for step in found.steps)


def test_a_target_from_another_is_explained_by_that_one_s_opset(planned: Planned) -> None:
    found = planned("{onnx: {opset: 17}, onnx-int8: {from: onnx}, ort: {from: onnx}}")
    step = found.step("explain onnx-int8")
    assert step.inputs["exported"] == Output("simplify onnx opset 17")


@pytest.mark.parametrize(
    ("ort", "made_from", "model"),
    [
        ("{from: onnx-int8}", "onnx-int8", "quantize onnx-int8"),
        ("{}", "onnx", "simplify onnx opset 18"),
    ],
)
def test_what_shows_no_tensors_is_explained_by_what_it_is_made_from(
    planned: Planned, ort: str, made_from: str, model: str
) -> None:
    found = planned(f"{{onnx: {{}}, onnx-int8: {{from: onnx}}, ort: {ort}}}")
    step = found.step(found.targets["ort"].explain)
    assert step.options["instead"] == made_from
    assert step.inputs["model"] == Output(model)
    assert step.inputs["verdict"] == Output("verify ort")
    assert found.step("explain onnx-int8").options["instead"] == ""


def test_a_dtype_that_the_format_lacks_is_told_to_those_who_ask(planned: Planned) -> None:
    found = planned("{onnx: {}, coreml-fp16: {}}")
    for stage in ("verify", "package"):
        assert found.step(f"{stage} onnx").options["narrowed"] == {}
        assert found.step(f"{stage} coreml-fp16").options["narrowed"]["int64"] == "int32"


def test_tflite_targets_share_one_conversion(planned: Planned) -> None:
    found = planned("{tflite-fp32: {}, tflite-fp16: {}, tflite-int8: {}}")
    assert ids(found, "convert") == ["convert tflite-fp32"]


def test_equal_opsets_share_one_export(planned: Planned) -> None:
    found = planned("{onnx: {opset: 17}, onnx-fp16: {opset: 17}}")
    assert ids(found, "export") == ["export exported_program", "export onnx opset 17"]
    assert len(ids(found, "simplify")) == 1


def test_different_opsets_get_an_export_each(planned: Planned) -> None:
    found = planned("{onnx: {opset: 17}, onnx-fp16: {opset: 18}, tflite-fp32: {}}")
    assert ids(found, "export") == [
        "export exported_program",
        "export onnx opset 17",
        "export onnx opset 18",
    ]
    assert export_of(found, "onnx") == "export onnx opset 17"
    assert export_of(found, "tflite-fp32") == "export onnx opset 18"


def test_a_layout_of_its_own_gives_an_export_of_its_own(planned: Planned) -> None:
    found = planned("{onnx: {}, onnx-fp16: {layout: nhwc}}")
    assert export_of(found, "onnx") == "export onnx opset 18"
    assert export_of(found, "onnx-fp16") == "export onnx opset 18 nhwc"
    assert found.step("export onnx opset 18 nhwc").options["layout"] == "nhwc"
    for step in ("verify onnx-fp16", "package onnx-fp16"):
        assert found.step(step).options["layout"] == "nhwc"
    assert found.step("verify onnx").options["layout"] is None
    assert ids(found, "reference") == ["reference"]


def test_what_is_done_about_int8_is_told_where_numbers_become_smaller(planned: Planned) -> None:
    own = "{on_mismatch: fail, parity: {min_snr_db: 25, reason: a test}}"
    found = planned(f"{{onnx: {{}}, onnx-int8: {own}, tflite-fp32: {{}}, tflite-int8: {own}}}")
    for target in ("onnx-int8", "tflite-int8"):
        options = found.step(f"quantize {target}").options
        assert options["options"]["on_mismatch"] == "fail"
        assert options["parity"] == {"min_snr_db": 25.0, "reason": "a test"}
    # what is quantized is what the float targets ship, whatever is done about int8
    assert {"convert onnx-int8", "convert tflite-int8"}.isdisjoint(ids(found, "convert"))


def test_from_keeps_the_choice_of_what_to_do_about_int8(planned: Planned) -> None:
    found = planned("{onnx: {}, onnx-int8: {from: onnx, on_mismatch: fail}}")
    assert found.step("quantize onnx-int8").options["options"]["on_mismatch"] == "fail"


def test_whole_int8_keeps_nothing_in_float(planned: Planned) -> None:
    with pytest.raises(ConfigError, match=r"with 'io' every operator .* leave one of them out"):
        planned("{tflite-int8: {io: int8, on_mismatch: keep-float}}")
    found = planned("{tflite-int8: {io: int8, on_mismatch: fail}}")
    assert found.step("quantize tflite-int8").options["options"]["io"] == "int8"


def test_from_starts_where_the_other_target_ends(planned: Planned) -> None:
    found = planned("{onnx: {opset: 17}, onnx-int8: {from: onnx}}")
    assert found.step("quantize onnx-int8").inputs["model"] == Output("convert onnx")
    assert export_of(found, "onnx-int8") == "export onnx opset 17"


def test_from_another_format_converts_that_targets_result(planned: Planned) -> None:
    found = planned("{onnx: {}, tflite-int8: {from: onnx}}")
    assert found.step("convert tflite-int8").inputs["model"] == Output("convert onnx")
    assert found.step("quantize tflite-int8").inputs["model"] == Output("convert tflite-int8")


def test_from_takes_over_the_layout(planned: Planned) -> None:
    found = planned("{onnx: {layout: nhwc}, onnx-int8: {from: onnx}}")
    assert export_of(found, "onnx-int8") == "export onnx opset 18 nhwc"
    assert found.step("verify onnx-int8").options["layout"] == "nhwc"


def test_from_with_another_layout_is_refused(planned: Planned) -> None:
    with pytest.raises(ConfigError, match=r"targets\.onnx-int8\.layout: differs from that of 'onn"):
        planned("{onnx: {}, onnx-int8: {from: onnx, layout: nhwc}}")


def test_from_with_another_opset_is_refused(planned: Planned) -> None:
    with pytest.raises(ConfigError, match=r"targets\.onnx-int8\.opset: differs from that of 'onnx"):
        planned("{onnx: {opset: 18}, onnx-int8: {from: onnx, opset: 17}}")
    planned("{onnx: {opset: 17}, onnx-int8: {from: onnx, opset: 17}}")


def test_only_plans_what_the_named_targets_need(planned: Planned) -> None:
    found = planned(SEVEN, "tflite-int8")
    assert list(found.targets) == ["tflite-int8"]
    assert {step.id for step in found.steps} == above(found, "package tflite-int8")
    assert "convert onnx" not in {step.id for step in found.steps}


def test_only_plans_what_a_target_starts_from(planned: Planned) -> None:
    found = planned("{onnx: {}, onnx-int8: {from: onnx}}", "onnx-int8")
    assert list(found.targets) == ["onnx-int8"]
    assert ids(found, "convert") == ["convert onnx"]
    assert ids(found, "package") == ["package onnx-int8"]


def test_only_an_unknown_target_is_refused_with_those_there_are(planned: Planned) -> None:
    with pytest.raises(ConfigError) as caught:
        planned("{onnx: {}, tflite-fp32: {}}", "onxx")
    assert "config.yaml: no target 'onxx'" in caught.value.message
    assert caught.value.fix == "its targets are onnx, tflite-fp32"


def test_a_target_that_the_source_cannot_give_is_refused(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TARGETS["coreml-fp16"], "accepts", ("exported_program",))
    with pytest.raises(ConfigError, match=r"coreml-fp16: cannot be made from a onnx source"):
        planned("{onnx: {}, coreml-fp16: {}}", source="{onnx: net.onnx}")


def test_core_ml_starts_from_an_onnx_file(planned: Planned) -> None:
    found = planned("{coreml-fp16: {}}", source="{onnx: net.onnx}")
    assert ids(found, "export") == ["export onnx"]
    assert found.step("convert coreml-fp16").toolchain.name == "coreml-onnx"


def test_an_onnx_file_is_exported_in_its_own_opset(planned: Planned) -> None:
    found = planned("{tflite-fp32: {}}", source="{onnx: net.onnx}")
    assert ids(found, "export") == ["export onnx"]
    assert found.step("export onnx").options["opset"] is None


def test_source_files_are_inputs_of_what_reads_them(planned: Planned) -> None:
    found = planned(
        "{onnx: {}, onnx-int8: {}}", source="{torch: net.py:build, weights: weights.pt}"
    )
    for step in ("export exported_program", "reference", "package onnx"):
        inputs = found.step(step).inputs
        files = {
            key: source.path.name for key, source in inputs.items() if isinstance(source, File)
        }
        assert files == {"source.factory": "net.py", "source.weights": "weights.pt"}
    calibration = found.step("samples calibration").inputs
    assert {key: Path(str(source.path)).name for key, source in calibration.items()} == {  # type: ignore[union-attr]
        "samples": "data.py"
    }


def test_packages_state_the_tools_of_their_own_chain(planned: Planned) -> None:
    found = planned(SEVEN)
    torch = metadata.version("torch")
    tools = {name: found.step(f"package {name}").options["tools"] for name in found.targets}
    assert {entry["torch"] for entry in tools.values()} == {torch}
    assert "onnx2tf" in tools["tflite-int8"]
    assert "ai-edge-quantizer" in tools["tflite-int8"]
    assert "ai-edge-quantizer" not in tools["tflite-fp32"]
    assert not {"onnx2tf", "coremltools"} & tools["onnx"].keys()
    assert "coremltools" in tools["coreml-fp16"]


def test_tool_versions_pass_over_what_is_not_installed(tmp_path: Path) -> None:
    lock = tmp_path / "tool.lock"
    lock.write_text("tool==1.2 --hash=sha256:00\n")
    chain = Toolchain(name="x", distributions=("not-there-at-all",), overlay=lock)
    assert tool_versions([chain, CORE]) == {"numpy": metadata.version("numpy"), "tool": "1.2"}


def test_allow_unverified_is_known_to_the_gate(planned: Planned) -> None:
    found = planned("{onnx: {}, coreml-fp16: {allow_unverified: tested by hand}}")
    assert found.targets["coreml-fp16"].allow_unverified == "tested by hand"
    assert found.targets["onnx"].allow_unverified == ""


def test_a_plan_is_the_same_every_time(planned: Planned) -> None:
    assert planned(SEVEN) == planned(SEVEN)


PHOTOS = """
model: tiny
version: 1.0.0
source: {source}
inputs:
  image: {{shape: [batch, 3, 8, 8], dtype: float32, preprocess: {{crop: 8, scale: 1/255}}}}
samples: {{parity: photos, calibration: {calibration}}}
targets: {targets}
"""


@pytest.fixture
def with_photos(tmp_path: Path, planned: Planned) -> Planned:
    """The plan of a config whose samples are folders of images."""
    for name in ("photos", "more"):
        (tmp_path / name).mkdir()

    def one(targets: str, calibration: str = "more", source: str = "{torch: net.py:build}") -> Plan:
        path = tmp_path / "config.yaml"
        path.write_text(PHOTOS.format(source=source, targets=targets, calibration=calibration))
        return plan(load(path))

    return one


def test_a_folder_of_images_is_read_with_pillow(with_photos: Planned) -> None:
    found = with_photos("{onnx-int8: {}}")
    for purpose, folder in (("parity", "photos"), ("calibration", "more")):
        step = found.step(f"samples {purpose}")
        source = step.inputs["samples"]
        assert isinstance(source, File)
        assert source.path.name == folder
        assert "pillow" in step.toolchain.distributions
        assert step.options["preprocess"]["image"]["crop"] == (8, 8)
    assert found.step("samples parity").toolchain.warmth == CORE.warmth
    of_file = with_photos("{onnx: {}}", source="{onnx: net.onnx}").step("samples parity")
    assert of_file.toolchain.name == "onnx+images"


def test_a_quantizer_that_needs_no_samples_is_tried_on_real_ones(with_photos: Planned) -> None:
    step = "quantize onnx-int8-dynamic"
    tried = with_photos("{onnx-int8-dynamic: {}}").step(step)
    assert tried.inputs["samples"] == Output("samples calibration")
    drawn = with_photos("{onnx-int8-dynamic: {}}", calibration="synthetic").step(step)
    assert "samples" not in drawn.inputs


def test_calibration_knows_parity_to_be_told_from_it(with_photos: Planned) -> None:
    found = with_photos("{onnx-int8: {}}")
    assert found.step("samples calibration").inputs["parity"] == Output("samples parity")
    assert found.step("package onnx-int8").inputs["calibration"] == Output("samples calibration")


def test_a_conversion_that_is_tried_is_given_real_calibration_samples(
    with_photos: Planned,
) -> None:
    tried = with_photos("{coreml-fp16: {}, onnx-fp16: {}, onnx: {}}")
    for step in ("convert coreml-fp16", "quantize onnx-fp16"):
        assert tried.step(step).inputs["samples"] == Output("samples calibration")
    assert "samples" not in tried.step("convert onnx").inputs
    drawn = with_photos("{coreml-fp16: {}, onnx-fp16: {}}", "synthetic")
    for step in ("convert coreml-fp16", "quantize onnx-fp16"):
        assert "samples" not in drawn.step(step).inputs


def test_fp16_is_judged_before_it_is_rounded(planned: Planned) -> None:
    found = planned("{onnx: {}, onnx-fp16: {io: float16}}")
    assert ids(found, "convert") == ["convert onnx"]
    before = found.step("verify onnx-fp16").inputs["before"]
    assert isinstance(before, Output)
    assert found.step(before.step).inputs["model"] == Output("convert onnx")
    assert found.step(before.step).options["io"] is None
    assert found.step("quantize onnx-fp16").options["options"] == {
        "compute": "float16",
        "io": "float16",
        "on_mismatch": "keep-float",
    }


def test_synthetic_calibration_says_so_and_needs_no_file(with_photos: Planned) -> None:
    found = with_photos("{onnx-int8: {}, onnx: {}}", "synthetic")
    step = found.step("samples calibration synthetic")
    assert (step.inputs, step.options["samples"]) == ({}, "synthetic")
    assert found.step("package onnx-int8").inputs["calibration"] == Output(step.id)
    assert "calibration" not in found.step("package onnx").inputs


def test_a_folded_chain_is_a_chain_of_its_own_from_the_same_program(with_photos: Planned) -> None:
    found = with_photos("{onnx: {}, tflite-fp32: {preprocess: fold}}")
    assert ids(found, "export") == [
        "export exported_program",
        "export onnx opset 18",
        "export onnx opset 18 folded",
    ]
    assert ids(found, "reference") == ["reference", "reference folded"]
    assert found.step("export onnx opset 18 folded").inputs["program"] == Output(
        "export exported_program"
    )
    assert "reference" not in above(found, "package tflite-fp32")
    assert "reference folded" not in above(found, "package onnx")


def test_a_fold_leaves_the_arithmetic_to_the_model(with_photos: Planned) -> None:
    found = with_photos("{onnx: {}, tflite-int8: {preprocess: fold}}")
    for purpose in ("parity", "calibration"):
        step = found.step(f"samples {purpose} folded")
        assert step.options["preprocess"]["image"]["scale"] == 1.0
        assert step.options["source"]["fold"]["image"]["steps"]["scale"] == 1 / 255
    plain = found.step("package onnx").options["preprocessing"]["image"]
    assert (plain["scale"], plain["folded"]) == (1 / 255, None)
    folded = found.step("package tflite-int8").options["preprocessing"]["image"]
    assert (folded["scale"], folded["crop"]) == (1.0, (8, 8))
    assert folded["folded"] == {"color": "rgb", "scale": 1 / 255, "mean": (), "std": ()}


def test_what_is_said_of_a_model_goes_to_those_that_have_a_place_for_it(
    with_photos: Planned,
) -> None:
    found = with_photos("{onnx: {preprocess: fold}, coreml-fp16: {preprocess: fold}}")
    about = found.step("convert coreml-fp16").options["about"]
    assert (about["version"], about["labels"]) == ("1.0.0", [])
    assert about["preprocessing"]["image"]["folded"]["scale"] == 1 / 255
    assert "about" not in found.step("convert onnx").options
    for name in ("verify onnx", "verify coreml-fp16", "package coreml-fp16"):
        assert found.step(name).options["pixels"] == ["image"]
    plain = with_photos("{coreml-fp16: {}}")
    assert plain.step("verify coreml-fp16").options["pixels"] == []


def test_labels_change_nothing_but_what_tells_them(planned: Planned) -> None:
    targets = "{onnx: {}, tflite-int8: {}, coreml-fp16: {}, coreml-int8: {}}"
    plain, named = (
        {step.id: step for step in planned(f"{targets}{labels}").steps}
        for labels in ("", "\nlabels: [ant, bee]\nmetadata: {author: Ada}")
    )
    assert plain.keys() == named.keys()
    assert {name for name in plain if plain[name] != named[name]} == {
        *(f"package {name}" for name in ("onnx", "tflite-int8", "coreml-fp16", "coreml-int8")),
        *(f"{stage} coreml-{it}" for stage in ("convert", "verify") for it in ("fp16", "int8")),
        "verify before quantize coreml-int8",
    }


def test_from_takes_over_the_fold(with_photos: Planned) -> None:
    found = with_photos("{tflite-fp32: {preprocess: fold}, tflite-int8: {from: tflite-fp32}}")
    assert ids(found, "reference") == ["reference folded"]
    assert found.step("quantize tflite-int8").inputs["samples"] == Output(
        "samples calibration folded"
    )
    with pytest.raises(ConfigError, match=r"tflite-int8.preprocess: differs"):
        with_photos("{tflite-fp32: {}, tflite-int8: {from: tflite-fp32, preprocess: fold}}")


@pytest.mark.parametrize("source", ["{keras: net.py:build}", "{tensorflow: net.py:build}"])
def test_tflite_goes_straight_from_keras_unless_told_otherwise(
    planned: Planned, source: str
) -> None:
    straight = planned("{tflite-fp32: {}}", source=source)
    assert ids(straight, "export") == ["export saved_model"]
    assert straight.step("convert tflite-fp32").toolchain.name == "tflite-converter"
    around = planned("{tflite-fp32: {via: onnx}}", source=source)
    assert ids(around, "export") == ["export onnx opset 18"]
    assert around.step("convert tflite-fp32").toolchain.name == "onnx2tf"


def test_a_target_from_another_runs_where_that_ones_format_is_read(planned: Planned) -> None:
    made = planned("{onnx: {}, tflite-fp32: {from: onnx}}", source="{keras: net.py:build}")
    assert made.step("convert tflite-fp32").toolchain.name == "onnx2tf"


def test_a_torch_model_goes_by_onnx_to_tflite(planned: Planned) -> None:
    made = planned("{tflite-fp32: {}}")
    assert made.step("convert tflite-fp32").toolchain.name == "onnx2tf"


TASK = "\ntask: {samples: data.py:labelled, metric: %s, max_drop: 0.1}"


def test_a_task_is_scored_once_and_judged_by_every_target(planned: Planned) -> None:
    targets = "{onnx: {}, onnx-int8: {}, tflite-fp32: {layout: nhwc}}"
    plain, found = planned(targets), planned(targets + TASK % "top-1")
    assert {step.id for step in found.steps} - {step.id for step in plain.steps} == {
        "samples task",
        "score",
    }
    for name in ("onnx", "onnx-int8", "tflite-fp32"):
        step = found.step(f"verify {name}")
        assert step.inputs["scores"] == Output("score")
        assert step.options["task"]["max_drop"] == 0.1
        assert "task" not in plain.step(f"verify {name}").options
    calibration = found.step("samples calibration")
    assert calibration.inputs["labelled"] == Output("samples task")


def test_what_is_accepted_does_not_score_the_source_again(planned: Planned) -> None:
    one, other = (
        {step.id: step for step in planned("{onnx: {}}" + task).steps}
        for task in (TASK % "top-1", (TASK % "top-1").replace("0.1", "0.2"))
    )
    assert {name for name in one if one[name] != other[name]} == {"verify onnx"}


def test_a_metric_of_the_users_own_is_an_input(planned: Planned) -> None:
    found = planned("{onnx: {}}" + TASK % "data.py:samples")
    for name in ("score", "verify onnx"):
        metric = found.step(name).inputs["metric"]
        assert isinstance(metric, File)
        assert metric.path.name == "data.py"
