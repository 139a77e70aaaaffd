"""A fitted scikit-learn estimator from a skops file, a pickle or the user's own function."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError, ToolchainError
from crosscast.pipeline.sources.impostors import refuse_impostors
from crosscast.pipeline.worker.usercode import call, described, load_function

SKOPS = ".skops"

_SAVE = "save it again as `skops.io.dump(estimator, 'model.skops')`, which runs no code when read"


def is_code(spec: str) -> bool:
    """Whether the config's `sklearn` names a function rather than a file."""
    return re.search(r"\.py:[A-Za-z_]\w*$", spec) is not None


def read(source: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The fitted estimator, and what scikit-learn said against the version that it was saved with.

    source: `model`, the file or function; `trusted`, whether the file may run code.
    Raises StageError where it is none, is not fitted, or may not be read.
    """
    model = source["model"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if is_code(model):
            estimator = call(load_function(model), what=f"factory {model}")
        else:
            estimator = _from_file(Path(model), trusted=source["trusted"])
    _refuse_unfitted(estimator, model)
    found = [str(warning.message) for warning in caught if _is_version(warning)]
    return estimator, list(dict.fromkeys(text.partition(" This might")[0] for text in found))


def _from_file(path: Path, *, trusted: bool) -> Any:
    refuse_impostors(path, what="scikit-learn file", fix=f"give the file itself; {_SAVE}")
    if path.suffix.lower() == SKOPS:
        return _skops(path, trusted=trusted)
    if not trusted:
        raise StageError(
            f"{path} is a pickle, which can run any code while it is read",
            fix=f"set `trusted: true` beside it if you trust where it comes from, or {_SAVE}",
        )
    return _pickle(path)


def _skops(path: Path, *, trusted: bool) -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ToolchainError(
            "skops is not installed, which reads .skops files",
            fix="pip install 'crosscast[sklearn]'",
        ) from error
    try:
        types = skops.io.get_untrusted_types(file=path)
        if not types or trusted:
            return skops.io.load(path, trusted=types)
    except Exception as error:
        raise StageError(
            f"{path} cannot be read as a skops file: {described(error)}",
            fix="save it again with skops.io.dump, of a version like the one installed here",
        ) from error
    raise StageError(
        f"{path} holds types beyond those that skops trusts: {', '.join(types)}",
        fix="set `trusted: true` beside it if you know that these do no harm when they are built",
    )


def _pickle(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except (ModuleNotFoundError, AttributeError) as error:
        raise StageError(
            f"{path} cannot be unpickled: {described(error)}",
            fix="it refers to code that is not here: install what it was saved with, or build the "
            "estimator in a function (`sklearn: file.py:function`)",
        ) from error
    except Exception as error:
        raise StageError(
            f"{path} cannot be unpickled: {described(error)}",
            fix="fetch it again, or save it again with the installed version of scikit-learn",
        ) from error


def _is_version(warning: warnings.WarningMessage) -> bool:
    return warning.category.__name__ == "InconsistentVersionWarning"


def _refuse_unfitted(estimator: Any, model: str) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(estimator, BaseEstimator):
        what = f"the class {estimator.__name__}" if isinstance(estimator, type) else "none but "
        what += "" if isinstance(estimator, type) else f"a {type(estimator).__name__}"
        raise StageError(
            f"{model} gives no scikit-learn estimator: {what}",
            fix="give the fitted estimator itself, several steps as one sklearn.pipeline.Pipeline",
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise StageError(
            f"{model} gives a {type(estimator).__name__} that is not fitted",
            fix="call fit() on the training data before it is saved or returned",
        ) from error
