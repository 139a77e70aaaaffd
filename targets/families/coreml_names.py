"""Names that MIL takes for those of a model, and the way back to these. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Session, classes, remark

NAME_PREFIX = "crosscast.name."
"""User-defined metadata "crosscast.name.<feature>": the model's own name, where that is none that
a ML Program can have."""

LABEL = "classLabel"
"""coremltools' name of a classifier's class; that of the scores is "<it>_probs"."""

RESERVED = frozenset(
    [
        "any",
        "bool",
        "program",
        "func",
        "tensor",
        "list",
        "dict",
        "tuple",
        "true",
        "false",
        "string",
        "bf16",
        "fp16",
        "fp32",
        "fp64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "state",
    ]
)
"""Words of MIL's own."""


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """MIL's names for those of a model, by these: letters, digits and underscores, no word of its
    own and none twice. A name that is like that is kept.
    """
    ordered = list(names)
    found = {name: name for name in ordered if _is_plain(name)}
    taken = set(found)
    for name in ordered:
        if name not in found:
            found[name] = free(identifier(name), taken)
            taken.add(found[name])
    return {name: found[name] for name in ordered}


def own_names(metadata: Mapping[str, str]) -> dict[str, str]:
    """The model's own names of a package's features, by these."""
    return {
        key.removeprefix(NAME_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(NAME_PREFIX)
    }


def classifier(names: Iterable[str]) -> tuple[str, str]:
    """The features of a classifier beside those: of its class and of all scores."""
    taken = set(names)
    label = free(LABEL, taken)
    return label, free(f"{label}_probs", taken)


class Renamed:
    """A session under the model's own names.

    names: the own ones by those of the package's features.
    """

    def __init__(self, session: Session, names: Mapping[str, str]) -> None:
        self._session, self._names = session, names
        self.inputs = tuple(map(self._own, session.inputs))
        self.outputs = tuple(map(self._own, session.outputs))
        self.remark, self.labels = remark(session), classes(session)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        features = {self._names.get(one.name, one.name): one.name for one in self._session.inputs}
        made = self._session.run({features[name]: array for name, array in inputs.items()})
        return {self._names.get(name, name): array for name, array in made.items()}

    def _own(self, tensor: Tensor) -> Tensor:
        return replace(tensor, name=self._names.get(tensor.name, tensor.name))


def _is_plain(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)) and name not in RESERVED


def identifier(name: str) -> str:
    """A name like that which MIL takes, without regard to others."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    if plain in RESERVED:
        return f"{plain}_value"
    return plain if re.match(r"[A-Za-z_]", plain) else f"var_{plain}"


def free(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    if name not in taken:
        return name
    count = next(count for count in range(len(taken) + 1) if f"{name}_{count}" not in taken)
    return f"{name}_{count}"
