"""Releases through real registries: a directory, lighttpd, SeaweedFS, Debian's docker-registry."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
import servers
import shipped
from places import DATA, TARGETS, Made, Place, all_places, written

from crosscast.pipeline import cli
from crosscast.pipeline.errors import GateError, RegistryError
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Release
from crosscast.pipeline.release.registries import oci, open_registry, s3
from crosscast.pipeline.release.registries.base import Conflict
from crosscast.pipeline.release.registries.s3 import S3

pytestmark = pytest.mark.e2e

Say = pytest.CaptureFixture[str]


@all_places
def test_a_release_reaches_the_device(place: Place, tmp_path: Path, capsys: Say) -> None:
    made = Made(tmp_path, "reaches")
    made.publish(place)
    made.publish(place)  # the same bytes again are nothing new
    for device, target in (("pixel-8", "tflite-int8"), ("iphone-15", "coreml-fp16")):
        out = tmp_path / device
        words = [f"{place.url}/reaches@stable", "--device", device, "--key", str(made.public)]
        assert cli.run(["pull", *words, "-o", str(out), "--explain"]) == 0, capsys.readouterr().err
        assert shipped.files(out) == shipped.files(made.folder / target)
        said = capsys.readouterr().out
        assert "signature right" in said
        assert f"{target} for {device}: 3.8 MiB, passed" in said
        assert cli.run(["pull", *words, "-o", str(out)]) == 0
        assert "is up to date" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@written
def test_other_bytes_under_a_version_are_refused(place: Place, tmp_path: Path) -> None:
    Made(tmp_path / "a", "immutable").publish(place)
    with pytest.raises(GateError, match="a version never changes"):
        Made(tmp_path / "b", "immutable", data=b"other").publish(place)
    assert cli.run(["pull", f"{place.url}/immutable", "-t", "onnx", "-o", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o/model.bin").read_bytes() == b"onnx" + DATA


def test_who_claims_a_version_that_was_just_published_writes_nothing(
    places: dict[str, Place], tmp_path: Path
) -> None:
    place = places["s3"]
    first, second = (Made(tmp_path / name, "late", data=name.encode()) for name in ("one", "two"))

    class Late(S3):
        def _claim(self, key: str, release: Release) -> None:
            first.publish(place)
            super()._claim(key, release)

    late = Late(place.url)
    with pytest.raises(GateError, match="a version never changes"):
        late.publish(folder=second.folder, release=second.release)
    assert first.is_seen(place)
    assert late._get(f"late/1.0.0/{s3.CLAIM}") is None


@all_places
def test_a_broken_download_goes_on(place: Place, tmp_path: Path, capsys: Say) -> None:
    Made(tmp_path, "resumed").publish(place)
    left = tmp_path / ".out.pull/tree/model.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes((b"onnx" + DATA)[:900_000])
    words = ["pull", f"{place.url}/resumed", "-t", "onnx", "-o", str(tmp_path / "out")]
    assert cli.run(words) == 0
    assert ": 3.0 MiB downloaded" in capsys.readouterr().out  # of 3.8
    assert (tmp_path / "out/model.bin").read_bytes() == b"onnx" + DATA
    assert not left.parent.parent.exists()


@written
def test_who_has_read_an_old_index_does_not_write(place: Place) -> None:
    registry = open_registry(place.publish)
    first = registry.index(model="contended")
    assert first.content == b""
    registry.write_index(model="contended", content=b"1", token=first.token)
    with pytest.raises(Conflict):
        registry.write_index(model="contended", content=b"2", token=first.token)
    second = registry.index(model="contended")
    assert second.content == b"1"
    registry.write_index(model="contended", content=b"2", token=second.token)
    assert registry.index(model="contended").content == b"2"


def tamper(place: Place, made: Made, path: str, old: bytes, new: bytes) -> None:
    """Change what the registry keeps of a file of a release, behind its back."""
    content = (made.folder / path).read_bytes()
    changed = content.replace(old, new, 1)
    assert changed != content
    key = f"{made.release.model}/{made.release.version}/{path}"
    if place.url.startswith("s3://"):
        obstore.put(open_registry(place.url)._store, key, changed)  # type: ignore[attr-defined]
    elif place.url.startswith("oci://"):
        digest = hashlib.sha256(content).hexdigest()
        (found,) = place.root.rglob(f"sha256/{digest[:2]}/{digest}/data")
        found.write_bytes(changed)
    else:
        Path(place.publish, key).write_bytes(changed)


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("onnx/model.bin", b"0", b"1", "onnx/model.bin of .* is not the file that was released"),
        (RELEASE, b'"opset": 18', b'"opset": 17', "another release than this|another digest"),
        (SIGNATURE, b'"payload": "ey', b'"payload": "e0', "not signed by the key|another digest"),
    ],
)
@all_places
def test_what_was_tampered_with_is_refused(
    place: Place, path: str, old: bytes, new: bytes, said: str, tmp_path: Path, capsys: Say
) -> None:
    """Each file in a model of its own: registries know bytes by their digests, or for a while."""
    model = f"tampered-{len(said)}"
    made = Made(tmp_path, model, data=model.encode() + DATA[:10_000] + b"0")
    made.publish(place)
    tamper(place, made, path, old, new)
    words = [f"{place.url}/{model}", "-t", "onnx", "--key", str(made.public)]
    assert cli.run(["pull", *words, "-o", str(tmp_path / "out")]) == 6
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT])
@all_places
def test_what_goes_wrong_with_bytes_that_came_is_not_the_registrys(
    place: Place, number: int, tmp_path: Path
) -> None:
    made = Made(tmp_path, f"reader-{number}", data=DATA[:1000])
    made.publish(place)
    named = {"model": made.release.model, "version": "1.0.0"}
    entry = next(made.release.entries())

    def spoil(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise OSError(number, "mine")

    opened = open_registry(place.url).open(**named, entry=entry)
    with pytest.raises(OSError, match="mine"), opened as chunks:
        spoil(chunks)


@all_places
def test_what_is_not_there(place: Place, tmp_path: Path, capsys: Say) -> None:
    registry = open_registry(place.url)
    assert registry.document(model="nothing", version="1.0.0", name=RELEASE) is None
    assert cli.run(["pull", f"{place.url}/nothing", "-t", "onnx"]) == 6
    assert "has no model 'nothing'" in capsys.readouterr().err


def test_a_web_server_takes_no_release(places: dict[str, Place], tmp_path: Path) -> None:
    made = Made(tmp_path, "refused")
    with pytest.raises(RegistryError, match="publish to the directory that it serves"):
        open_registry(places["http"].url).publish(folder=made.folder, release=made.release)


WRONG = "never-to-be-shown"


@pytest.mark.parametrize("place", ["s3", "oci"], indirect=True)
@pytest.mark.parametrize("secret", [WRONG, None])
def test_wrong_and_missing_credentials_are_refused(
    place: Place, secret: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    if secret is None:
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    else:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        servers.docker_config(tmp_path, place.url.split("/")[2], password=secret)
    assert cli.run(["pull", f"{place.url}/reaches", "-t", "onnx"]) == 6
    said = capsys.readouterr().err
    assert "credentials are missing, wrong, expired or do not allow this" in said
    assert WRONG not in said
    assert servers.PASSWORD not in said


# OCI and other clients of it


def test_a_large_file_goes_in_parts(
    places: dict[str, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "PART", 300_000)
    Made(tmp_path, "parts").publish(places["oci"])
    url = f"{places['oci'].url}/parts"
    assert cli.run(["pull", url, "-t", "onnx", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/sub/part.bin").read_bytes() == DATA * 3


def skopeo(*words: str, place: Place) -> bytes:
    done = subprocess.run(
        [servers.program("skopeo"), "--insecure-policy", *words],
        env={**servers.environment(), "REGISTRY_AUTH_FILE": str(place.root / "docker/config.json")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_another_client_copies_a_release_whole(
    places: dict[str, Place], tmp_path: Path, capsys: Say
) -> None:
    place = places["oci"]
    made = Made(tmp_path, "copied")
    made.publish(place)
    host = place.url.removeprefix("oci:")
    options = ("--src-tls-verify=false", "--dest-tls-verify=false")
    for tag in ("1.0.0", "index"):
        ends = (f"docker:{host}/copied:{tag}", f"docker:{host}-too/copied:{tag}")
        skopeo("copy", "--all", "--preserve-digests", *options, *ends, place=place)
    raw = [
        skopeo("inspect", "--raw", "--tls-verify=false", end, place=place)
        for end in (f"docker:{host}/copied:1.0.0", f"docker:{host}-too/copied:1.0.0")
    ]
    assert raw[0] == raw[1]
    told = {
        entry["annotations"].get("org.crosscast.target")
        for entry in json.loads(raw[0])["manifests"]
    }
    assert told == {*TARGETS, None}
    words = [f"{place.url}-too/copied@stable", "-t", "onnx", "--key", str(made.public)]
    assert cli.run(["pull", *words, "-o", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    assert shipped.files(tmp_path / "out") == shipped.files(made.folder / "onnx")


def test_what_a_registry_collects_is_nothing_of_a_release(
    places: dict[str, Place], tmp_path: Path
) -> None:
    place = places["oci"]
    made = Made(tmp_path, "kept")
    made.publish(place)
    config = str(place.root / "config.yml")
    subprocess.run(
        [servers.program("docker-registry"), "garbage-collect", "-m", config],
        env=servers.environment(),
        capture_output=True,
        check=True,
    )
    words = ["pull", f"{place.url}/kept@stable", "-t", "coreml-fp16", "-o", str(tmp_path / "out")]
    assert cli.run(words) == 0
    assert shipped.files(tmp_path / "out") == shipped.files(made.folder / "coreml-fp16")
