"""The config's keys, each declared once: its type, its default and its documentation.

`python -m crosscast.pipeline.config.schema` prints the JSON Schema that editors use.

A validator speaks through `problem`: `{got}` in its text stands for the value, which the loader
shows as the file has it, so that no expanded variable is ever echoed. With a validation context
({"path": the config file}) paths are resolved against the file's directory and must exist.
"""

from __future__ import annotations

import ast
import json
import operator
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PrivateAttr,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.signature import Layout, Signature, Tensor
from crosscast.targets.base import Target

SLUG = r"^[a-z0-9._-]*[a-z0-9][a-z0-9._-]*$"
SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
CODE = r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$"
SAMPLES = r"^.+(\.npz|\.py:[A-Za-z_][A-Za-z0-9_]*)$"
MEMORY = r"^([1-9][0-9]{0,17}) ?(B|KiB|MiB|GiB|TiB)$"
MEANINGS: Mapping[str, str] = {
    SLUG: "lower-case letters, digits, '.', '_' and '-', with a letter or digit among them",
    SEMVER: "a version such as '1.2.0'",
    NAME: "a name of letters, digits and '_'",
    CODE: "'file.py:function'",
    SAMPLES: "'file.py:function' or a '.npz' file",
}
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Dtype = Literal[
    "float16", "float32", "float64",
    "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
    "bool",
]  # fmt: skip
BATCH_SIZES = (1, 4)
OTHER_SIZES = (1, 64)


def problem(what: str) -> PydanticCustomError:
    """A wrong value, in words for people; `{got}` in them stands for the value as written."""
    return PydanticCustomError("problem", what)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?", or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


# Files and code


def _existing(name: str, info: ValidationInfo) -> Path:
    """The absolute path of a file named in the config; unchecked where there is no context."""
    if not info.context:
        return Path(name)
    base = Path(info.context["path"]).parent
    try:
        # Resolved but for the file's own name, which may be a link to one without its suffix.
        found = (base / name).parent.resolve() / Path(name).name
        if found.is_file():
            return found
        what = "this is a directory, not a file" if found.is_dir() else "no such file"
    except (OSError, RuntimeError, ValueError) as error:
        what = getattr(error, "strerror", None) or "this cannot be a path"
    # An absolute name says where it was looked for; a relative one does not.
    place = "" if Path(name).is_absolute() else f" (looked in '{base}')"
    raise problem(f"{what}: {{got}}{place}")


def _existing_file(name: Path, info: ValidationInfo) -> Path:
    return _existing(str(name), info)


def _existing_code(reference: str, info: ValidationInfo) -> str:
    name, _, function = reference.rpartition(":")
    path = _existing(name, info)
    if info.context:
        names = _top_level_names(path)
        # What a star import brings in is known only to who runs it.
        if function not in names and "*" not in names:
            hint = did_you_mean(function, names)
            raise problem(f"the file has no such function: {{got}}{hint}")
    return f"{path}:{function}"


def _existing_samples(reference: str, info: ValidationInfo) -> str:
    if reference.endswith(".npz"):
        return str(_existing(reference, info))
    return _existing_code(reference, info)


