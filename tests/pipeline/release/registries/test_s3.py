"""A bucket that refuses or is busy: what is told. The protocol itself: tests/e2e."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
from faulty import Fault, Server, says

from crosscast.pipeline import cli, web

Say = pytest.CaptureFixture[str]
SECRET = "never-to-be-shown"


def error(code: int, name: str) -> Fault:
    """An error as S3 tells it."""
    return says(code, f'<?xml version="1.0"?>\n<Error><Code>{name}</Code></Error>'.encode())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(web, "TRIES", 3)
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
    monkeypatch.chdir(tmp_path)
    with faulty.running(tmp_path) as found:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": found.url,
        }.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.mark.parametrize(
    ("fault", "asked", "said", "fix"),
    [
        (error(400, "ExpiredToken"), 1, "400 Bad Request (ExpiredToken): credentials", "AWS_SESS"),
        (error(403, "SignatureDoesNotMatch"), 1, "(SignatureDoesNotMatch): credentials", "AWS_SEC"),
        (error(400, "InvalidRequest"), 1, "400 Bad Request (InvalidRequest)", "AWS_REGION"),
        (error(404, "NoSuchBucket"), 1, "there is no such bucket", "correct its name"),
        (error(500, "InternalError"), 3, "500 Internal Server Error (InternalError)", "try again"),
        (error(503, "SlowDown"), 3, "503 Service Unavailable (SlowDown)", "try again"),
        (faulty.hangs_up, 3, "error sending request", "check the network"),
        (faulty.loops, 11, "error following redirect", "AWS_ENDPOINT_URL"),
        (says(200, b"<html>"), 1, "the index of m cannot be used", "restore its index.json"),
    ],
)
def test_a_bucket_that_refuses(
    fault: Fault, asked: int, said: str, fix: str, server: Server, capsys: Say
) -> None:
    server.misbehave(fault)
    assert cli.run(["pull", "s3://models/ours/m", "-t", "onnx"]) == 6
    told = capsys.readouterr().err
    assert said in told
    assert fix in told
    assert SECRET not in told
    assert len(server.asked) == asked
    assert list(Path().iterdir()) == []


def test_keys_of_a_profile(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    sent: list[str] = []

    def noted(handler: faulty.Handler, content: bytes) -> None:
        sent.append(handler.headers["Authorization"])
        handler.answer(404)

    server.misbehave(noted)
    file = tmp_path.parent / f"{tmp_path.name}-credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "ours")
    file.write_text("[ours]\naws_access_key_id = of-ours\naws_secret_access_key = x\n")
    assert cli.run(["pull", "s3://models/m", "-t", "onnx"]) == 6
    assert "Credential=of-ours/" in sent[0]
    assert "has no model 'm'" in capsys.readouterr().err
    file.write_text("no section\n")
    assert cli.run(["pull", "s3://models/m", "-t", "onnx"]) == 2
    assert f"{file}: cannot be read" in capsys.readouterr().err
