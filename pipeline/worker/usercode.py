"""The user's own code: loading "file.py:function", and saying clearly what is wrong with it."""

from __future__ import annotations

import difflib
import hashlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from crosscast.pipeline.errors import CrosscastError, StageError

_LINES = 5
_WIDTH = 400
_NOT_OWN = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
    Path(__file__).parents[1],  # crosscast's pipeline/ and targets/, wherever they are installed
    Path(__file__).parents[2] / "targets",
)


def load_function(spec: str) -> Callable[..., Any]:
    """The function that "/absolute/file.py:function" names; its module is imported once a process.

    The file's directory goes first on sys.path, so that it can import its neighbours as it does
    when run by hand. Raises StageError where that fails, naming the user's file and line.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise StageError(
            f"{path}: there is no such file",
            fix=f"write it as file.py:function; '{spec}' was understood as file '{file}'",
        )
    module = _module(path)
    found = getattr(module, name, None)
    if found is None:
        raise _no_such_function(module, path, name)
    if not callable(found):
        raise StageError(
            f"{path}: '{name}' is no function but a {type(found).__name__}",
            fix=f"make it `def {name}(): ...`",
        )
    return found  # type: ignore[no-any-return]


def call(function: Callable[..., Any], *args: Any, what: str = "factory") -> Any:
    """Call the user's function; raises StageError where it raises or calls sys.exit.

    what: the function's part in the config, for the message.
    """
    with _blamed(f"the {what}"):
        return function(*args)


def own_files() -> tuple[str, ...]:
    """The user's own files among the modules imported so far, absolute and sorted.

    Not the standard library, not installed distributions (overlays included), not crosscast.
    """
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return tuple(sorted({file for file in files if file and is_own(file)}))


def is_own(file: str) -> bool:
    """Whether a file of code is the user's own; generated code ("<string>") is not."""
    path = Path(file)
    if not path.is_absolute() or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _NOT_OWN) and path.is_file()


def place(error: BaseException) -> str:
    """Where an error came from, as "file.py:12 in build": the user's innermost frame, else the
    innermost; empty where there is none.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(frame.filename)]
    for frame in reversed(own or list(frames)):
        return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return ""


def described(error: BaseException) -> str:
    """The error as "TypeName: text", the text cut to its first few lines."""
    lines = [line[:_WIDTH] for line in str(error).strip().splitlines()]
    if len(lines) > _LINES:
        lines[_LINES:] = ["..."]
    name = type(error).__name__
    return f"{name}: " + "\n".join(lines) if lines else name


def _module(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"_crosscast_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up
    try:
        _execute(module, loader, path)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _execute(module: ModuleType, loader: importlib.machinery.SourceFileLoader, path: Path) -> None:
    # Cached bytecode is told apart by whole seconds and size: a quick edit would be missed. And a
    # build leaves no files beside the user's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(path.parent))
    with _blamed(f"importing {path}"):
        exec(loader.source_to_code(loader.get_data(str(path)), str(path)), module.__dict__)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Raise what the user's code raises as a StageError that says where."""
    try:
        yield
    except (CrosscastError, MemoryError):
        raise
    except SystemExit as error:
        code = "" if error.code is None else repr(error.code)
        raise StageError(
            f"{what} called sys.exit({code}) at {place(error)}",
            fix="return or raise instead; keep what a script does under `if __name__ == ...`",
        ) from error
    except SyntaxError as error:
        where = ":".join(str(part) for part in (error.filename, error.lineno, error.offset) if part)
        raise StageError(f"{where or what}: does not parse as Python: {error.msg}") from error
    except Exception as error:  # whatever the user's code raises, it is their code's to mend
        raise StageError(f"{what} failed: {place(error)}: {described(error)}") from error


def _no_such_function(module: ModuleType, path: Path, name: str) -> StageError:
    there = sorted(
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    )
    close = difflib.get_close_matches(name, there, n=1)
    message = f"{path}: there is no function '{name}'"
    if close:
        message += f"; did you mean '{close[0]}'?"
    listed = ", ".join(there) if there else "none"
    return StageError(message, fix=f"name one of its functions: {listed}")
