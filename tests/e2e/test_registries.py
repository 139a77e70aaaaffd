"""Releases through real registries: a directory, lighttpd, SeaweedFS, Debian's docker-registry."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers
import shipped

from crosscast.pipeline import cli
from crosscast.pipeline.errors import GateError, RegistryError
from crosscast.pipeline.release import signing
from crosscast.pipeline.release.document import RELEASE, SIGNATURE
from crosscast.pipeline.release.registries import oci, open_registry
from crosscast.pipeline.release.registries.base import Conflict

pytestmark = pytest.mark.e2e

KINDS = ("directory", "http", "s3", "oci")
TARGETS = ("onnx", "tflite-int8", "coreml-fp16")
DATA = random.Random(0).randbytes(1_000_000)
PULLS = 100
PUBLISHES = {"s3": 8, "oci": 16}
Say = pytest.CaptureFixture[str]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A registry, and the url that it is published to."""

    url: str
    publish: str
    root: Path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """All registries, by kind; the environment has the credentials."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    served = roots["http"] / "models"
    served.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        servers.http_server(served, roots["http"] / "log.txt") as web,
        servers.s3(roots["s3"]) as variables,
        servers.oci(roots["oci"]) as host,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("DOCKER_CONFIG", str(servers.docker_config(roots["oci"] / "docker", host)))
        urls = {
            "directory": (str(roots["directory"]), str(roots["directory"])),
            "http": (web, str(served)),
            "s3": ("s3://models/of/ours",) * 2,
            "oci": (f"oci://{host}/of/ours",) * 2,
        }
        yield {
            kind: Place(url=url, publish=publish, root=roots[kind])
            for kind, (url, publish) in urls.items()
        }


@pytest.fixture
def place(places: dict[str, Place], request: pytest.FixtureRequest) -> Place:
    return places[request.param]


all_places = pytest.mark.parametrize("place", KINDS, indirect=True)
written = pytest.mark.parametrize("place", ["directory", "s3", "oci"], indirect=True)


class Made:
    """A release of its own model, for one test."""

    def __init__(self, root: Path, model: str, version: str = "1.0.0", data: bytes = DATA) -> None:
        self.folder = root / f"{model}-{version}"
        private, self.public = signing.keygen(root / f"keys-{model}-{version}")
        self.release = shipped.made(
            self.folder, model=model, version=version, data=data, targets=TARGETS, key=private
        )

    def publish(self, place: Place) -> None:
        shipped.publish(open_registry(place.publish), self.folder, self.release)


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


@all_places
def test_a_broken_download_goes_on(place: Place, tmp_path: Path, capsys: Say) -> None:
    Made(tmp_path, "resumed").publish(place)
    left = tmp_path / ".out.pull/tree/model.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes((b"onnx" + DATA)[:900_000])
    words = ["pull", f"{place.url}/resumed", "-t", "onnx", "-o", str(tmp_path / "out")]
    assert cli.run(words) == 0
    assert "<- 3.0 MiB" in capsys.readouterr().out  # of 3.8
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


# Killed at any moment


def killed(work: Callable[[], object], seconds: float) -> None:
    """Do the work in a process of its own, and kill -9 it after so long."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_pull_that_is_killed_leaves_the_old_or_the_new(
    places: dict[str, Place], tmp_path: Path, capsys: Say
) -> None:
    place, moments = places["http"], random.Random(0)
    versions = {
        version: Made(tmp_path, "killed", version, data * 1000)
        for version, data in (("1.0.0", b"old" * 300), ("2.0.0", b"new" * 300))
    }
    expected = {}
    for version, made in versions.items():
        made.publish(place)
        expected[version] = shipped.files(made.folder / "onnx")
    out, seen = tmp_path / "out", set()

    def pull(version: str) -> int:
        return cli.run(["pull", f"{place.url}/killed@{version}", "-t", "onnx", "-o", str(out)])

    started = time.monotonic()
    assert pull("1.0.0") == 0
    whole = time.monotonic() - started
    for number in range(PULLS):
        version = ("2.0.0", "1.0.0")[number % 2]
        killed(lambda version=version: pull(version), moments.uniform(0, 1.5 * whole))
        found = [version for version in expected if shipped.files(out) == expected[version]]
        assert len(found) == 1
        seen.update(found)
        if number % 10 == 9:
            assert pull(version) == 0
            assert shipped.files(out) == expected[version]
            assert not (tmp_path / ".out.pull").exists()
    assert seen == set(expected)


PUBLISH = """
import sys
from pathlib import Path
from crosscast.pipeline.release.document import parse
from crosscast.pipeline.release.registries import open_registry
folder = Path(sys.argv[1])
release = parse((folder / "release.json").read_bytes(), where="test")
registry = open_registry(sys.argv[2])
print("ready", flush=True)
registry.publish(folder=folder, release=release)
"""


@pytest.mark.parametrize("place", ["s3", "oci"], indirect=True)
def test_a_publish_that_is_killed_is_not_seen(place: Place, tmp_path: Path) -> None:
    """In processes of their own: the library for S3 has threads, which no fork takes along."""
    moments = random.Random(0)
    kind = "s3" if place.url.startswith("s3") else "oci"
    whole, unseen = 0.3, 0
    for number in range(PUBLISHES[kind] // 2):
        made = Made(tmp_path, "half", f"1.{number}.0", DATA[number:])
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", PUBLISH, str(made.folder), place.publish],
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0, whole))
            process.kill()
            process.communicate()
            unseen += not whole_or_nothing(place, made)
        made.publish(place)
        assert whole_or_nothing(place, made)
    assert unseen


def whole_or_nothing(place: Place, made: Made) -> bool:
    """Whether the release is seen; if so, all of it is there."""
    registry, release = open_registry(place.url), made.release
    named = {"model": release.model, "version": release.version}
    if registry.document(**named, name=RELEASE) is None:
        return False
    for entry in release.entries():
        with registry.open(**named, entry=entry) as chunks:
            assert b"".join(chunks) == (made.folder / entry.path).read_bytes()
    assert registry.document(**named, name=SIGNATURE) == (made.folder / SIGNATURE).read_bytes()
    return True
