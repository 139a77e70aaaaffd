"""A config that is released over and over, and builds of it that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from releases import deliver

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.events import Subscriber
from crosscast.pipeline.release import channels, publish
from crosscast.pipeline.release.channels import Shelf
from crosscast.pipeline.release.publish import Released, Wanted
from crosscast.pipeline.release.registries.directory import Directory
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store

CONFIG = """\
model: m
version: 1.0.0
source: {onnx: m.onnx}
targets: {onnx: {}}
release: {gates: {max_latency_growth: null}}
"""


class Shop:
    """A config, and what a build of it gives."""

    def __init__(self, root: Path) -> None:
        self.root, self.artifacts = root, root / "artifacts"
        self.data, self.code, self.builds = b"weights", 0, 0
        self.random = False
        (root / "m.onnx").touch()
        self.config = root / "m.yaml"
        self.config.write_text(CONFIG)

    def build(self, config: Config, *, settings: Settings, **_: Any) -> int:
        self.builds += 1
        if self.code:
            return self.code
        noise = b"%d" % self.builds if self.random else b""
        folder = settings.artifacts / config.model / config.version / "onnx"
        deliver(folder, data=self.data + noise, version=config.version)
        return 0

    def release(self, *, emit: Subscriber = lambda _: None, **wanted: Any) -> Released:
        store, settings = Store(self.root / "store"), Settings(artifacts=self.artifacts)
        return publish.release(
            load(self.config), Wanted(**wanted), store=store, settings=settings, emit=emit
        )

    def says(self, key: str, value: str) -> None:
        policy = f"{key}: {value}, gates: {{max_latency_growth: null}}"
        self.config.write_text(CONFIG.replace("gates: {max_latency_growth: null}", policy))

    def shelf(self, where: str = "artifacts") -> Shelf:
        return channels.read(Directory(self.root / where), "m")

    def left(self) -> list[str]:
        return [path.name for path in self.artifacts.iterdir() if path.name.startswith(".")]
