"""Test vectors: all cases with the outputs that the source gives, in one safetensors file.

Keys are `<case>/in/<name>` and `<case>/out/<name>`, with the case's place in the list. The file is
written as the cases come, which the library cannot: only its header waits for the last one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.tensors import encoded, metadata, open_tensors
from crosscast.pipeline.signature import Arrays, Signature

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
"""The format's names of numpy's dtypes."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A case and the source's outputs for it, by name, in the source's layout.

    noise: by precision and output, the rms that rounding the inputs to that precision changes of
        the outputs (see `conditioning`); only where it was measured.
    """

    case: Case
    outputs: Arrays
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies in the part that holds the items of its width."""

    dtype: str
    shape: tuple[int, ...]
    width: int
    start: int
    end: int


def write_vectors(tree: Path, vectors: Iterable[Vector]) -> list[dict[str, Any]]:
    """Write `vectors.safetensors` and `cases.json` under `tree`; give the entries of the latter."""
    entries: list[dict[str, Any]] = []

    def tensors() -> Iterator[tuple[str, NDArray[Any]]]:
        for index, vector in enumerate(vectors):
            case = vector.case
            entry = case.entry()
            entries.append({**entry, "noise": vector.noise} if vector.noise else entry)
            yield from ((f"{index}/in/{name}", array) for name, array in case.arrays.items())
            yield from ((f"{index}/out/{name}", array) for name, array in vector.outputs.items())

    write_tensors(tree / "vectors.safetensors", tensors())
    write_json(tree / "cases.json", entries)
    return entries


def read_vectors(file: Path, entries: Sequence[Mapping[str, Any]]) -> Iterator[Vector]:
    """The vectors of a safetensors file in order, each read when it is asked for.

    entries: what `cases.json` says of each case, its noise included.
    """
    with open_tensors(file) as tensors:
        keys: dict[str, list[str]] = defaultdict(list)
        for key in tensors:
            keys[key[: key.index("/")]].append(key)
        for place, entry in enumerate(entries):
            read: dict[str, dict[str, NDArray[Any]]] = {"in": {}, "out": {}}
            for key in keys[str(place)]:
                _, side, name = key.split("/", 2)
                read[side][name] = tensors[key]
            case = Case.of(entry, read["in"])
            yield Vector(case=case, outputs=read["out"], noise=entry.get("noise", {}))


def read_reference(tree: Path) -> Iterator[Vector]:
    """The vectors of a reference tree."""
    entries = json.loads((tree / "cases.json").read_text(encoding="utf-8"))
    return read_vectors(tree / "vectors.safetensors", entries)


def read_signature(tree: Path) -> Signature:
    """The signature of a reference tree: the source's layout, with outputs."""
    text = (tree / "signature.json").read_text(encoding="utf-8")
    return Signature.from_json(json.loads(text))


def write_tensors(path: Path, tensors: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write a safetensors file from a stream of tensors, strings as `tensors` has them.

    Wide items come first, so that every tensor is aligned and a device can map the file.
    """
    places: dict[str, _Place] = {}
    with ExitStack() as stack:
        parts: dict[int, IO[bytes]] = {}
        strings: list[str] = []
        for key, given in tensors:
            array = given
            if given.dtype.kind == "O":
                strings.append(key)
                array = encoded(given, name=key)
            width = array.dtype.itemsize
            if width not in parts:
                parts[width] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            start = parts[width].tell()
            parts[width].write(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())
            places[key] = _Place(
                dtype=DTYPES[array.dtype.name],
                shape=array.shape,
                width=width,
                start=start,
                end=parts[width].tell(),
            )
        _assemble(path, parts, places, metadata(strings))


def _assemble(
    path: Path,
    parts: Mapping[int, IO[bytes]],
    places: Mapping[str, _Place],
    told: Mapping[str, str],
) -> None:
    widths = sorted(parts, reverse=True)
    sizes = [parts[width].tell() for width in widths]
    bases = {width: sum(sizes[:index]) for index, width in enumerate(widths)}
    header: dict[str, Any] = {
        key: {
            "dtype": place.dtype,
            "shape": place.shape,
            "data_offsets": [bases[place.width] + place.start, bases[place.width] + place.end],
        }
        for key, place in places.items()
    }
    if told:
        header["__metadata__"] = told
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for width in widths:
            parts[width].seek(0)
            shutil.copyfileobj(parts[width], file)
