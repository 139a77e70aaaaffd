"""Pydantic's findings, in words for people, each at its place in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from crosscast.pipeline.config.document import Document, Loc
from crosscast.pipeline.config.names import MEANINGS, did_you_mean

M = TypeVar("M", bound=BaseModel)

EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text",
    "path_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "missing_item": "a longer list",
}
CHOICES = frozenset({"literal_error", "enum"})
KINDS = CHOICES | {kind for kind in EXPECTED if kind.endswith("_type")}


def validated(document: Document, model: type[M], *, context: Mapping[str, Any]) -> M | None:
    """What the document is by the model, or None with what is wrong noted in the document."""
    targets = document.mapping("targets")
    entries = {name: {} if entry is None else entry for name, entry in targets.items()}
    values = {**document.values, **({"targets": entries} if targets else {})}
    try:
        # From JSON, strictness still takes a list for a tuple and text for a path.
        return model.model_validate_json(json.dumps(values), strict=True, context=dict(context))
    except ValidationError as error:
        groups: dict[Loc, list[ErrorDetails]] = {}
        for entry in error.errors(include_url=False):
            groups.setdefault(_location(document, entry), []).append(entry)
    for loc, entries_there in groups.items():
        _add(document, model, loc, entries_there)
    return None


def _location(document: Document, error: ErrorDetails) -> Loc:
    """The error's place in the file. Pydantic's own has the alternatives of unions in it."""
    loc: Loc = ()
    for step in error["loc"]:
        if (*loc, step) in document.places:
            loc = (*loc, step)
    if error["type"] == "missing" and isinstance(error["loc"][-1], str):
        return (*loc, error["loc"][-1])
    return loc


def _add(document: Document, model: type[BaseModel], loc: Loc, errors: list[ErrorDetails]) -> None:
    """Note the errors of one place: several where no alternative of a union fits."""
    kind = errors[0]["type"]
    if kind == "missing" and loc not in document.places:
        document.add(loc, "this key is missing")
    elif kind == "extra_forbidden":
        known = sorted(_known_keys(model, errors[0]["loc"][:-1]))
        hint = did_you_mean(str(loc[-1]), known) or f"; known here: {names(known, 'and')}"
        document.add(loc, f"unknown key{hint}", at_key=True)
    else:
        document.add(loc, _wording(document, loc, errors), at_key=kind == "key_missing")


def _wording(document: Document, loc: Loc, errors: list[ErrorDetails]) -> str:
    specific = [error for error in errors if error["type"] not in KINDS] or errors
    phrases = dict.fromkeys(_expected(error) for error in specific)
    if None in phrases:
        return _own_words(document, loc, specific[0])
    hint = ""
    choices = [error["ctx"]["expected"] for error in specific if error["type"] in CHOICES]
    if isinstance(value := document.get(loc), str):
        hint = did_you_mean(value, re.findall(r"'([^']+)'", " ".join(choices)))
    wanted = " or ".join(map(str, phrases))
    return f"expected {wanted}, got {document.shown(loc)}{hint}"


def _expected(error: ErrorDetails) -> str | None:
    """What was expected, as a noun phrase; None for an error that has its own words."""
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return MEANINGS.get(context["pattern"], f"text like {context['pattern']}")
    kind = "missing_item" if error["type"] == "missing" else error["type"]
    whole = {key: int(bound) for key, bound in context.items() if _is_whole(bound)}
    return EXPECTED[kind].format(**{**context, **whole}) if kind in EXPECTED else None


def _is_whole(bound: object) -> bool:
    return isinstance(bound, float) and bound.is_integer()


def _own_words(document: Document, loc: Loc, error: ErrorDetails) -> str:
    """The message of a validator, or pydantic's where nothing better is known."""
    if error["type"] in ("problem", "key_missing"):
        return error["msg"].replace("{got}", document.shown(loc))
    text = re.sub(r"^(Value|Assertion) error, ", "", error["msg"])
    text = re.sub(r"^\w+ should be", "expected", text)
    return document.without_secrets(loc, " ".join(text.split()))


def _known_keys(model: type[BaseModel], loc: Loc) -> set[str]:
    """The keys that the mapping at a place can have."""
    models = [model]
    for step in loc:
        fields = [entry for owner in models for entry in _fields(owner).items()]
        inner = [annotation for name, annotation in fields if name == step]
        chosen = [owner for owner in models if owner.__name__ == step]
        # Any other step is a name or an index: it leads to the same models.
        models = [found for entry in inner for found in _models(entry)] or chosen or models
    return {name for owner in models for name in _fields(owner)}


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {entry.alias or name: entry.annotation for name, entry in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def names(names: Iterable[str], conjunction: str = "or") -> str:
    *most, last = [f"'{name}'" for name in names]
    return f"{', '.join(most)} {conjunction} {last}" if most else last
