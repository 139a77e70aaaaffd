from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from crosscast.pipeline.errors import ToolchainError
from crosscast.pipeline.executors import overlay

LOCK = """\
# a comment
first==1.0 \\
    --hash=sha256:00
second.part==2.0.1 --hash=sha256:11
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "some.lock"
    path.write_text(LOCK)
    return path


def fake_pip(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    target = Path(command[command.index("--target") + 1])
    target.mkdir()
    (target / "first.py").touch()
    return subprocess.CompletedProcess(command, 0, "")


def test_what_a_lock_pins(lock):
    assert overlay.requirements(lock) == {"first": "1.0", "second.part": "2.0.1"}


def test_the_lock_of_onnx2tf_pins_by_hash():
    lock = Path(overlay.__file__).parents[2] / "targets" / "onnx2tf.lock"
    assert overlay.requirements(lock) == {"onnx2tf": "2.6.9", "sng4onnx": "2.0.1"}
    assert lock.read_text().count("--hash=sha256:") == 2


def test_another_lock_has_another_directory(lock, tmp_path):
    before = overlay.overlay_directory(lock, tmp_path)
    lock.write_text(LOCK.replace("2.0.1", "2.0.2"))
    assert overlay.overlay_directory(lock, tmp_path) != before
    assert before.name == "site-packages"
    assert f"cp{sys.version_info.major}{sys.version_info.minor}" in before.parent.name


def test_built_once(lock, tmp_path):
    assert not overlay.installed(lock, tmp_path)
    directory = overlay.build(lock, tmp_path, fake_pip)
    assert directory == overlay.overlay_directory(lock, tmp_path)
    assert overlay.installed(lock, tmp_path)
    assert (directory / "first.py").exists()
    assert overlay.build(lock, tmp_path, lambda _: pytest.fail("built again")) == directory


def test_the_command_checks_hashes_and_takes_no_dependencies(lock, tmp_path):
    commands = []
    overlay.build(lock, tmp_path, lambda command: commands.append(command) or fake_pip(command))
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--no-deps", "--ignore-requires-python", "--require-hashes"} < set(command)


def test_a_failure_says_what_pip_said_and_leaves_nothing(lock, tmp_path):
    output = "\n".join(f"line {number}" for number in range(20))

    def fail(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        fake_pip(command)
        return subprocess.CompletedProcess(command, 1, output)

    with pytest.raises(ToolchainError) as caught:
        overlay.build(lock, tmp_path, fail)
    assert "some (first 1.0 second.part 2.0.1) could not be installed" in caught.value.message
    assert "line 19" in caught.value.message
    assert "line 3" not in caught.value.message
    assert "crosscast doctor --build-overlays" in caught.value.fix
    assert not overlay.installed(lock, tmp_path)
    assert [path.suffix for path in (tmp_path / "overlays").iterdir()] == [".lock"]


def test_remains_of_a_killed_build_are_removed(lock, tmp_path):
    home = overlay.overlay_directory(lock, tmp_path).parent
    (home.parent / f"{home.name}.staging-dead").mkdir(parents=True)
    overlay.build(lock, tmp_path, fake_pip)
    assert not list(home.parent.glob("*staging*"))


def test_builders_wait_for_each_other(lock, tmp_path):
    command = [sys.executable, __file__, str(lock), str(tmp_path)]
    builders = [subprocess.Popen(command) for _ in range(3)]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    assert (tmp_path / "runs").read_text() == "x"


def test_real_pip_refuses_a_wrong_hash(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _write_wheel(wheels / "first-1.0-py3-none-any.whl")
    lock = tmp_path / "some.lock"
    lock.write_text(f"--no-index\n--find-links {wheels}\nfirst==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ToolchainError, match=r"(?i)do not match the hashes"):
        overlay.build(lock, tmp_path)


def test_real_pip_installs_without_dependencies_or_python_version(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "first-1.0-py3-none-any.whl"
    _write_wheel(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = tmp_path / "some.lock"
    lock.write_text(f"--no-index\n--find-links {wheels}\nfirst==1.0 --hash=sha256:{digest}\n")
    assert (overlay.build(lock, tmp_path) / "first.py").read_text() == "here = True\n"


def _write_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("first.py", "here = True\n")
        wheel.writestr(
            "first-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: first\nVersion: 1.0\nRequires-Python: >=9\n"
            "Requires-Dist: not-there-at-all==3\n",
        )
        wheel.writestr(
            "first-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("first-1.0.dist-info/RECORD", "")


def _slow_and_counted(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    with (Path(sys.argv[2]) / "runs").open("a") as file:
        file.write("x")
    time.sleep(0.3)
    return fake_pip(command)


if __name__ == "__main__":
    overlay.build(Path(sys.argv[1]), Path(sys.argv[2]), _slow_and_counted)
