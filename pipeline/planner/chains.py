"""The steps of each target's chain: convert, quantize, verify, package, and what explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.graph import Input, Output, TargetSteps
from crosscast.pipeline.planner.asked import Asked
from crosscast.pipeline.planner.origin import Origin, onnx_toolchain
from crosscast.pipeline.planner.tools import tool_versions
from crosscast.pipeline.stages import reference_to
from crosscast.pipeline.toolchain import CORE, Toolchain
from crosscast.targets import TARGETS
from crosscast.targets.base import (
    computing,
    described,
    explaining,
    judged,
    narrowed,
    tapping,
    toolchains,
    tried,
    weighing,
)

if TYPE_CHECKING:
    from crosscast.targets.base import Kind, Target


def runtime_options(target: Target) -> dict[str, Any]:
    """What the stage `verify` is told of a target: where its functions are, and what its files can
    hold.
    """
    explain = explaining(target)
    return {
        "open": reference_to(target.open),
        "precision": reference_to(target.precision),
        "explain": reference_to(explain) if explain else "",
        "no_runtime": target.no_runtime,
        "narrowed": narrowed(target),
    }


def explainer(target: Target) -> Toolchain:
    """Where the stage `explain` runs: with the target's runtime and that of the float network."""
    own, network = target.runtime, onnx_toolchain()
    return replace(own, distributions=tuple(sorted({*own.distributions, *network.distributions})))


