from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.worker import usercode


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Imports are the process's for good; a worker ends, a test gives them back."""
    modules, path, cached = dict(sys.modules), list(sys.path), sys.dont_write_bytecode
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.path[:], sys.dont_write_bytecode = path, cached


@pytest.fixture
def write(tmp_path: Path):
    def one(text: str, name: str = "model.py") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return one


def failure(spec: str) -> StageError:
    with pytest.raises(StageError) as caught:
        usercode.load_function(spec)
    return caught.value


def test_a_function_with_its_neighbours(write):
    write("VALUE = 7\n", "my_helpers.py")
    path = write("import my_helpers\n\ndef build():\n    return my_helpers.VALUE\n")
    assert usercode.load_function(f"{path}:build")() == 7
    assert list(path.parent.glob("__pycache__")) == []


def test_a_file_is_imported_once(write):
    path = write("RUNS = []\ndef a(): return RUNS\ndef b(): return RUNS\n")
    first, second = (usercode.load_function(f"{path}:{name}") for name in "ab")
    assert first() is second()


def test_an_edit_within_the_second_is_seen(write):
    path = write("def build(): return 1\n")
    assert usercode.load_function(f"{path}:build")() == 1
    del sys.modules[usercode.load_function(f"{path}:build").__module__]
    write("def build(): return 2\n")
    assert usercode.load_function(f"{path}:build")() == 2


def test_files_of_one_name_do_not_mix(write, tmp_path):
    (tmp_path / "sub").mkdir()
    first, second = write("def f(): return 1\n"), write("def f(): return 2\n", "sub/model.py")
    assert usercode.load_function(f"{first}:f")() == 1
    assert usercode.load_function(f"{second}:f")() == 2


def test_dataclasses_and_pickles_find_their_module(write):
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
    )
    point = usercode.load_function(f"{path}:Point")(3)
    assert dataclasses.asdict(pickle.loads(pickle.dumps(point))) == {"x": 3}


def test_own_files(write):
    helper = write("", "my_helpers.py")
    path = write("import my_helpers, json, pytest\ndef build(): ...\n")
    usercode.load_function(f"{path}:build")
    own = usercode.own_files()
    assert {str(path), str(helper)} <= set(own)
    assert own == tuple(sorted(own))
    assert not any("site-packages" in file or file == usercode.__file__ for file in own)
    assert not any(file == sys.modules["json"].__file__ for file in own)


def test_no_such_file(tmp_path):
    error = failure(f"{tmp_path}/gone.py:build")
    assert error.message == f"{tmp_path}/gone.py: there is no such file"


def test_no_function_named(write):
    path = write("")
    error = failure(str(path))
    assert "write it as file.py:function" in error.fix


def test_no_such_function(write):
    path = write("from pathlib import Path\ndef build(): ...\ndef other(): ...\n")
    error = failure(f"{path}:biuld")
    assert error.message == f"{path}: there is no function 'biuld'; did you mean 'build'?"
    assert error.fix == "name one of its functions: build, other"


def test_no_function_at_all(write):
    path = write("x = 1\n")
    assert failure(f"{path}:build").fix == "name one of its functions: none"
    assert failure(f"{path}:x").message == f"{path}: 'x' is no function but a int"


def test_what_does_not_parse(write):
    path = write("def build(:\n    pass\n")
    message = failure(f"{path}:build").message
    assert message.startswith(f"{path}:1:11: does not parse as Python: invalid syntax")


def test_a_neighbour_that_does_not_parse(write):
    helper = write("a = (\n", "my_helpers.py")
    path = write("import my_helpers\n")
    assert failure(f"{path}:build").message.startswith(f"{helper}:1:5: does not parse")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "model.py"
    path.write_bytes(b"\x80\x00\xff")
    assert str(path) in failure(f"{path}:build").message


def test_an_import_that_raises(write):
    write("def check():\n    raise ValueError('bad\\nvalue')\n", "my_helpers.py")
    path = write("import my_helpers\nmy_helpers.check()\n")
    assert failure(f"{path}:build").message == (
        f"importing {path} failed: my_helpers.py:2 in check: ValueError: bad\nvalue"
    )
    assert failure(f"{path}:build").message  # nothing half-imported is left to be found


def test_an_import_that_lacks_a_module(write):
    path = write("import not_there_at_all\n")
    assert failure(f"{path}:build").message == (
        f"importing {path} failed: model.py:1 in <module>: "
        "ModuleNotFoundError: No module named 'not_there_at_all'"
    )


def test_an_import_that_exits(write):
    path = write("import sys\nsys.exit(2)\n")
    error = failure(f"{path}:build")
    assert error.message == f"importing {path} called sys.exit(2) at model.py:2 in <module>"


def test_a_call_that_raises_is_placed_in_the_users_code(write):
    path = write("import json\ndef build(text):\n    return json.loads(text)\n")
    build = usercode.load_function(f"{path}:build")
    assert usercode.call(build, "[1]") == [1]
    with pytest.raises(StageError, match=r"^the factory failed: model\.py:3 in build: JSONDecode"):
        usercode.call(build, "[")


def test_a_call_that_exits(write):
    path = write("def samples():\n    raise SystemExit('no photos')\n")
    with pytest.raises(
        StageError, match=r"^the samples called sys\.exit\('no photos'\) at model\.py:2 in samples"
    ):
        usercode.call(usercode.load_function(f"{path}:samples"), what="samples")


def test_errors_of_ours_and_of_memory_pass(write):
    path = write(
        "from crosscast.pipeline.errors import StageError\n"
        "def ours(): raise StageError('mine', fix='do')\n"
        "def memory(): raise MemoryError\n"
    )
    with pytest.raises(StageError, match=r"^mine"):
        usercode.call(usercode.load_function(f"{path}:ours"))
    with pytest.raises(MemoryError):
        usercode.call(usercode.load_function(f"{path}:memory"))
