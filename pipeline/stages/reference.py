"""Stage: the source itself run on every case. What it answers is the truth for all artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import CrosscastError, StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.conditioning import MEASURED, noise, rounded
from crosscast.pipeline.parity.samples import Case, dynamic_dims, read_cases
from crosscast.pipeline.parity.streams import require_fed, resumed, states
from crosscast.pipeline.parity.tensors import encoded
from crosscast.pipeline.parity.vectors import DTYPES, Vector, write_vectors
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, dtype_name
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.sources.fold import Reference
from crosscast.pipeline.sources.outputs import common_layout, sizes
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.worker.usercode import described
from crosscast.targets.base import Session


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write the vectors, the cases and the signature completed with the outputs.

    Raises StageError where the source refuses a case, is not deterministic, changes its outputs
    from case to case, or does not give what a state is `fed_by`.
    """
    source = options["source"]
    module = open_source(source)
    signature = module.signature(source=source, declared=Signature.from_json(options["signature"]))
    session = module.load(source=source, signature=signature, outputs=options["outputs"])
    # What the session says of its outputs goes first: folded images have a layout of their own.
    layout = common_layout(session.outputs) or common_layout(signature.inputs)
    seen = _Seen(signature, layout)
    out.mkdir(parents=True, exist_ok=True)
    cases = read_cases(inputs["samples"])
    write_vectors(out, _vectors(session, cases, seen, own=states(signature)))
    write_json(out / "signature.json", seen.signature().to_json())
    notes = {"non_finite": seen.non_finite} if seen.non_finite else {}
    return StageResult(dependencies=module.dependencies(), notes=notes)


def _vectors(
    session: Session, cases: Iterator[Case], seen: _Seen, *, own: Mapping[str, str]
) -> Iterator[Vector]:
    answers: dict[str, Arrays] = {}
    beside = _Rounded(session, own)
    for index, given in enumerate(cases):
        case = resumed(given, answers, own=own)
        outputs = answer(session, case)
        require_fed(case, outputs, own=own)
        answers = {case.name: outputs}
        if index == 0:
            _require_same(outputs, answer(session, case))
        seen.add(case, outputs)
        yield Vector(case=case, outputs=outputs, noise=beside.noise(case, outputs))


class _Rounded:
    """The source beside itself with rounded inputs, on a stream from its own state then. Pixels
    have nothing to round before they are floats.
    """

    def __init__(self, session: Session, own: Mapping[str, str]) -> None:
        self._session = session
        self._prepared: Callable[[Arrays], Arrays] = dict
        if isinstance(session, Reference):
            self._session, self._prepared = session.inner, session.prepared
        self._own = own
        self._answers: dict[str, dict[str, Arrays]] = {}
        self._greatest: dict[str, dict[str, float]] = {}

    def noise(self, case: Case, outputs: Arrays) -> dict[str, dict[str, float]]:
        """What rounding changes of the outputs, by precision. On a stream it is the greatest change
        so far: in one step of a small output, errors may cancel by chance.
        """
        found: dict[str, dict[str, float]] = {}
        if not case.follows:
            self._greatest.clear()
        for precision in MEASURED.get(case.origin, ()):
            before = resumed(case, self._answers.get(precision, {}), own=self._own)
            exact = self._prepared(before.arrays)
            inputs = rounded(exact, precision=precision, seed=len(case.name))
            again = answer(self._session, replace(case, arrays=inputs))
            self._answers[precision] = {case.name: again}
            before_it = self._greatest.get(precision, {})
            measured = {
                name: max(rms, before_it.get(name, 0.0))
                for name, rms in noise(outputs, again).items()
            }
            if measured:
                found[precision] = self._greatest[precision] = measured
        return found


def answer(session: Session, case: Case) -> Arrays:
    """The source's outputs for a case. Raises StageError where it refuses it, or gives what no
    artifact can.
    """
    # copies: the source may write into its inputs, and may use its output buffers again
    given = {name: array.copy() for name, array in case.arrays.items()}
    try:
        outputs = session.run(given)
    except CrosscastError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in case.arrays.items())
        raise StageError(
            f"the source refuses case '{case.name}' ({shapes}): {described(error)}",
            fix="declare only the shapes and sizes that it takes",
        ) from error
    return {name: _plain(name, array) for name, array in outputs.items()}


