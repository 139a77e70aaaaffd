"""What a config asks of its targets, each with what it takes over from the one it starts from."""

from __future__ import annotations

from typing import Any

from crosscast.pipeline.config.schema import SYNTHETIC, Config
from crosscast.pipeline.errors import ConfigError
from crosscast.targets import TARGETS
from crosscast.targets.base import finishing

DEFAULT_OPSET = 18
"""What torch's exporter writes without converting, and what every converter here reads."""


class Asked:
    """What a config asks, by the names of its targets.

    Methods raise ConfigError where a target contradicts the one that it starts from.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def calibrates_on_real(self) -> bool:
        """Whether there are calibration samples that are not drawn."""
        return self.config.samples.calibration not in (None, SYNTHETIC)

    def first(self, name: str) -> str:
        """The target that a target's chain starts from."""
        start = self.config.targets[name].from_
        return self.first(start) if start else name

    def options(self, name: str) -> dict[str, Any]:
        """The target's own options, with the opset that it gets where it names none, but for
        those for the step that ends the chain.
        """
        options = self.config.targets[name].options()
        for key in finishing(TARGETS[name]):
            options.pop(key, None)
        if "opset" in options and options["opset"] is None:
            options["opset"] = self.default_opset()
        return options

    def finishing(self, name: str) -> dict[str, str]:
        """The options for the step that ends the chain, where the target sets them."""
        options = self.config.targets[name].options()
        return {
            key: options[key] for key in finishing(TARGETS[name]) if options.get(key) is not None
        }

    def io(self, name: str) -> str | None:
        """The dtype of the artifact's float inputs and outputs; None for the source's own."""
        start = self.config.targets[name].from_
        inherited = self.io(start) if start else None
        return self.config.targets[name].options().get("io") or inherited

    def layout(self, name: str) -> str | None:
        """The layout a target asks for, or that of the target it starts from."""
        settings = self.config.targets[name]
        if settings.from_ and settings.layout is None:
            return self.layout(settings.from_)
        if settings.from_ and settings.layout != self.layout(settings.from_):
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

    def precision(self, name: str) -> str:
        """What the audit must find: the target's own precision, or that of what it starts from."""
        own, start = TARGETS[name].precision_asked, self.config.targets[name].from_
        if own is not None:
            return own
        return self.precision(start) if start else "fp32"

    def refuse_unused(self, name: str) -> None:
        """Raise ConfigError for an option of a conversion that `from` takes the place of."""
        settings = self.config.targets[name]
        own = settings.options()
        theirs = self.config.targets[str(settings.from_)].options()
        for key in own.keys() - set(finishing(TARGETS[name])):
            if key in settings.model_fields_set and own[key] != theirs.get(key):
                raise self._differs(name, key)

    def _differs(self, name: str, key: str) -> ConfigError:
        start = self.config.targets[name].from_
        return ConfigError(
            f"{self.config.path}: targets.{name}.{key}: "
            f"differs from that of '{start}', which it starts from",
            fix=f"remove `from: {start}`, or set the same {key} in both",
        )

    def default_opset(self) -> int | None:
        """The opset where none is asked for; None for an ONNX file's own."""
        return None if self.config.source.to_source()["kind"] == "onnx" else DEFAULT_OPSET
