"""Config -> Plan. Equal steps, whoever asks for them, become one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline import graph
from crosscast.pipeline.config.fields import sample_file
from crosscast.pipeline.config.schema import SYNTHETIC, Config, TargetConfig
from crosscast.pipeline.digest import canonical
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.fingerprint import installed_version, locked_versions
from crosscast.pipeline.graph import GIB, File, Input, Output, Plan, Step, TargetSteps
from crosscast.pipeline.sources import SOURCES, open_source
from crosscast.pipeline.stages import STAGES, reference_to
from crosscast.pipeline.toolchain import CORE, Toolchain, with_images
from crosscast.targets import TARGETS
from crosscast.targets.base import (
    computing,
    described,
    explaining,
    finishing,
    judged,
    narrowed,
    tapping,
    toolchains,
    tried,
)

if TYPE_CHECKING:
    from crosscast.targets.base import Kind, Target

ARITHMETIC = ("color", "scale", "mean", "std")
"""The keys of a preprocessing that `fold` brings into the graph."""

DEFAULT_OPSET = 18
"""What torch's exporter writes without converting, and what every converter here reads."""

MEMORY = {"export": 2 * GIB, "convert": GIB, "quantize": GIB, "reference": GIB, "score": GIB}
"""First estimates of a step's peak; what was learnt from earlier runs takes their place."""


def plan(config: Config, *, only: Collection[str] = ()) -> Plan:
    """The steps that build, prove and package the config's targets (or those in `only`).

    Raises ConfigError for a target in `only` that the config does not have, and for a target
    that cannot be made from the source's framework.
    """
    unknown = sorted(set(only) - set(config.targets))
    if unknown:
        raise ConfigError(
            f"{config.path}: no target '{unknown[0]}'",
            fix=f"its targets are {', '.join(config.targets)}",
        )
    builder = _Builder(config)
    folding = _Builder(config, plain=builder) if config.preprocessing() else builder
    names = [name for name in config.targets if not only or name in only]
    builders = {name: folding if builder.folds(name) else builder for name in names}
    ends = {name: builders[name].target(name) for name in names}
    steps = graph.ordered(builder.steps)
    explained = {
        name: replace(ends[name], explain=builders[name].explain(name, ends[name].verify))
        for name in names
    }
    every = graph.ordered(builder.steps)
    return Plan(
        model=config.model,
        version=config.version,
        steps=steps,
        targets=explained,
        spare=tuple(step for step in every if step not in steps),
    )


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
    own, network = target.runtime, _onnx_toolchain()
    return replace(own, distributions=tuple(sorted({*own.distributions, *network.distributions})))