def _plain(name: str, value: Any) -> NDArray[Any]:
    array = np.array(value, order="C")
    if array.dtype.kind in "OU":
        strings = array.astype(object)
        encoded(strings, name=name)  # refuses objects that are no strings
        return strings
    if array.dtype.name not in DTYPES:
        raise StageError(
            f"output '{name}' has dtype {array.dtype}, which no artifact can give",
            fix="return real numbers, booleans or strings",
        )
    return array


def _require_same(first: Arrays, second: Arrays) -> None:
    for name, array in first.items():
        other = second.get(name)
        if other is None or not _same(array, other):
            raise StageError(
                f"the source is not deterministic: output '{name}' changes between two runs on"
                " the same input",
                fix="look for dropout in train mode, random operators, state kept between calls",
            )


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind == "O":
        return one.dtype == other.dtype and np.array_equal(one, other)
    # bit by bit, since NaN is unlike itself
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


class _Seen:
    """The outputs so far: names, dtypes and sizes must agree, and give their signature."""

    def __init__(self, signature: Signature, layout: Layout | None) -> None:
        self._declared = signature
        self._layout = layout
        self._dtypes: dict[str, str] = {}
        self._shapes: dict[str, list[tuple[int, ...]]] = {}
        self._dims: dict[str, list[int]] = {name: [] for name in dynamic_dims(signature)}
        self.non_finite: dict[str, list[str]] = {}

    def add(self, case: Case, outputs: Arrays) -> None:
        """Take in a case."""
        if not self._dtypes:
            self._dtypes = {name: dtype_name(array.dtype) for name, array in outputs.items()}
            self._shapes = {name: [] for name in outputs}
        self._require_alike(case, outputs)
        for name, size in sizes(self._declared.inputs, case.arrays).items():
            self._dims[name].append(size)
        for name, array in outputs.items():
            self._shapes[name].append(array.shape)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self.non_finite.setdefault(name, []).append(case.name)

    def signature(self) -> Signature:
        """What was declared, with the outputs as they were."""
        outputs = tuple(self._tensor(name, self._layout) for name in self._dtypes)
        return replace(self._declared, outputs=outputs)

    def _require_alike(self, case: Case, outputs: Arrays) -> None:
        if not outputs:
            raise StageError("the source gives no output", fix="return at least one tensor")
        found = {name: dtype_name(array.dtype) for name, array in outputs.items()}
        if list(found.items()) != list(self._dtypes.items()):
            raise StageError(
                f"case '{case.name}' gives the outputs {found}, the first one {self._dtypes}",
                fix="the names, order and dtypes of outputs must not depend on the inputs",
            )
        for name, array in outputs.items():
            ranks = {len(shape) for shape in self._shapes[name]}
            if ranks - {array.ndim}:
                raise StageError(
                    f"case '{case.name}' gives output '{name}' {array.ndim} dimensions,"
                    f" others give it {ranks.pop()}",
                    fix="the number of dimensions must not depend on the inputs",
                )

    def _tensor(self, name: str, layout: Layout | None) -> Tensor:
        columns = list(zip(*self._shapes[name], strict=True))
        dtype = self._dtypes[name]
        is_image = len(columns) == 4 and dtype.startswith("float")
        return Tensor(
            name=name,
            shape=tuple(self._dim(name, axis, column) for axis, column in enumerate(columns)),
            dtype=dtype,
            layout=layout if is_image else None,
        )

    def _dim(self, output: str, axis: int, found: Sequence[int]) -> int | str:
        """The first dynamic dimension that has this size in every case, or the constant, or a
        name of its own for a size that depends on the data.
        """
        for name, bound in self._dims.items():
            if list(found) == bound:
                return name
        if len(set(found)) == 1:
            return found[0]
        own = f"{output}_dim{axis}"
        return f"{own}_" if own in self._dims else own
