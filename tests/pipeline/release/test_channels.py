"""The index of a model: versions, channels, histories, and writers at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from crosscast.pipeline.errors import ConfigError, GateError, RegistryError
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.channels import Shelf
from crosscast.pipeline.release.registries.base import Conflict, Index
from crosscast.pipeline.release.registries.directory import Directory


@pytest.fixture
def registry(tmp_path: Path) -> Directory:
    registry = Directory(tmp_path)
    versions = dict.fromkeys(("1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1"), "a" * 64)
    channels.update(registry, "m", lambda _: Shelf(versions=versions))
    return registry


def history(registry: Directory, channel: str = "stable") -> list[str]:
    return [naming.version for naming in channels.read(registry, "m").channels[channel]]


def test_versions_are_in_their_order(registry: Directory) -> None:
    assert channels.read(registry, "m").ordered() == ["1.0.0", "1.9.0", "1.10.0", "2.0.0-rc.1"]


def test_a_channel_keeps_all_it_ever_named(registry: Directory) -> None:
    for version in ("1.0.0", "1.9.0", "1.9.0"):
        channels.promote(registry, model="m", name=version, channel="stable")
    assert history(registry) == ["1.0.0", "1.9.0"]
    entry = json.loads(registry.index(model="m").content)["channels"]["stable"][-1]
    assert entry["version"] == "1.9.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["at"])


def test_promotion_says_what_was_there(registry: Directory) -> None:
    first = channels.promote(registry, model="m", name="1.0.0", channel="beta")
    assert first == ("1.0.0", None)
    assert channels.promote(registry, model="m", name="1.9.0", channel="beta") == ("1.9.0", "1.0.0")
    assert channels.promote(registry, model="m", name="beta", channel="stable") == ("1.9.0", None)


def test_rollbacks_go_back_one_by_one(registry: Directory) -> None:
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        channels.promote(registry, model="m", name=version, channel="stable")
    assert channels.rollback(registry, model="m", channel="stable") == ("1.9.0", "1.10.0")
    assert channels.rollback(registry, model="m", channel="stable") == ("1.0.0", "1.9.0")
    with pytest.raises(ConfigError, match=r"'stable' of m named nothing before 1\.0\.0"):
        channels.rollback(registry, model="m", channel="stable")
    channels.promote(registry, model="m", name="2.0.0-rc.1", channel="stable")
    assert channels.rollback(registry, model="m", channel="stable") == ("1.0.0", "2.0.0-rc.1")
    assert history(registry) == [
        "1.0.0",
        "1.9.0",
        "1.10.0",
        "1.9.0",
        "1.0.0",
        "2.0.0-rc.1",
        "1.0.0",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("3.0.0", r"m has no version '3\.0\.0'"),
        ("stabel", "m has no channel 'stabel'; did you mean 'stable'"),
        ("../x", r"m has no channel '\.\./x'"),
    ],
)
def test_what_is_not_there_is_told(registry: Directory, name: str, said: str) -> None:
    channels.promote(registry, model="m", name="1.0.0", channel="stable")
    with pytest.raises(RegistryError, match=said):
        channels.promote(registry, model="m", name=name, channel="beta")


def test_a_channel_that_is_not_there_has_nothing_to_roll_back(registry: Directory) -> None:
    with pytest.raises(RegistryError, match="m has no channel 'stable'"):
        channels.rollback(registry, model="m", channel="stable")


@pytest.mark.parametrize("channel", ["1.0.0", "Stable", "", "../x", "a b"])
def test_what_cannot_be_a_channel_is_refused(registry: Directory, channel: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a channel"):
        channels.promote(registry, model="m", name="1.0.0", channel=channel)


def test_a_version_has_one_digest_for_ever(registry: Directory) -> None:
    assert channels.update(registry, "m", lambda shelf: shelf.add("1.0.0", "a" * 64))
    with pytest.raises(GateError, match="a version never changes"):
        channels.update(registry, "m", lambda shelf: shelf.add("1.0.0", "b" * 64))


@pytest.mark.parametrize(
    "content",
    [
        b"x", b"[]", b'{"schema": 2}', b'{"schema": 1, "versions": {"../..": {"digest": ""}}}',
        b'{"schema": 1, "versions": {"1.0.0": {}}}', b'{"schema": 1, "channels": {"A": []}}',
        b'{"schema": 1, "channels": {"a": [{"version": "x", "at": ""}]}}', b"{" * 9999,
    ],
)  # fmt: skip
def test_an_index_that_is_damaged_is_told(content: bytes) -> None:
    with pytest.raises(RegistryError, match="the index of m cannot be used"):
        Shelf.parse(content, model="m")


class Busy(Directory):
    """Somebody else writes first, a few times."""

    times = 3

    def write_index(self, *, model: str, content: bytes, token: str) -> None:
        if self.times:
            self.times -= 1
            version = f"9.{self.times}.0"
            others = Shelf.parse(self.index(model=model).content, model=model).add(version, "x")
            super().write_index(
                model=model, content=json.dumps(others.to_json()).encode(), token=token
            )
        super().write_index(model=model, content=content, token=token)


def test_what_others_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    found = channels.update(Busy(tmp_path), "m", lambda shelf: shelf.add("1.0.0", "a"))
    assert sorted(found.versions) == ["1.0.0", "9.0.0", "9.1.0", "9.2.0"]
    assert channels.read(Directory(tmp_path), "m") == found


def test_an_index_that_never_rests_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restless(Directory):
        def index(self, *, model: str) -> Index:
            return Index()

        def write_index(self, *, model: str, content: bytes, token: str) -> None:
            raise Conflict

    monkeypatch.setattr(channels.time, "sleep", lambda _: None)
    with pytest.raises(RegistryError, match="written by others all the time"):
        channels.update(Restless(tmp_path), "m", lambda shelf: shelf.add("1.0.0", "a"))
