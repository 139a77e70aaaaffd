"""The .ort file: read by ONNX Runtime's own schema, and brought into a canonical form."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from crosscast.pipeline.errors import StageError

SCHEMA = "ort_flatbuffers_py.fbs"
IDENTIFIER = b"ORTM"
ALIGNMENT = 16
"""Bytes to which the file's length is rounded up; the schema's widest numbers take 8."""


def read(content: bytes) -> Any:
    """The file's root, an InferenceSession. Raises ValueError where it is another kind of file."""
    session = _schema("InferenceSession").InferenceSession
    if not session.InferenceSessionBufferHasIdentifier(content, 0):
        raise ValueError("it has another identifier")
    return session.GetRootAs(content, 0)


def canonical(content: bytes) -> bytes:
    """The same file in bytes that depend on the model alone.

    ONNX Runtime lays out the table of its kernels' type strings in the order of a hash map, which
    is another one in every process. A flatbuffer is written from its end to its beginning: the
    model, which comes first and refers to nothing that is written later, is kept byte by byte, and
    the table and the root are written anew in front of it.
    Raises StageError where they hold what ONNX Runtime's schema does not name.
    """
    import flatbuffers

    session = _known(read(content), fields=4)
    start = _start(session.Model()._tab)
    builder = flatbuffers.Builder(len(content) + start)
    builder.minalign = ALIGNMENT
    builder.head -= len(content) - start
    builder.Bytes[builder.head :] = content[start:]
    root = _table(
        builder,
        "InferenceSession",
        OrtVersion=builder.CreateString(session.OrtVersion()),
        Model=len(content) - session.Model()._tab.Pos,
        KernelTypeStrResolver=_resolver(builder, session.KernelTypeStrResolver()),
    )
    builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def element_type(value: Any) -> int:
    """ONNX's number of the type of a value's elements; 0 where it is no tensor."""
    kind = value.Type()
    if kind is None or kind.ValueType() != _schema("TypeInfoValue").TypeInfoValue.tensor_type:
        return 0
    tensor = _schema("TensorTypeAndShape").TensorTypeAndShape()
    tensor.Init(kind.Value().Bytes, kind.Value().Pos)
    return int(tensor.ElemType())


def _resolver(builder: Any, resolver: Any) -> int:
    """Write, for each operator, which of its inputs and outputs a type string stands for."""
    entries = _entries(_known(resolver, fields=1), "OpKernelTypeStrArgs")
    written = [_operator(builder, entry) for entry in sorted(entries, key=lambda one: one.OpId())]
    places = _vector(builder, written)
    return _table(builder, "KernelTypeStrResolver", OpKernelTypeStrArgs=places)


def _operator(builder: Any, entry: Any) -> int:
    entries = _entries(_known(entry, fields=2), "KernelTypeStrArgs")
    entries.sort(key=lambda one: one.KernelTypeStr())
    name = builder.CreateSharedString(entry.OpId())
    places = _vector(builder, [_type_string(builder, one) for one in entries])
    return _table(builder, "OpIdKernelTypeStrArgsEntry", OpId=name, KernelTypeStrArgs=places)


def _type_string(builder: Any, entry: Any) -> int:
    arguments = [
        _table(builder, "ArgTypeAndIndex", Index=one.Index(), ArgType=one.ArgType())
        for one in _entries(_known(entry, fields=2), "Args")
        if _known(one, fields=2)
    ]
    name = builder.CreateSharedString(entry.KernelTypeStr())
    places = _vector(builder, arguments)
    return _table(builder, "KernelTypeStrArgsEntry", KernelTypeStr=name, Args=places)


def _schema(name: str) -> Any:
    # Puts the schema on the path, as the package itself asks for.
    importlib.import_module("onnxruntime.tools.ort_format_model")
    return importlib.import_module(f"{SCHEMA}.{name}")


def _entries(table: Any, field: str) -> list[Any]:
    """The elements of a vector of tables."""
    return [getattr(table, field)(index) for index in range(getattr(table, f"{field}Length")())]


def _table(builder: Any, name: str, **fields: int) -> int:
    """Write a table with these fields; returns its place."""
    schema = _schema(name)
    getattr(schema, f"{name}Start")(builder)
    for field, value in fields.items():
        getattr(schema, f"{name}Add{field}")(builder, value)
    return int(getattr(schema, f"{name}End")(builder))


def _vector(builder: Any, places: Sequence[int]) -> int:
    """Write a vector of the tables at these places; returns its own."""
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _start(table: Any) -> int:
    """Where a table begins that was written after all that it refers to."""
    return int(min(table.Pos, _layout(table)))


def _layout(table: Any) -> int:
    """Where the list lies of the places of a table's fields."""
    from flatbuffers.number_types import SOffsetTFlags

    return int(table.Pos - table.Get(SOffsetTFlags, table.Pos))


def _known(entry: Any, *, fields: int) -> Any:
    """The entry, if it has no more than so many fields: those that `canonical` writes."""
    from flatbuffers.number_types import VOffsetTFlags

    # The list of places begins with two sizes; each number in it takes two bytes.
    found = entry._tab.Get(VOffsetTFlags, _layout(entry._tab)) // 2 - 2
    if found <= fields:
        return entry
    raise StageError(
        f"ort: ONNX Runtime wrote a newer file format: {type(entry).__name__} has {found} fields,"
        f" {fields} are known",
        fix="install an older onnxruntime",
    )
