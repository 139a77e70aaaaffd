"""The work of `crosscast init`: look at a model, choose targets, write a config that loads."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.config import schema
from crosscast.pipeline.config.fields import Download
from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.names import SHA256, URL
from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.errors import ConfigError, CrosscastError, StageError, ToolchainError
from crosscast.pipeline.executors.local import LocalExecutor, Outcome, Task
from crosscast.pipeline.fetch import fetch
from crosscast.pipeline.init import factory, kinds, probe, writer
from crosscast.pipeline.init.choice import Choice, chosen, fitted
from crosscast.pipeline.init.facts import Facts
from crosscast.pipeline.planner import plan
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.store import Store
from crosscast.pipeline.toolchain import CORE, Toolchain
from crosscast.targets import TARGETS

KEYS = {
    "onnx": "onnx",
    "tflite": "tflite",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "program": "torch",
    "torchscript": "torch",
    "skops": "sklearn",
    "pickle": "sklearn",
}
"""The config's key for each kind of file."""
TRUSTING = ("keras", "sklearn")
"""Sources that have the key `trusted`."""
VERSION = "0.1.0"
PLAIN_NAMES = ("model", "saved_model", "savedmodel", "net", "network", "best", "last", "export")
MAKERS = ("build", "make", "create", "get_model", "model", "net", "factory", "load", "main")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written: the config's path, and what it holds."""

    path: Path
    facts: Facts
    choice: Choice


def write(
    name: str,
    out: Path,
    *,
    targets: Sequence[str],
    sha256: str,
    trusted: bool,
    force: bool,
    store: Store,
    settings: Settings,
    say: Callable[[str], None],
) -> Written:
    """Write the config `out` for the model that `name` names; it loads and can be planned.

    sha256: of the file, where `name` is a url.
    Raises ConfigError where `out` is there already and not `force`, where a target in `targets`
    is unknown or cannot take the model; StageError where the model cannot be looked at.
    """
    _refuse_overwriting(out, force=force)
    download = _download(name, sha256)
    if download is not None:
        fetch(download, store=store, tell=say)
    model = kinds.recognised(name if download is None else str(download.path))
    look = _Look(store=store, settings=settings, say=say)
    facts = look.facts(_source_keys(model, look, download, trusted=trusted))
    available = open_source(_options(facts.source)).kinds
    choice = chosen(facts, asked=targets, targets=TARGETS, kinds=available)
    facts = fitted(facts, choice, TARGETS)
    calibrated = any(TARGETS[name].calibrated for name in choice.targets)
    heading = writer.Heading(
        schema=_relative(Path(schema.__file__).with_name("schema.json"), out.absolute().parent),
        model=slug(model),
        version=VERSION,
    )
    text = writer.text(heading, _located(facts, out), choice, calibrated=calibrated)
    _deliver(text, out)
    return Written(path=out, facts=facts, choice=choice)