class Chains:
    """The chains of the targets that are made from one origin."""

    def __init__(self, config: Config, origin: Origin) -> None:
        self.config = config
        self.origin = origin
        self.steps = origin.steps
        self.asked = Asked(config)

    def target(self, name: str) -> TargetSteps:
        """Plan a target's whole chain; gives the ids of its ends."""
        export, model = self._model(name)
        verify = self._verify(name, model)
        return TargetSteps(
            verify=verify,
            package=self._package(name, export=export, model=model, verify=verify),
            allow_unverified=self.config.targets[name].allow_unverified,
        )

    def explain(self, name: str, verify: str) -> str:
        """Plan what says why a target has failed; gives its id, empty where nothing can."""
        judged_by = self.steps[verify]
        model, shown = judged_by.inputs["model"], name
        if tapping(TARGETS[name]) is None:
            model, shown = self._made_from(name, model)
        taps = tapping(TARGETS[shown]) if shown in TARGETS else None
        if taps is None or "onnx" not in self.origin.source.kinds:
            return ""
        export, exported = self._onnx(self.asked.first(name))
        program = self.steps[export].inputs.get("program")
        functions = (reference_to(TARGETS[shown].open), reference_to(taps))
        return self.steps.add(
            f"explain {name}",
            "explain",
            toolchain=explainer(TARGETS[shown]),
            options={
                "open": functions[0],
                "taps": functions[1],
                **{key: judged_by.options[key] for key in ("layout", "io", "narrowed")},
                "instead": "" if shown == name else shown,
            },
            inputs={
                "model": model,
                "reference": judged_by.inputs["reference"],
                "verdict": Output(verify),
                "exported": Output(exported),
                **({"program": program} if program else {}),
            },
            functions=functions,
        )

    def _made_from(self, name: str, model: Input) -> tuple[Input, str]:
        """What a target's model was converted from, and the target that such a model is of: none
        where it is no target's.
        """
        if TARGETS[name].quantizer is not None or not isinstance(model, Output):
            return model, ""
        start = self.config.targets[name].from_ or self._kind(name)
        return self.steps[model.step].inputs["model"], start

    def _model(self, name: str) -> tuple[str, str]:
        """The ids of the export that the target's model comes from and of the step that ends it."""
        start, target = self.config.targets[name].from_, TARGETS[name]
        if start is None:
            export, base = self._base(name)
            converted = self._converted(name, base, kind=self._kind(name))
            return export, self._quantized(name, converted)
        export, base = self._model(start)
        if target.quantizer and TARGETS[start].format == target.format:
            self.asked.refuse_unused(name)
            return export, self._quantized(name, base)
        converted = self._converted(name, base, kind=TARGETS[start].format)
        return export, self._quantized(name, converted)

    def _kind(self, name: str) -> Kind:
        """What the target's conversion starts from: what `via` says, else the best there is."""
        via = self.config.targets[name].via
        accepted = TARGETS[name].accepts if via is None else (via,)
        return self.origin.serves(accepted, target=name)

    def _base(self, name: str) -> tuple[str, str]:
        """The export and the step whose tree the target's conversion starts from."""
        kind = self._kind(name)
        if kind == "onnx":
            return self._onnx(name)
        export = self.origin.export(kind, opset=None, layout=self.asked.layout(name))
        return export, export

    def _onnx(self, name: str) -> tuple[str, str]:
        """The export to ONNX that suits a target, and the step that simplifies it."""
        options = self.asked.options(name)
        opset = options.get("opset", self.asked.default_opset())
        return self.origin.onnx(opset=opset, layout=self.asked.layout(name))

    def _converted(self, name: str, base: str, *, kind: Kind) -> str:
        target, options = TARGETS[name], self.asked.options(name)
        if target.quantizer is None:
            options |= self.asked.finishing(name)
        function = reference_to(target.convert)
        return self.steps.add(
            f"convert {name}",
            "convert",
            toolchain=toolchains(target)[kind],
            options={
                "function": function,
                "options": options,
                **({"about": self.origin.about()} if described(target) else {}),
            },
            inputs={
                "model": Output(base),
                **(self._calibration(name) if tried(target) and self._is_real() else {}),
            },
            functions=(function,),
        )

    def _quantized(self, name: str, model: str) -> str:
        target, settings = TARGETS[name], self.config.targets[name]
        if target.quantizer is None:
            return model
        sampled = target.calibrated or (target.calibrated is None and self._is_real())
        function = reference_to(target.quantize)
        return self.steps.add(
            f"quantize {name}",
            "quantize",
            toolchain=target.quantizer,
            options={
                "function": function,
                "options": settings.quantize_options() | self.asked.finishing(name),
                **({"parity": settings.parity_options()} if judged(target) else {}),
            },
            inputs={"model": Output(model), **(self._calibration(name) if sampled else {})},
            functions=(function,),
        )

    def _is_real(self) -> bool:
        return self.asked.calibrates_on_real()

    def _calibration(self, name: str) -> dict[str, Input]:
        layout = self.asked.layout(name)
        return {"samples": Output(self.origin.samples("calibration", layout=layout))}

    def _verify(self, name: str, model: str) -> str:
        """The step that judges the artifact; what is quantized is judged before that as well."""
        reference = Output(self.origin.reference())
        inputs: dict[str, Input] = {"model": Output(model), "reference": reference}
        task, labelled = self.origin.task()
        weights = None
        if self.steps[model].stage == "quantize":
            floats = self.steps[model].inputs["model"]
            inputs["before"] = Output(self._before(name, {**inputs, "model": floats}))
            weights = weighing(TARGETS[name])
            inputs |= {"floats": floats} if weights else {}
        return self._verdict(
            f"verify {name}",
            name,
            inputs={**inputs, **labelled},
            precision_asked=self.asked.precision(name),
            io=self.asked.io(name),
            parity=self.config.targets[name].parity_options(),
            **({"weights": reference_to(weights)} if weights else {}),
            **task,
        )

    def _before(self, name: str, inputs: Mapping[str, Input]) -> str:
        """The step that judges what a target is quantized from."""
        start = self.config.targets[name].from_
        return self._verdict(
            f"verify before quantize {name}",
            name,
            inputs=inputs,
            precision_asked="",
            io=self.asked.io(start) if start else None,
            computes=computing(TARGETS[name]),
            parity={},
        )

    def _verdict(self, step: str, name: str, *, inputs: Mapping[str, Input], **options: Any) -> str:
        target = TARGETS[name]
        return self.steps.add(
            step,
            "verify",
            toolchain=target.runtime,
            options={
                **runtime_options(target),
                "layout": self.asked.layout(name),
                "pixels": self.origin.pixels(),
                "labels": (self.config.labels or []) if described(target) else [],
                **options,
            },
            inputs=inputs,
            functions=(
                reference_to(target.open),
                reference_to(target.precision),
                *([options["weights"]] if "weights" in options else []),
            ),
        )

    def _package(self, name: str, *, export: str, model: str, verify: str) -> str:
        chain = [self.steps[step] for step in self.steps.above(model, verify)]
        calibrated = [step.id for step in chain if step.options.get("purpose") == "calibration"]
        usage = reference_to(TARGETS[name].usage)
        return self.steps.add(
            f"package {name}",
            "package",
            toolchain=CORE,
            options={
                **self._described(name),
                "usage": usage,
                "tools": tool_versions([step.toolchain for step in chain]),
            },
            inputs={
                **self.origin.files(),
                "model": Output(model),
                "reference": Output(self.origin.reference()),
                "verdict": Output(verify),
                "export": Output(export),
                **({"calibration": Output(calibrated[0])} if calibrated else {}),
            },
            functions=(usage,),
        )

    def _described(self, name: str) -> dict[str, Any]:
        """What the manifest says that the config decides."""
        target, settings = TARGETS[name], self.config.targets[name]
        return {
            "model": self.config.model,
            "version": self.config.version,
            "target": name,
            "format": target.format,
            "layout": self.asked.layout(name),
            "io": self.asked.io(name),
            "narrowed": narrowed(target),
            "pixels": self.origin.pixels(),
            "labels": self.config.labels,
            "metadata": self.config.metadata.model_dump(),
            "source": self.origin.kind,
            "allow_unverified": settings.allow_unverified,
            "preprocessing": self.origin.preprocessing(),
            "options": settings.options() | {"quantize": settings.quantize_options()},
        }
