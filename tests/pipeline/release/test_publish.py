"""The command `release`, over builds that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import write
from shop import Shop

from crosscast.pipeline.errors import ConfigError, GateError, RegistryError
from crosscast.pipeline.release import channels, publish, signing
from crosscast.pipeline.release.channels import Shelf
from crosscast.pipeline.release.document import RELEASE, SIGNATURE
from crosscast.pipeline.release.registries.directory import Directory


def test_a_release_is_written_and_in_the_index(shop: Shop) -> None:
    ended = shop.release()
    assert (ended.code, ended.place) == (0, shop.artifacts / "m/1.0.0")
    assert (shop.artifacts / "m/1.0.0/onnx/model.onnx").read_bytes() == b"weights"
    told = json.loads((shop.artifacts / "m/1.0.0" / RELEASE).read_bytes())
    assert told["build"]["seconds"] >= 0
    assert list(shop.shelf().versions) == ["1.0.0"]
    assert shop.left() == []


def test_the_same_again_is_a_no_op(shop: Shop) -> None:
    shop.release()
    before = (shop.artifacts / "m/1.0.0" / RELEASE).read_bytes()
    ended = shop.release()
    assert (ended.code, ended.place) == (0, None)
    assert ended.said == f"m 1.0.0 is in {shop.artifacts} already, the same: nothing to publish"
    assert (shop.artifacts / "m/1.0.0" / RELEASE).read_bytes() == before


def test_other_bytes_under_a_version_are_refused_and_named(shop: Shop) -> None:
    shop.release()
    shop.data = b"other"
    with pytest.raises(GateError, match=r"m 1\.0\.0 is published in .*: onnx/model\.onnx"):
        shop.release()
    assert (shop.artifacts / "m/1.0.0/onnx/model.onnx").read_bytes() == b"weights"
    assert shop.left() == []


@pytest.mark.parametrize("code", [1, 3, 4])
def test_what_is_not_proven_is_not_released(shop: Shop, code: int) -> None:
    shop.code = code
    assert shop.release().code == code
    assert shop.left() == []
    assert list(shop.artifacts.iterdir()) == []


@pytest.mark.parametrize(
    ("bump", "version"), [("major", "2.0.0"), ("minor", "1.1.0"), ("patch", "1.0.1")]
)
def test_bump_raises_the_highest_version(shop: Shop, bump: str, version: str) -> None:
    shop.release()
    shop.data = b"other"
    assert shop.release(bump=bump).said.startswith(f"m {version} is published in")
    assert shop.shelf().ordered() == ["1.0.0", version]


def test_bump_of_nothing_is_the_configs_own_version(shop: Shop) -> None:
    shop.release(bump="minor")
    assert shop.shelf().ordered() == ["1.0.0"]


def test_bump_without_a_change_publishes_nothing(shop: Shop) -> None:
    shop.release()
    ended = shop.release(bump="minor")
    assert ended.said == "nothing has changed since m 1.0.0: nothing to publish"
    assert shop.shelf().ordered() == ["1.0.0"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"version": "1.0"}, "--version: expected a version such as '1.2.0', got '1.0'"),
        ({"version": "../x"}, "--version: expected a version"),
        ({"bump": "huge"}, "--bump: expected major, minor, patch, got 'huge'"),
        ({"bump": "minor", "version": "1.0.0"}, "contradict each other"),
        ({"key": "nowhere.key"}, "the key cannot be read"),
        ({"registry": "ftp://x"}, "no registry is reached by ftp://"),
        ({"registry": "https://x:secret@y/z"}, "^https://y/z: a web server's registry is only"),
    ],
)
def test_what_cannot_be_wanted_is_told_before_anything_is_built(
    shop: Shop, wanted: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        shop.release(**wanted)
    assert shop.builds == 0


def test_a_release_that_falls_behind_is_refused(shop: Shop) -> None:
    shop.release()
    shop.data = b"weights" * 2
    with pytest.raises(GateError, match=r"onnx: size .* over max_size_growth, 5 %"):
        shop.release(bump="minor")
    assert shop.shelf().ordered() == ["1.0.0"]
    assert not (shop.artifacts / "m/1.1.0").exists()


def test_a_release_may_be_held_against_another_than_the_last(shop: Shop) -> None:
    shop.release()
    shop.data = b"weights" * 2
    bigger = write(shop.root / "bigger", data=b"x" * 99)
    ended = shop.release(bump="minor", against=str(shop.root / "bigger"))
    assert ended.comparison is not None
    assert ended.comparison.before == f"m {bigger.version}"


def test_a_dry_run_publishes_nothing(shop: Shop) -> None:
    ended = shop.release(dry_run=True)
    assert ended.said == f"m 1.0.0 would be published in {shop.artifacts}"
    assert list(shop.artifacts.iterdir()) == []


def test_a_registry_gets_it_and_artifacts_too(shop: Shop) -> None:
    shop.release(registry=str(shop.root / "shelf"))
    for place in (shop.artifacts, shop.root / "shelf"):
        assert (place / "m/1.0.0" / RELEASE).exists()
        assert list(channels.read(Directory(place), "m").versions) == ["1.0.0"]


def test_the_configs_registry_and_channel_are_used(shop: Shop) -> None:
    shop.says("registry: shelf, channel", "beta")
    shop.release()
    assert shop.shelf("shelf").present("beta") == "1.0.0"


def test_what_was_killed_before_the_index_is_completed(shop: Shop) -> None:
    shop.release()
    (shop.artifacts / "m/index.json").unlink()
    assert shop.release().said.startswith("m 1.0.0 is published in")
    assert list(shop.shelf().versions) == ["1.0.0"]


def test_a_key_signs(shop: Shop) -> None:
    private, public = signing.keygen(shop.root / "keys")
    shop.release(key=str(private))
    folder = shop.artifacts / "m/1.0.0"
    envelope = (folder / SIGNATURE).read_bytes()
    key = signing.read_public(public)
    assert signing.verify((folder / RELEASE).read_bytes(), envelope, key)
    (folder / RELEASE).write_bytes((folder / RELEASE).read_bytes().replace(b'"m"', b'"n"'))
    with pytest.raises(RegistryError, match="on another release"):
        signing.verify((folder / RELEASE).read_bytes(), envelope, key)


def test_what_was_published_unsigned_stays_so_and_that_is_told(shop: Shop) -> None:
    shop.release()
    private, _ = signing.keygen(shop.root / "keys")
    said = shop.release(key=str(private)).said
    assert "already, the same (unsigned, and stays so): nothing to publish" in said
    assert not (shop.artifacts / "m/1.0.0" / SIGNATURE).exists()


def test_the_configs_key_may_be_its_text(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = signing.keygen(shop.root / "keys")
    monkeypatch.setenv("KEY", private.read_text())
    shop.says("key", "'${KEY}'")
    shop.release()
    assert (shop.artifacts / "m/1.0.0" / SIGNATURE).exists()
    assert "PRIVATE" not in (shop.artifacts / "m/1.0.0" / RELEASE).read_text()


def test_equal_builds_are_reproducible(shop: Shop) -> None:
    assert shop.release(check_reproducible=True).code == 0
    assert shop.builds == 2


def test_builds_that_differ_are_refused_and_named(shop: Shop) -> None:
    shop.random = True
    with pytest.raises(GateError, match=r"two builds from nothing differ in onnx/model\.onnx"):
        shop.release(check_reproducible=True)
    assert list(shop.artifacts.iterdir()) == []


@pytest.mark.parametrize(
    ("channel", "version", "before"),
    [
        (None, "1.3.0", "1.2.0"),
        (None, "2.1.0", "2.0.0"),
        (None, "0.1.0", None),
        (None, "1.1.1", "1.1.0"),
        ("stable", "1.3.0", "1.1.0"),  # what it was rolled back to
        ("stable", "1.0.1", "1.0.0"),
        ("beta", "3.0.0", "2.0.0"),  # names nothing yet
    ],
)
def test_what_a_version_follows(channel: str | None, version: str, before: str | None) -> None:
    shelf = Shelf(versions=dict.fromkeys(("1.0.0", "1.1.0", "1.2.0", "2.0.0"), ""))
    shelf = shelf.promote("stable", "1.2.0").promote("stable", "1.1.0", back=True)
    assert publish._predecessor(shelf, version, channel) == before


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / RELEASE).unlink(), "is in the index, but not there"),
        (lambda folder: (folder / RELEASE).write_text("{"), r"no release\.json that can be used"),
    ],
)
def test_a_predecessor_that_is_damaged_is_told(shop: Shop, spoil: Spoil, said: str) -> None:
    shop.release()
    spoil(shop.artifacts / "m/1.0.0")
    shop.data = b"other"
    with pytest.raises(RegistryError, match=said):
        shop.release(version="1.1.0")