def _top_level_names(path: Path) -> set[str]:
    """Names that importing the file would define, found without running it."""
    names: set[str] = set()
    pending: list[ast.AST] = [_parsed(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _parsed(path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code (an odd escape), not of ours
            return ast.parse(path.read_bytes())
    except (SyntaxError, OSError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        place = "the file" if line is None else f"line {line}"
        why = getattr(error, "msg", error)
        raise problem(f"{place} is not valid Python: {{got}}: {why}") from None


ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
Code = Annotated[str, Field(pattern=CODE), AfterValidator(_existing_code)]
SampleSet = Annotated[str, Field(pattern=SAMPLES), AfterValidator(_existing_samples)]


class Model(BaseModel):
    """Base of the config's mappings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Sources


class Source(Model):
    """Where a model comes from, in its author's framework.

    needs_inputs: whether the config has to declare the inputs, which the file does not say.
    layout: of the framework's image tensors.
    """

    needs_inputs: ClassVar[bool] = False
    layout: ClassVar[Layout] = "nchw"

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        raise NotImplementedError


class TorchSource(Source):
    """A PyTorch model, made by a function of the user's."""

    needs_inputs: ClassVar[bool] = True

    torch: Code = Field(description="'file.py:function' that returns the torch.nn.Module.")
    weights: ExistingFile | None = Field(
        default=None,
        description="File with the state dict; without it, what the function made is used.",
    )

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        weights = None if self.weights is None else str(self.weights)
        return {"kind": "torch", "factory": self.torch, "weights": weights}


class OnnxSource(Source):
    """An ONNX file."""

    onnx: ExistingFile = Field(description="The ONNX file.")

    def to_source(self) -> dict[str, Any]:
        """The JSON-able options that stages take as `source`."""
        return {"kind": "onnx", "model": str(self.onnx)}


SOURCES_SCHEMA: dict[str, type[Source]] = {"torch": TorchSource, "onnx": OnnxSource}
"""The kinds of source, by the key that a config chooses one with."""


# Inputs


def _dimension(size: int | str) -> int | str:
    if size in Input.model_fields:
        raise problem("{got} is a key of every input; give the dimension another name")
    return size


def _ordered_sizes(sizes: tuple[int, int]) -> tuple[int, int]:
    if sizes[0] > sizes[1]:
        raise problem("expected [least, greatest], got {got}")
    return sizes


FLOAT_LIMITS = {
    "float16": 65504.0,
    "float32": (2 - 2**-23) * 2.0**127,
    "float64": sys.float_info.max,
}


def _limits(dtype: str) -> tuple[float, float]:
    """The least and greatest value of a numeric dtype, without the time that numpy takes."""
    if dtype in FLOAT_LIMITS:
        return -FLOAT_LIMITS[dtype], FLOAT_LIMITS[dtype]
    bits = int(dtype.strip("uint"))
    if dtype.startswith("u"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


Size = Annotated[int, Field(ge=1)]
DimensionName = Annotated[str, Field(pattern=NAME)]
Dimension = Annotated[Size | DimensionName, AfterValidator(_dimension)]
Sizes = Annotated[tuple[Size, Size], AfterValidator(_ordered_sizes)]


class Input(Model):
    """One input. A dynamic dimension is a name in `shape`; a key of that name gives its
    [least, greatest] size (default: [1, 4] for 'batch' and for any first dimension, else [1, 64]).
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Sizes] = Field(init=False)

    shape: list[Dimension] = Field(
        description="Sizes of the dimensions, in order; a name stands for a dynamic one."
    )
    dtype: Dtype = Field(description="Element type, by numpy's name.")
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="[low, high] of the values that the model is made for."
    )
    layout: Layout | None = Field(
        default=None,
        description="Layout of a rank-4 image input; by default the source framework's own where "
        "the dtype is a float.",
    )

    @field_validator("range")
    @classmethod
    def _range_fits(
        cls, value: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        dtype = info.data.get("dtype")
        if value is None or dtype is None:
            return value
        if dtype == "bool":
            raise problem("a bool input has no range")
        if value[0] >= value[1]:
            raise problem("expected [low, high] with low below high, got {got}")
        least, greatest = _limits(dtype)
        if value[0] < least or value[1] > greatest:
            raise problem(f"not within [{least}, {greatest}] of {dtype}: {{got}}")
        return value

    @field_validator("layout")
    @classmethod
    def _layout_fits(cls, value: Layout | None, info: ValidationInfo) -> Layout | None:
        rank = len(info.data.get("shape", "nchw"))
        if value is not None and rank != 4:
            raise problem(f"only an input of 4 dimensions has a layout, this one has {rank}")
        return value

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """The declared [least, greatest] of dynamic dimensions, by name."""
        return self.__pydantic_extra__ or {}

    def tensor(self, name: str, *, layout: Layout) -> Tensor:
        """Under that name; `layout` is the source framework's own."""
        own = layout if len(self.shape) == 4 and self.dtype.startswith("float") else None
        return Tensor(
            name=name,
            shape=tuple(self.shape),
            dtype=self.dtype,
            layout=self.layout or own,
            range=self.range,
        )


# What the rest of the config says


class Samples(Model):
    """Real inputs: a function that yields dicts of arrays by input name, or an .npz with an array
    for each input, samples along its first axis.
    """

    parity: SampleSet | None = Field(
        default=None,
        description="'file.py:function' or .npz to compare artifacts with the source on.",
    )
    calibration: SampleSet | None = Field(
        default=None, description="'file.py:function' or .npz to calibrate int8 targets on."
    )


class Parity(Model):
    """A target's own tolerance, in place of its precision's."""

    min_snr_db: FiniteFloat | None = Field(
        default=None, description="Least signal-to-noise ratio of an output, in dB."
    )
    max_error: Annotated[FiniteFloat, Field(ge=0)] | None = Field(
        default=None, description="Greatest absolute error, as a share of the reference's range."
    )
    reason: str = Field(
        default="", description="Why the tolerance is changed; it is written to the manifest."
    )

    @model_validator(mode="after")
    def _reason_given(self) -> Parity:
        changed = self.min_snr_db is not None or self.max_error is not None
        if changed and not self.reason.strip():
            raise PydanticCustomError(
                "key_missing", "a changed tolerance needs a 'reason', which the manifest will state"
            )
        return self


class TargetConfig(Model):
    """The keys that every target has; a target's own options stand beside them."""

    from_: str | None = Field(
        default=None,
        alias="from",
        description="Target of this config whose result this one starts from.",
    )
    layout: Layout | None = Field(
        default=None,
        description="Layout of the artifact's image inputs and outputs; default the source's.",
    )
    parity: Parity = Field(default=Parity(), description="This target's own tolerance.")
    allow_unverified: str = Field(
        default="", description="Why the artifact may ship even where this host cannot verify it."
    )

    def options(self) -> dict[str, Any]:
        """The target's own options, JSON-able, defaults included."""
        return self.model_dump(mode="json", exclude={*TargetConfig.model_fields, "quantize"})

    def quantize_options(self) -> dict[str, Any]:
        """The options of quantization, JSON-able, defaults included; empty where there is none."""
        dumped = self.model_dump(mode="json", include={"quantize"})
        return dict(dumped.get("quantize", {}))

    def parity_options(self) -> dict[str, Any]:
        """What the config says of this target's tolerance, JSON-able; empty where nothing."""
        return self.parity.model_dump(mode="json", exclude_defaults=True)


def parse_bytes(text: str) -> int:
    """The bytes of a size such as "8GiB". Raises ConfigError where the text is none."""
    match = re.fullmatch(MEMORY, text, re.ASCII)
    if match is None:
        raise ConfigError(f"expected a size such as '8GiB', got '{text}'")
    return int(match[1]) * UNITS[match[2]]


def _bytes(value: object) -> object:
    try:
        return parse_bytes(value) if isinstance(value, str) else value
    except ConfigError:
        raise problem("expected bytes or a size such as '8GiB', got {got}") from None


class Limits(Model):
    """What one step may use."""

    timeout: Annotated[FiniteFloat, Field(gt=0)] = Field(
        default=1800.0, description="Seconds after which a step is killed."
    )
    memory: (
        Annotated[
            int,
            Field(gt=0),
            BeforeValidator(_bytes),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "integer", "exclusiveMinimum": 0},
                        {"type": "string", "pattern": MEMORY},
                    ]
                }
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Memory at which a step is killed: bytes, or a size such as 8GiB; by default "
        "the build's budget.",
    )


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise problem("a name stands twice in {got}")
    return names


class Config(Model):
    """One model, the targets it ships to, and how it is proven."""

    model: str = Field(
        pattern=SLUG, description="Name of the model; a directory of artifacts has it."
    )
    version: str = Field(pattern=SEMVER, description="Semantic version of the model.")
    source: Source = Field(description="The model as its author has it.")
    inputs: dict[str, Input] = Field(
        default={},
        description="The inputs, by name and in order; a file that states its own needs none.",
    )
    outputs: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)] | None = Field(
        default=None, description="Names of the outputs, in order; default the source's own."
    )
    samples: Samples = Field(
        default=Samples(), description="Real inputs; default seeded synthetic ones."
    )
    targets: dict[str, TargetConfig] = Field(description="What to build.")
    limits: Limits = Field(default=Limits(), description="Time and memory of each step.")

    _path: Path = PrivateAttr(Path())

    def model_post_init(self, context: Any, /) -> None:
        """Keep the file's path, which is no key."""
        if context:
            self._path = Path(context["path"])

    @property
    def path(self) -> Path:
        """The absolute path of the file that this was loaded from."""
        return self._path

    def signature(self) -> Signature:
        """The declared inputs; a file that states its own completes them."""
        layout = type(self.source).layout
        tensors = tuple(entry.tensor(name, layout=layout) for name, entry in self.inputs.items())
        return Signature(inputs=tensors, dims=self._dims())

    def _dims(self) -> dict[str, tuple[int, int]]:
        shapes = [entry.shape for entry in self.inputs.values()]
        first = {"batch", *(shape[0] for shape in shapes if shape)}
        names = [size for shape in shapes for size in shape if isinstance(size, str)]
        default = {name: BATCH_SIZES if name in first else OTHER_SIZES for name in names}
        declared = [entry.sizes() for entry in self.inputs.values()]
        return reduce(operator.or_, map(dict, declared), default)


# Models that depend on what targets and sources there are


def config_model(targets: Mapping[str, Target]) -> type[Config]:
    """The Config whose targets are those, each with its own options."""
    source = _closed_union(SOURCES_SCHEMA.values())
    own: dict[str, Any] = {
        "source": (source, _described(Config, "source")),
        "targets": (_targets_type(targets), _described(Config, "targets")),
    }
    model: type[Config] = create_model("Config", __base__=Config, __doc__=Config.__doc__, **own)
    return model


def _described(model: type[BaseModel], key: str) -> Any:
    return Field(description=model.model_fields[key].description)


def _closed_union(classes: Iterable[type[Source]]) -> Any:
    """One of the classes, chosen by the first known key that is there."""
    tagged = [Annotated[entry, Tag(entry.__name__)] for entry in classes]
    return Annotated[reduce(operator.or_, tagged), Discriminator(_source_tag)]


def _source_tag(value: object) -> str | None:
    keys = [key for key in SOURCES_SCHEMA if key in value] if isinstance(value, Mapping) else []
    # The class' name, which unlike the key is not also the name of a field.
    return SOURCES_SCHEMA[keys[0]].__name__ if keys else None


def _targets_type(targets: Mapping[str, Target]) -> Any:
    """A mapping closed to other names than these; each entry is a target's model or null."""
    models = {name: _target_model(name, target) for name, target in targets.items()}
    # Fields need identifiers; the YAML key is the alias.
    fields: dict[str, Any] = {
        f"target_{index}": (
            model | None,
            Field(default=None, alias=name, description=targets[name].summary),
        )
        for index, (name, model) in enumerate(models.items())
    }
    closed = create_model(
        "Targets",
        __config__=ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1}),
        **fields,
    )

    def chosen(value: BaseModel) -> dict[str, TargetConfig]:
        if not value.model_fields_set:
            raise problem("at least one target is needed")
        return {
            name: getattr(value, field) or models[name]()
            for name, field in zip(models, fields, strict=True)
            if field in value.model_fields_set
        }

    return Annotated[closed, AfterValidator(chosen)]


def _target_model(name: str, target: Target) -> type[TargetConfig]:
    own: dict[str, Any] = {}
    if target.QuantizeOptions is not None:
        options = target.QuantizeOptions
        own["quantize"] = (
            options,
            Field(default_factory=options, description="Options of quantization."),
        )
    bases: Any = (TargetConfig, target.Options)
    model: type[TargetConfig] = create_model(name, __base__=bases, __doc__=target.summary, **own)
    return model


def json_schema(targets: Mapping[str, Target]) -> dict[str, Any]:
    """The JSON Schema of a config with those targets."""
    schema = config_model(targets).model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text(targets: Mapping[str, Target]) -> str:
    """The JSON Schema as `schema.json` holds it."""
    return json.dumps(json_schema(targets), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    from crosscast.targets import TARGETS

    sys.stdout.write(schema_text(TARGETS))