class _Builder:
    """Collects the steps of one config.

    plain: the builder that this one adds its steps to, for the targets whose preprocessing is
        folded in: these have a source of their own.
    """

    def __init__(self, config: Config, *, plain: _Builder | None = None) -> None:
        self.config = config
        self.plain = plain
        self.steps: dict[str, Step] = {} if plain is None else plain.steps
        self.source_options: dict[str, Any] = config.source.to_source()
        if plain is not None:
            self.source_options["fold"] = _fold(config)
        self.source = open_source(self.source_options)
        # Stages find the source by name, which an import scan of their code does not see.
        self.source_code = (f"{SOURCES[self.source_options['kind']]}:load",)
        self.signature = config.signature().to_json()
        self._ids: dict[str, str] = {} if plain is None else plain._ids
        self._mark = [] if plain is None else ["folded"]

    def target(self, name: str) -> TargetSteps:
        """Plan a target's whole chain; gives the ids of its ends."""
        settings = self.config.targets[name]
        target = TARGETS[name]
        export, model = self.model(name)
        verify = self._verify(name, settings, model)
        package = self._package(name, target, settings, export=export, model=model, verify=verify)
        return TargetSteps(
            verify=verify, package=package, allow_unverified=settings.allow_unverified
        )

    def model(self, name: str) -> tuple[str, str]:
        """The ids of the export that the target's model comes from and of the step that ends it."""
        settings, target = self.config.targets[name], TARGETS[name]
        if settings.from_:
            export, base = self.model(settings.from_)
            if target.quantizer and TARGETS[settings.from_].format == target.format:
                self._refuse_unused(name, settings)
                return export, self._quantized(name, target, settings, base)
        else:
            export, base = self._base(name, target)
        kind = TARGETS[settings.from_].format if settings.from_ else self._kind(name, target)
        options = self._options(name)
        if target.quantizer is None:
            options |= self._finishing(name)
        converted = self._add(
            f"convert {name}",
            "convert",
            toolchain=toolchains(target)[kind],
            options={
                "function": reference_to(target.convert),
                "options": options,
                **({"about": self._about()} if described(target) else {}),
            },
            inputs={"model": Output(base), **self._trial(name, target)},
            functions=(reference_to(target.convert),),
        )
        return export, self._quantized(name, target, settings, converted)

    def _refuse_unused(self, name: str, settings: TargetConfig) -> None:
        """Raise ConfigError for an option of a conversion that `from` takes the place of."""
        own = settings.options()
        theirs = self.config.targets[str(settings.from_)].options()
        for key in own.keys() - set(finishing(TARGETS[name])):
            if key in settings.model_fields_set and own[key] != theirs.get(key):
                raise self._differs(name, key)

    def _quantized(self, name: str, target: Target, settings: TargetConfig, model: str) -> str:
        if target.quantizer is None:
            return model
        inputs: dict[str, Input] = {"model": Output(model)}
        if target.calibrated or (target.calibrated is None and self._has_real()):
            inputs["samples"] = Output(self._samples("calibration", layout=self._layout(name)))
        function = reference_to(target.quantize)
        return self._add(
            f"quantize {name}",
            "quantize",
            toolchain=target.quantizer,
            options={
                "function": function,
                "options": settings.quantize_options() | self._finishing(name),
                **({"parity": settings.parity_options()} if judged(target) else {}),
            },
            inputs=inputs,
            functions=(function,),
        )

    def _has_real(self) -> bool:
        return self.config.samples.calibration not in (None, SYNTHETIC)

    def _trial(self, name: str, target: Target) -> dict[str, Input]:
        """The real calibration samples, where there are any and the conversion tries its work."""
        if not self._has_real() or not tried(target):
            return {}
        return {"samples": Output(self._samples("calibration", layout=self._layout(name)))}

    def _kind(self, name: str, target: Target) -> Kind:
        """What the target's conversion starts from: what `via` says, else the best there is."""
        via = self.config.targets[name].via
        accepted = target.accepts if via is None else (via,)
        kind = next((kind for kind in accepted if kind in self.source.kinds), None)
        if kind is None:
            folded = " with its preprocessing folded in" if self.plain else ""
            raise ConfigError(
                f"{self.config.path}: targets.{name}: cannot be made from a "
                f"{self.source_options['kind']} source{folded}",
                fix=f"it starts from {' or '.join(accepted)}; remove the target",
            )
        return kind

    def _base(self, name: str, target: Target) -> tuple[str, str]:
        """The export and the step whose tree the target's conversion starts from."""
        kind = self._kind(name, target)
        if kind == "onnx":
            return self._onnx(name)
        export = self._export(kind, opset=None, layout=self._layout(name))
        return export, export

    def _onnx(self, name: str) -> tuple[str, str]:
        """The export to ONNX that suits a target, and the step that simplifies it."""
        opset = self._options(name).get("opset", self._default_opset())
        export = self._export("onnx", opset=opset, layout=self._layout(name))
        simplified = self._add(
            f"simplify {export.removeprefix('export ')}",
            "simplify",
            toolchain=_onnx_toolchain(),
            inputs={"model": Output(export)},
        )
        return export, simplified

    def explain(self, name: str, verify: str) -> str:
        """Plan what says why a target has failed; gives its id, empty where nothing can."""
        model, shown = self.steps[verify].inputs["model"], name
        if tapping(TARGETS[name]) is None:
            model, shown = self._made_from(name, model)
        taps = tapping(TARGETS[shown]) if shown in TARGETS else None
        if taps is None or "onnx" not in self.source.kinds:
            return ""
        export, exported = self._onnx(self._first(name))
        program = self.steps[export].inputs.get("program")
        options = self.steps[verify].options
        functions = (reference_to(TARGETS[shown].open), reference_to(taps))
        return self._add(
            f"explain {name}",
            "explain",
            toolchain=explainer(TARGETS[shown]),
            options={
                "open": functions[0],
                "taps": functions[1],
                **{key: options[key] for key in ("layout", "io", "narrowed")},
                "instead": "" if shown == name else shown,
            },
            inputs={
                "model": model,
                "reference": self.steps[verify].inputs["reference"],
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
        settings, target = self.config.targets[name], TARGETS[name]
        if target.quantizer is not None or not isinstance(model, Output):
            return model, ""
        return self.steps[model.step].inputs["model"], settings.from_ or self._kind(name, target)

    def _first(self, name: str) -> str:
        """The target that a target's chain starts from."""
        start = self.config.targets[name].from_
        return self._first(start) if start else name

    def _options(self, name: str) -> dict[str, Any]:
        """The target's own options, with the opset that it gets where it names none, but for
        those for the step that ends the chain.
        """
        options = self.config.targets[name].options()
        for key in finishing(TARGETS[name]):
            options.pop(key, None)
        if "opset" in options and options["opset"] is None:
            options["opset"] = self._default_opset()
        return options

    def _finishing(self, name: str) -> dict[str, str]:
        """The options for the step that ends the chain, where the target sets them."""
        options = self.config.targets[name].options()
        return {
            key: options[key] for key in finishing(TARGETS[name]) if options.get(key) is not None
        }

    def _io(self, name: str) -> str | None:
        """The dtype of the artifact's float inputs and outputs; None for the source's own."""
        start = self.config.targets[name].from_
        inherited = self._io(start) if start else None
        return self.config.targets[name].options().get("io") or inherited

    def _layout(self, name: str) -> str | None:
        """The layout a target asks for, or that of the target it starts from."""
        settings = self.config.targets[name]
        if settings.from_ and settings.layout is None:
            return self._layout(settings.from_)
        if settings.from_ and settings.layout != self._layout(settings.from_):
            raise self._differs(name, "layout")
        return settings.layout

    def folds(self, name: str) -> bool:
        """Whether the preprocessing is in the target's graph, or in that which it starts from."""
        settings = self.config.targets[name]
        if settings.from_ is None:
            return settings.preprocess == "fold"
        folded = self.folds(settings.from_)
        if settings.preprocess == "fold" and not folded:
            raise self._differs(name, "preprocess")
        return folded

    def _differs(self, name: str, key: str) -> ConfigError:
        start = self.config.targets[name].from_
        return ConfigError(
            f"{self.config.path}: targets.{name}.{key}: "
            f"differs from that of '{start}', which it starts from",
            fix=f"remove `from: {start}`, or set the same {key} in both",
        )

    def _default_opset(self) -> int | None:
        return None if self.source_options["kind"] == "onnx" else DEFAULT_OPSET

    def _export(self, kind: Kind, *, opset: int | None, layout: str | None) -> str:
        inputs = self._source_files()
        bare = self.plain or self
        if kind == "onnx" and "exported_program" in bare.source.kinds:
            own = None if self.plain else layout
            inputs["program"] = Output(bare._export("exported_program", opset=None, layout=own))
        details = [*([f"opset {opset}"] if opset else []), *([layout] if layout else [])]
        name = " ".join(["export", kind, *details, *self._mark])
        options = {
            **self._source_choices(),
            "to": kind,
            "opset": opset,
            "layout": layout,
        }
        return self._add(
            name,
            "export",
            toolchain=self.source.toolchain,
            options=options,
            inputs=inputs,
            functions=self.source_code,
        )

    def _samples(self, purpose: str, *, layout: str | None = None) -> str:
        task = self.config.task
        own = task.samples if task and purpose == "task" else None
        spec = own or getattr(self.config.samples, purpose)
        source = self.config.source
        asks_file = not source.asks_inputs(getattr(source, self.source_options["kind"]))
        inputs = self._source_files() if asks_file else {}
        drawn = spec == SYNTHETIC
        is_folder = spec is not None and not drawn and Path(spec).is_dir()
        if spec and not drawn:
            inputs["samples"] = File(Path(spec if is_folder else sample_file(spec)))
        if purpose == "calibration" and not drawn and self.config.samples.parity:
            inputs["parity"] = Output(self._samples("parity"))
        if purpose == "calibration" and not drawn and task:
            inputs["labelled"] = Output(self._samples("task"))
        toolchain = self.source.toolchain if asks_file else CORE
        details = [*(["synthetic"] if drawn else []), *([layout] if layout else []), *self._mark]
        return self._add(
            " ".join(["samples", purpose, *details]),
            "samples",
            toolchain=with_images(toolchain) if is_folder else toolchain,
            options={
                "source": self.source_options,
                "signature": self.signature,
                "samples": spec,
                "purpose": purpose,
                "layout": layout,
                "preprocess": self._preprocess() if is_folder else {},
            },
            inputs=inputs,
            functions=self.source_code,
        )

    def _preprocess(self) -> dict[str, Any]:
        """What is left to do outside of the model, by input."""
        return {
            name: (steps.outside() if self.plain else steps).to_json()
            for name, steps in self.config.preprocessing().items()
        }

    def _preprocessing(self) -> dict[str, Any]:
        """What the manifest says of it: what is left to do, and what the graph does, by input."""
        folded = {
            name: {key: entry for key, entry in steps.to_json().items() if key in ARITHMETIC}
            for name, steps in self.config.preprocessing().items()
        }
        return {
            name: {**entry, "folded": folded[name] if self.plain else None}
            for name, entry in self._preprocess().items()
        }

    def _pixels(self) -> list[str]:
        """The inputs that are images as they are decoded."""
        return list(self.config.preprocessing()) if self.plain else []

    def _about(self) -> dict[str, Any]:
        """What the config says of the model, for formats that have a place for it."""
        return {
            "version": self.config.version,
            "metadata": self.config.metadata.model_dump(),
            "labels": self.config.labels or [],
            "preprocessing": self._preprocessing(),
        }

    def _reference(self) -> str:
        return self._add(
            " ".join(["reference", *self._mark]),
            "reference",
            toolchain=self.source.toolchain,
            options=self._source_choices(),
            inputs={**self._source_files(), "samples": Output(self._samples("parity"))},
            functions=self.source_code,
        )

    def _task(self) -> tuple[dict[str, Any], dict[str, Input]]:
        """The options and inputs that the task adds to `verify`; empty where there is none."""
        task = self.config.task
        if task is None:
            return {}, {}
        scored = {"metric": task.metric, "output": task.output, "classes": self.config.labels or []}
        own = sample_file(task.metric)
        inputs: dict[str, Input] = {"labelled": Output(self._samples("task"))}
        inputs |= {"metric": File(Path(own))} if own != task.metric else {}
        scores = self._add(
            " ".join(["score", *self._mark]),
            "score",
            toolchain=self.source.toolchain,
            options={**self._source_choices(), "task": scored},
            inputs={**self._source_files(), **inputs},
            functions=self.source_code,
        )
        accepted = {"max_drop": task.max_drop, "confidence": task.confidence}
        return {"task": scored | accepted}, inputs | {"scores": Output(scores)}

    def _precision_asked(self, name: str) -> str:
        """What the audit must find: the target's own precision, or that of what it starts from."""
        own, start = TARGETS[name].precision_asked, self.config.targets[name].from_
        if own is not None:
            return own
        return self._precision_asked(start) if start else "fp32"

    def _verify(self, name: str, settings: TargetConfig, model: str) -> str:
        """The step that judges the artifact; what is quantized is judged before that as well."""
        quantized = self.steps[model].stage == "quantize"
        inputs: dict[str, Input] = {"model": Output(model), "reference": Output(self._reference())}
        task, labelled = self._task()
        if quantized:
            before = self._verdict(
                f"verify before quantize {name}",
                name,
                inputs={**inputs, "model": self.steps[model].inputs["model"]},
                precision_asked="",
                io=self._io(settings.from_) if settings.from_ else None,
                computes=computing(TARGETS[name]),
                parity={},
            )
            inputs["before"] = Output(before)
        return self._verdict(
            f"verify {name}",
            name,
            inputs={**inputs, **labelled},
            precision_asked=self._precision_asked(name),
            io=self._io(name),
            parity=settings.parity_options(),
            **task,
        )

    def _verdict(self, step: str, name: str, *, inputs: Mapping[str, Input], **options: Any) -> str:
        target = TARGETS[name]
        return self._add(
            step,
            "verify",
            toolchain=target.runtime,
            options={
                **runtime_options(target),
                "layout": self._layout(name),
                "pixels": self._pixels(),
                "labels": (self.config.labels or []) if described(target) else [],
                **options,
            },
            inputs=inputs,
            functions=(reference_to(target.open), reference_to(target.precision)),
        )

    def _package(
        self,
        name: str,
        target: Target,
        settings: TargetConfig,
        *,
        export: str,
        model: str,
        verify: str,
    ) -> str:
        usage = reference_to(target.usage)
        chain = [self.steps[step] for step in self._chain(model, verify)]
        calibrated = [step.id for step in chain if step.options.get("purpose") == "calibration"]
        return self._add(
            f"package {name}",
            "package",
            toolchain=CORE,
            options={
                "usage": usage,
                "model": self.config.model,
                "version": self.config.version,
                "target": name,
                "format": target.format,
                "layout": self._layout(name),
                "io": self._io(name),
                "narrowed": narrowed(target),
                "pixels": self._pixels(),
                "labels": self.config.labels,
                "metadata": self.config.metadata.model_dump(),
                "source": self.source_options["kind"],
                "allow_unverified": settings.allow_unverified,
                "preprocessing": self._preprocessing(),
                "options": settings.options() | {"quantize": settings.quantize_options()},
                "tools": tool_versions([step.toolchain for step in chain]),
            },
            inputs={
                **self._source_files(),
                "model": Output(model),
                "reference": Output(self._reference()),
                "verdict": Output(verify),
                "export": Output(export),
                **({"calibration": Output(calibrated[0])} if calibrated else {}),
            },
            functions=(usage,),
        )

    def _chain(self, *ends: str) -> list[str]:
        """The ids of `ends` and of all that they need."""
        found: dict[str, None] = {}
        waiting = list(ends)
        while waiting:
            step = waiting.pop()
            if step not in found:
                found[step] = None
                waiting.extend(self.steps[step].upstream())
        return list(found)

    def _source_choices(self) -> dict[str, Any]:
        return {
            "source": self.source_options,
            "signature": self.signature,
            "outputs": self.config.outputs,
        }

    def _source_files(self) -> dict[str, Input]:
        files = self.source.files(self.source_options)
        return {f"source.{name}": File(path) for name, path in files.items()}

    def _add(
        self,
        name: str,
        stage: str,
        *,
        toolchain: Toolchain,
        options: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Input] | None = None,
        functions: tuple[str, ...] = (),
    ) -> str:
        """The id of the step that does this: an equal one that is there already, or a new one."""
        options, inputs = options or {}, inputs or {}
        sources = {key: str(source) for key, source in inputs.items()}
        content = canonical([stage, toolchain.name, options, sources])
        if content not in self._ids:
            self._ids[content] = name
            self.steps[name] = Step(
                id=name,
                stage=stage,
                module=STAGES[stage],
                toolchain=toolchain,
                options=options,
                inputs=inputs,
                functions=functions,
                memory=MEMORY.get(stage, GIB // 2),
            )
        return self._ids[content]


def tool_versions(toolchains: Collection[Toolchain]) -> dict[str, str]:
    """Versions of the distributions that these toolchains use and that are installed."""
    versions: dict[str, str] = {}
    for toolchain in dict.fromkeys(toolchains):
        found = {name: installed_version(name) for name in toolchain.distributions}
        versions |= {name: version for name, version in found.items() if version}
        if toolchain.overlay:
            versions |= locked_versions(toolchain.overlay)
    return dict(sorted(versions.items()))


def _fold(config: Config) -> dict[str, Any]:
    """The source option `fold`: for every input with a declared preprocessing."""
    from crosscast.pipeline.sources.fold import Folded

    declared = {tensor.name: tensor for tensor in config.signature().inputs}
    return {
        name: Folded.of(declared[name], steps).to_json()
        for name, steps in config.preprocessing().items()
    }


def _onnx_toolchain() -> Toolchain:
    from crosscast.targets.families.onnx import ONNX

    return ONNX
