"""The steps about a source, whatever the targets: exports, samples, reference, scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.config.fields import sample_file
from crosscast.pipeline.config.schema import SYNTHETIC, Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.graph import File, Input, Output
from crosscast.pipeline.planner.steps import Steps
from crosscast.pipeline.sources import SOURCES, open_source
from crosscast.pipeline.toolchain import CORE, Toolchain, with_images

if TYPE_CHECKING:
    from crosscast.targets.base import Kind

ARITHMETIC = ("color", "scale", "mean", "std")
"""The keys of a preprocessing that `fold` brings into the graph."""


class Origin:
    """What a config's targets are made from and compared with.

    plain: the source without its preprocessing, where this one has it folded in.
    """

    def __init__(self, config: Config, steps: Steps, *, plain: Origin | None = None) -> None:
        self.config = config
        self.steps = steps
        self.plain = plain
        self.options: dict[str, Any] = config.source.to_source()
        if plain is not None:
            self.options["fold"] = _fold(config)
        self.source = open_source(self.options)
        # Stages find the source by name, which an import scan of their code does not see.
        self._code = (f"{SOURCES[self.kind]}:load",)
        self._signature = config.signature().to_json()
        self._mark = [] if plain is None else ["folded"]

    @property
    def kind(self) -> str:
        """The key of the config's `source`, such as torch."""
        return str(self.options["kind"])

    def serves(self, accepted: tuple[Kind, ...], *, target: str) -> Kind:
        """The first of these kinds that the source exports; raises ConfigError for none."""
        kind = next((kind for kind in accepted if kind in self.source.kinds), None)
        if kind is None:
            folded = " with its preprocessing folded in" if self.plain else ""
            raise ConfigError(
                f"{self.config.path}: targets.{target}: cannot be made from a "
                f"{self.kind} source{folded}",
                fix=f"it starts from {' or '.join(accepted)}; remove the target",
            )
        return kind

    def export(self, kind: Kind, *, opset: int | None, layout: str | None) -> str:
        """The id of the step that exports the source to this kind."""
        inputs = self.files()
        bare = self.plain or self
        if kind == "onnx" and "exported_program" in bare.source.kinds:
            own = None if self.plain else layout
            inputs["program"] = Output(bare.export("exported_program", opset=None, layout=own))
        details = [*([f"opset {opset}"] if opset else []), *([layout] if layout else [])]
        return self.steps.add(
            " ".join(["export", kind, *details, *self._mark]),
            "export",
            toolchain=self.source.toolchain,
            options={**self._choices(), "to": kind, "opset": opset, "layout": layout},
            inputs=inputs,
            functions=self._code,
        )

    def onnx(self, *, opset: int | None, layout: str | None) -> tuple[str, str]:
        """The ids of the export to ONNX and of the step that simplifies it."""
        export = self.export("onnx", opset=opset, layout=layout)
        simplified = self.steps.add(
            f"simplify {export.removeprefix('export ')}",
            "simplify",
            toolchain=onnx_toolchain(),
            inputs={"model": Output(export)},
        )
        return export, simplified

    def samples(self, purpose: str, *, layout: str | None = None) -> str:
        """The id of the step that reads or draws the samples of "parity", "calibration", "task"."""
        task = self.config.task
        own = task.samples if task and purpose == "task" else None
        spec = own or getattr(self.config.samples, purpose)
        drawn = spec == SYNTHETIC
        is_folder = spec is not None and not drawn and Path(spec).is_dir()
        inputs = self.files() if self._asks_file() else {}
        if spec and not drawn:
            inputs["samples"] = File(Path(spec if is_folder else sample_file(spec)))
        if purpose == "calibration" and not drawn:
            inputs |= self._disjoint()
        toolchain = self.source.toolchain if self._asks_file() else CORE
        details = [*(["synthetic"] if drawn else []), *([layout] if layout else []), *self._mark]
        return self.steps.add(
            " ".join(["samples", purpose, *details]),
            "samples",
            toolchain=with_images(toolchain) if is_folder else toolchain,
            options={
                "source": self.options,
                "signature": self._signature,
                "samples": spec,
                "purpose": purpose,
                "layout": layout,
                "preprocess": self._preprocess() if is_folder else {},
            },
            inputs=inputs,
            functions=self._code,
        )

    def _asks_file(self) -> bool:
        """Whether the inputs are looked up in the model's own file."""
        source = self.config.source
        return not source.asks_inputs(getattr(source, self.kind))

    def _disjoint(self) -> dict[str, Input]:
        """What no calibration sample may be in."""
        inputs: dict[str, Input] = {}
        if self.config.samples.parity:
            inputs["parity"] = Output(self.samples("parity"))
        if self.config.task:
            inputs["labelled"] = Output(self.samples("task"))
        return inputs

    def reference(self) -> str:
        """The id of the step that runs the source on the parity samples."""
        return self.steps.add(
            " ".join(["reference", *self._mark]),
            "reference",
            toolchain=self.source.toolchain,
            options=self._choices(),
            inputs={**self.files(), "samples": Output(self.samples("parity"))},
            functions=self._code,
        )

    def task(self) -> tuple[dict[str, Any], dict[str, Input]]:
        """The options and inputs that the task adds to `verify`; empty where there is none."""
        task = self.config.task
        if task is None:
            return {}, {}
        scored = {"metric": task.metric, "output": task.output, "classes": self.config.labels or []}
        own = sample_file(task.metric)
        inputs: dict[str, Input] = {"labelled": Output(self.samples("task"))}
        inputs |= {"metric": File(Path(own))} if own != task.metric else {}
        scores = self.steps.add(
            " ".join(["score", *self._mark]),
            "score",
            toolchain=self.source.toolchain,
            options={**self._choices(), "task": scored},
            inputs={**self.files(), **inputs},
            functions=self._code,
        )
        accepted = {"max_drop": task.max_drop, "confidence": task.confidence}
        return {"task": scored | accepted}, inputs | {"scores": Output(scores)}

    def preprocessing(self) -> dict[str, Any]:
        """What the manifest says of it: what is left to do, and what the graph does, by input."""
        folded = {
            name: {key: entry for key, entry in steps.to_json().items() if key in ARITHMETIC}
            for name, steps in self.config.preprocessing().items()
        }
        return {
            name: {**entry, "folded": folded[name] if self.plain else None}
            for name, entry in self._preprocess().items()
        }

    def _preprocess(self) -> dict[str, Any]:
        """What is left to do outside of the model, by input."""
        return {
            name: (steps.outside() if self.plain else steps).to_json()
            for name, steps in self.config.preprocessing().items()
        }

    def pixels(self) -> list[str]:
        """The inputs that are images as they are decoded."""
        return list(self.config.preprocessing()) if self.plain else []

    def about(self) -> dict[str, Any]:
        """What the config says of the model, for formats that have a place for it."""
        return {
            "version": self.config.version,
            "metadata": self.config.metadata.model_dump(),
            "labels": self.config.labels or [],
            "preprocessing": self.preprocessing(),
        }

    def files(self) -> dict[str, Input]:
        """The source's own files, as a step's inputs."""
        files = self.source.files(self.options)
        return {f"source.{name}": File(path) for name, path in files.items()}

    def _choices(self) -> dict[str, Any]:
        return {
            "source": self.options,
            "signature": self._signature,
            "outputs": self.config.outputs,
        }


def onnx_toolchain() -> Toolchain:
    """What reads and runs ONNX, imported late: the module of a target."""
    from crosscast.targets.families.onnx import ONNX

    return ONNX


def _fold(config: Config) -> dict[str, Any]:
    """The source option `fold`: for every input with a declared preprocessing."""
    from crosscast.pipeline.sources.fold import Folded

    declared = {tensor.name: tensor for tensor in config.signature().inputs}
    return {
        name: Folded.of(declared[name], steps).to_json()
        for name, steps in config.preprocessing().items()
    }