def slug(model: kinds.Model) -> str:
    """The config's name for the model: its file's, or its directory's where that says nothing."""
    parts = [model.path.stem if not model.path.is_dir() else model.path.name]
    if model.function and model.function not in MAKERS:
        parts.insert(0, model.function)
    parts += [folder.name for folder in model.path.parents[:2]]
    names = [re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-._") for part in parts]
    said = [name for name in names if name and name not in PLAIN_NAMES and not name.isdigit()]
    return next(iter([*said, *filter(None, names), "model"]))


def _refuse_overwriting(out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise ConfigError(f"{out}: this is a directory", fix="name the file: -o model.yaml")
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already", fix="choose another name, or add --force")


def _download(name: str, sha256: str) -> Download | None:
    """The file that a url names; None where the name is no url."""
    if not re.match(URL, name):
        if sha256:
            raise ConfigError(f"--sha256 is for a url, and '{name}' is none", fix="leave it out")
        return None
    if not re.match(SHA256, sha256):
        what = f"'{sha256}' is no sha256" if sha256 else "a url needs its file's sha256"
        raise ConfigError(f"{name}: {what}", fix="add --sha256, which `sha256sum FILE` prints")
    return Download(url=name, sha256=sha256)


def _source_keys(
    model: kinds.Model, look: _Look, download: Download | None, *, trusted: bool
) -> dict[str, Any]:
    """The keys of the config's source, as far as the path tells them.

    Raises StageError for a pickle that is not trusted.
    """
    trust = {"trusted": True} if trusted else {}
    if model.kind == "factory":
        spec = f"{model.path}:{model.function}"
        return {factory.by_imports(model.path) or look.kind(spec): spec}
    key = KEYS[model.kind]
    if model.kind == "pickle" and not trusted:
        raise StageError(
            f"{model.path} is a pickle, which can run any code while it is read",
            fix="add --trusted if you trust where it comes from, or save it with skops.io.dump",
        )
    place = str(model.path) if download is None else download.model_dump()
    return {key: place, **(trust if key in TRUSTING else {})}


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Looks at models, each in a worker of its own."""

    store: Store
    settings: Settings
    say: Callable[[str], None]

    def kind(self, spec: str) -> str:
        """The source that a factory's model belongs to."""
        kind = self._run(factory.__name__, CORE, {"factory": spec}, factory.KIND)
        return str(kind)

    def facts(self, keys: Mapping[str, Any]) -> Facts:
        """What the look at a model tells."""
        toolchain = open_source(_options(keys)).toolchain
        return Facts.from_json(
            self._run(probe.__name__, toolchain, {"keys": dict(keys)}, probe.FACTS)
        )

    def _run(
        self, module: str, toolchain: Toolchain, options: Mapping[str, Any], result: str
    ) -> Any:
        with (
            self.store.workspace() as workspace,
            LocalExecutor(
                cache=self.store.root, threads=self.settings.threads, on_message=self.say
            ) as executor,
        ):
            out = workspace.directory("look")
            outcome = executor.run(
                Task(
                    id="init",
                    module=module,
                    toolchain=toolchain,
                    inputs={},
                    options=options,
                    out=out,
                    log=self.store.log("init", "look"),
                    limits=self.settings.limits,
                )
            )
            _raise_unless_ok(outcome)
            return json.loads((out / result).read_text(encoding="utf-8"))


def _options(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The source's options as stages take them."""
    kind = next(key for key in keys if key in SOURCES_SCHEMA)
    return SOURCES_SCHEMA[kind].model_validate(dict(keys)).to_source()


def _raise_unless_ok(outcome: Outcome) -> None:
    if outcome.status == "ok":
        return
    if outcome.status != "error":
        raise StageError(
            f"the look at the model did not end well [{outcome.status}]: {outcome.message}\n"
            f"  log: {outcome.log}",
            fix=outcome.fix,
        )
    errors: tuple[type[CrosscastError], ...] = (ConfigError, ToolchainError)
    kind = next((one for one in errors if one.exit_code == outcome.exit_code), StageError)
    raise kind(outcome.message, fix=outcome.fix)


def _located(facts: Facts, out: Path) -> Facts:
    """The facts with the source's paths as seen from the config's directory."""
    folder = out.absolute().parent.resolve()
    return replace(
        facts,
        source={
            key: _relative(Path(value), folder)
            if isinstance(value, str) and Path(value).is_absolute()
            else value
            for key, value in facts.source.items()
        },
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _deliver(text: str, out: Path) -> None:
    """Write the text to its place at once, if it is a config that can be planned."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        staged.write_text(text, encoding="utf-8")
        plan(load(staged))
        staged.replace(out)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(staged), str(out))) from error
    finally:
        staged.unlink(missing_ok=True)


def described(written: Written) -> str:
    """For people: what was written, what was left out and why, and what to run next."""
    facts, choice = written.facts, written.choice
    lines = [f"{written.path}: written"]
    for one in facts.inputs:
        shape = ", ".join(map(str, one.shape))
        lines.append(f"  input {one.name} [{shape}] {one.dtype}")
    lines.append(f"  targets {', '.join(choice.targets)}")
    lines += [f"  {name} is left out: {reason}" for name, reason in choice.left_out.items()]
    return "\n".join([*lines, f"next: crosscast build {written.path}"])
