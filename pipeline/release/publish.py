"""The command `release`: build, hold against the release before, sign, publish."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from semver import Version

from crosscast.pipeline import staging
from crosscast.pipeline.build import build
from crosscast.pipeline.config.names import SEMVER
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.digest import of_json
from crosscast.pipeline.errors import EXIT_BUG, ConfigError, CrosscastError, GateError
from crosscast.pipeline.events import Event, HookFailed, Subscriber, TargetFinished
from crosscast.pipeline.release import channels, gates, hooks, reproducible
from crosscast.pipeline.release.channels import Shelf, now
from crosscast.pipeline.release.compose import compose, config_digest, environment
from crosscast.pipeline.release.diff import Comparison, contents
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Release, parse
from crosscast.pipeline.release.located import Located, compared, find
from crosscast.pipeline.release.registries import open_registry
from crosscast.pipeline.release.registries.base import Registry
from crosscast.pipeline.release.registries.directory import Directory
from crosscast.pipeline.release.signing import read_private, sign
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store
from crosscast.pipeline.web import shown

STAGED = ".release."
PARTS = ("major", "minor", "patch")
SHOWN = 10
"""Differences that are told of two releases with one version."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a release beside its config, whose keys stand in for what is empty.

    version, bump: its own version, or the part of the highest one that goes up.
    against: the release to hold it against, `[REGISTRY/]MODEL@VERSION` or a directory.
    check_reproducible: whether it is built twice, from nothing. dry_run: stop before publishing.
    """

    version: str = ""
    bump: str = ""
    registry: str = ""
    key: str = ""
    against: str = ""
    check_reproducible: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Released:
    """How it ended. code: the exit code; that of the build where not all was proven.

    version: what was published; empty where nothing was. place: where that is. comparison: with the
    one before.
    """

    code: int
    said: str
    version: str = ""
    place: Path | None = None
    comparison: Comparison | None = None


def release(
    config: Config, wanted: Wanted, *, store: Store, settings: Settings, emit: Subscriber
) -> Released:
    """Build a release of a config under `settings.artifacts`, publish it, and have hooks tell.

    Raises GateError where it may not follow the one before, its version is taken or another one is
    under way, RegistryError, ConfigError, ParityError.
    """

    def tell(code: int, said: str, version: str = "") -> None:
        outcome = hooks.Outcome.of(
            config,
            registry=wanted.registry,
            event="release",
            code=code,
            said=said,
            version=version,
            log=os.environ.get(hooks.LOG, ""),
        )
        for hook, why in hooks.tell(config.release.hooks, outcome, folder=config.path.parent):
            emit(HookFailed(hook=hook, why=why))

    told = tell if not wanted.dry_run else lambda *_: None
    try:
        ended = _Releaser(config, wanted, store=store, settings=settings, emit=emit).run()
    except Exception as error:
        told(error.exit_code if isinstance(error, CrosscastError) else EXIT_BUG, str(error))
        raise
    if ended.code or ended.version:
        told(ended.code, ended.said, ended.version)
    return ended


class _Releaser:
    """One run of `release`."""

    def __init__(
        self, config: Config, wanted: Wanted, *, store: Store, settings: Settings, emit: Subscriber
    ) -> None:
        self.config, self.wanted = config, wanted
        self.store, self.settings, self.emit = store, settings, emit
        self.config_sha256 = config_digest(config.path)
        key = wanted.key or config.release.key
        self.key = read_private(key) if key else None
        self.local = Directory(settings.artifacts)
        url = wanted.registry or config.release.registry
        self.registry: Registry = open_registry(url, to_publish=True) if url else self.local
        self.url = url or str(settings.artifacts)
        self._place = shown(self.url)
        self.shelf = channels.read(self.registry, config.model)

    def run(self) -> Released:
        """Do it."""
        with self._alone():
            return self._run()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """GateError where the same model is being released there: both would take one version."""
        place = self.url if "://" in self.url else str(Path(self.url).resolve())
        file = self.store.root / "releases" / f"{of_json([self.config.model, place])[:32]}.lock"
        try:
            with staging.alone(file):
                yield
        except staging.TakenError as error:
            raise GateError(
                f"another release of {self.config.model} is under way: {error}",
                fix="wait for it to end",
            ) from None

    def _run(self) -> Released:
        highest = next(reversed(self.shelf.ordered()), "")
        version = _next(self.config.version, highest, self.wanted)
        with self._staged() as staged:
            if self.wanted.bump and highest:
                # Another version is another content: only as the same one can it be found equal.
                code, release = self._built(staged / "as", highest, twice=False)
                if release is None:
                    return _unproven(code)
                if release.digest == self.shelf.versions[highest]:
                    return self._nothing(f"nothing has changed since {self._name(highest)}")
            code, release = self._built(staged, version, twice=self.wanted.check_reproducible)
            if release is None:
                return _unproven(code)
            return self._publish(staged / release.model / version, release)

    def _publish(self, folder: Path, release: Release) -> Released:
        """Publish what is built in `folder`, if it may be."""
        name = self._name(release.version)
        taken = self._taken(release)
        if taken and release.version in self.shelf.versions:
            unsigned = self.key is not None and not self._is_signed(release.version)
            more = " (unsigned, and stays so)" if unsigned else ""
            return self._nothing(f"{name} is in {self._place} already, the same{more}")
        comparison = None if taken else self._held_against_the_last(folder, release)
        if self.wanted.dry_run:
            said = f"{name} would be published in {self._place}"
            return Released(code=0, said=said, comparison=comparison)
        if self.key is not None:
            (folder / SIGNATURE).write_bytes(sign((folder / RELEASE).read_bytes(), self.key))
        channel = self.config.release.channel
        for registry in dict.fromkeys((self.local, self.registry)):
            registry.publish(folder=folder, release=release)
            channels.update(registry, release.model, lambda shelf: _with(shelf, release, channel))
        signed = f", signed by {self._signer()}" if self.key else ""
        named = f", {channel}" if channel else ""
        return Released(
            code=0,
            said=f"{name} is published in {self._place}{named}{signed}",
            version=release.version,
            place=self.settings.artifacts / release.model / release.version,
            comparison=comparison,
        )

    def _taken(self, release: Release) -> bool:
        """Whether this very release is in the registry; GateError where another has its version."""
        version = release.version
        found = self.registry.document(model=release.model, version=version, name=RELEASE)
        if found is None:
            return False
        there = parse(found, where=f"{self.url}/{release.model}@{version}")
        if there.digest == release.digest:
            return True
        differing = contents(there, release)
        told = [*differing[:SHOWN], *(["…"] if differing[SHOWN:] else [])]
        raise GateError(
            f"{self._name(version)} is published in {self._place} with other content; "
            "these differ: " + ", ".join(told or ["numbers of the verdicts"]),
            fix="a version never changes: give another one, or --bump patch",
        )

    def _is_signed(self, version: str) -> bool:
        found = self.registry.document(model=self.config.model, version=version, name=SIGNATURE)
        return found is not None

    def _held_against_the_last(self, folder: Path, release: Release) -> Comparison | None:
        """The comparison with the release before. Raises GateError where it may not follow it."""
        with self.store.workspace() as workspace:
            before = self._before(release.version)
            if before is None:
                return None
            comparison = compared(
                before,
                Located.at(folder, release),
                workspace=workspace,
                store=self.store,
                settings=self.settings,
                latency=self.config.release.gates.max_latency_growth is not None,
            )
        refused = gates.refusals(
            comparison,
            gates=self.config.release.gates,
            before=before.release.version,
            after=release.version,
        )
        gates.require(refused, before=self._name(before.release.version))
        return comparison

    def _before(self, version: str) -> Located | None:
        """The release to hold one of that version against."""
        if self.wanted.against:
            return find(self.wanted.against, registry=self.url)
        name = _predecessor(self.shelf, version, self.config.release.channel)
        if name is None:
            return None
        return Located.of(self.registry, self.config.model, name, where=self.url)

    def _built(self, artifacts: Path, version: str, *, twice: bool) -> tuple[int, Release | None]:
        """Build as that version into `artifacts`; the exit code, and the release if it is 0.

        twice: from nothing, to see whether that gives the same bytes.
        """
        config = self.config.model_copy(update={"version": version})
        started, clock = now(), time.monotonic()
        settings = replace(self.settings, artifacts=artifacts)
        if twice:
            code = reproducible.build_twice(
                config, store=self.store, settings=settings, emit=self._tell
            )
        else:
            code = build(config, store=self.store, settings=settings, emit=self._tell, only=())
        if code != 0:
            return code, None
        told = {
            **environment(config.path.parent),
            "started": started,
            "created": now(),
            "seconds": round(time.monotonic() - clock, 3),
        }
        folder = artifacts / config.model / version
        return 0, compose(folder, config, config_sha256=self.config_sha256, build=told)

    def _tell(self, event: Event) -> None:
        """Pass an event on; where an artifact is staged is nobody's business."""
        self.emit(replace(event, artifact="") if isinstance(event, TargetFinished) else event)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A directory beside the artifacts, removed at the end, as are those of killed runs."""
        artifacts = self.settings.artifacts
        try:
            artifacts.mkdir(parents=True, exist_ok=True)
            staging.sweep(artifacts, STAGED)
        except OSError as error:
            raise ConfigError(f"cannot write {artifacts}: {error.strerror or error}") from error
        with staging.held(artifacts, STAGED) as staged:
            yield staged

    def _nothing(self, why: str) -> Released:
        return Released(code=0, said=f"{why}: nothing to publish")

    def _name(self, version: str) -> str:
        return f"{self.config.model} {version}"

    def _signer(self) -> str:
        from crosscast.pipeline.release.signing import key_id

        assert self.key is not None
        return key_id(self.key.public_key())[:12]


def _next(own: str, highest: str, wanted: Wanted) -> str:
    """The version to release: the given one, the highest one with a part raised, or the config's.

    Raises ConfigError.
    """
    if wanted.version and wanted.bump:
        raise ConfigError("--version and --bump contradict each other", fix="give one of them")
    if wanted.version and not re.fullmatch(SEMVER, wanted.version):
        raise ConfigError(f"--version: expected a version such as '1.2.0', got '{wanted.version}'")
    if wanted.bump not in ("", *PARTS):
        raise ConfigError(f"--bump: expected {', '.join(PARTS)}, got '{wanted.bump}'")
    if wanted.bump and highest:
        return str(Version.parse(highest).next_version(wanted.bump))
    return wanted.version or own


def _predecessor(shelf: Shelf, version: str, channel: str | None) -> str | None:
    """What a new version follows: what its channel names now, if that is lower; otherwise the
    highest version that is.
    """
    lower = [name for name in shelf.ordered() if Version.parse(name) < Version.parse(version)]
    present = shelf.present(channel) if channel else None
    return present if present in lower else next(reversed(lower), None)


def _with(shelf: Shelf, release: Release, channel: str | None) -> Shelf:
    shelf = shelf.add(release.version, release.digest)
    return shelf.promote(channel, release.version) if channel else shelf


def _unproven(code: int) -> Released:
    return Released(code=code, said="nothing is released: the build did not prove every target")
