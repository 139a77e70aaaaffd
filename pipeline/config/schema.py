"""The config's keys, each declared once: its type, its default and its documentation.

`python -m crosscast.pipeline.config.schema` prints the JSON Schema that editors use. What is wrong
with a value is told as `fields` says.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

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

from crosscast.pipeline.config.fields import (
    UNITS,
    Labels,
    Model,
    SampleSet,
    problem,
)
from crosscast.pipeline.config.inputs import BATCH_SIZES, OTHER_SIZES, Input
from crosscast.pipeline.config.names import MEMORY, SEMVER, SLUG
from crosscast.pipeline.config.release import ReleasePolicy
from crosscast.pipeline.config.sources import SOURCES_SCHEMA, Source
from crosscast.pipeline.config.task import Task
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.preprocess import Preprocessing
from crosscast.pipeline.signature import Layout, Signature
from crosscast.targets.base import Kind, Target

SYNTHETIC = "synthetic"
"""In place of calibration samples: inputs drawn from the declared ranges."""


class Samples(Model):
    """Real inputs: a function that yields dicts of arrays by input name, an .npz with an array
    for each input, samples along its first axis, or a folder of images for an input that declares
    its `preprocess`. What a function or an .npz gives is taken as preprocessed already.
    """

    parity: SampleSet | None = Field(
        default=None,
        description="'file.py:function', .npz or folder of images to compare artifacts with the "
        "source on; without it, inputs are drawn from the declared ranges.",
    )
    calibration: Literal["synthetic"] | SampleSet | None = Field(
        default=None,
        description="'file.py:function', .npz or folder of images to calibrate int8 targets on, "
        "other samples than those of `parity`; 'synthetic' draws them from the declared ranges.",
        union_mode="left_to_right",
    )

    @field_validator("parity", mode="before")
    @classmethod
    def _drawn_without_a_word(cls, value: object) -> object:
        if value == SYNTHETIC:
            raise problem("leave this key out: without samples, inputs are drawn")
        return value

    @field_validator("calibration")
    @classmethod
    def _differ(cls, value: str | None, info: ValidationInfo) -> str | None:
        parity = info.data.get("parity")
        if value is None or parity is None or value == SYNTHETIC:
            return value
        if value == parity:
            raise problem("the same samples as 'parity': {got}; they must differ")
        one, other = Path(value), Path(parity)
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise problem("{got} and the folder of 'parity' lie in each other; they must differ")
        return value


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
    via: Kind | None = Field(
        default=None,
        description="What the conversion starts from, of the kinds that this target can start "
        "from and the source can give; default the best of them.",
    )
    layout: Layout | None = Field(
        default=None,
        description="Layout of the artifact's image inputs and outputs; default the source's.",
    )
    preprocess: Literal["fold"] | None = Field(
        default=None,
        description="fold: the artifact takes uint8 images of the model's own size, and the rest "
        "of the declared preprocessing is in its graph.",
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


class Metadata(Model):
    """What is said of the model to people."""

    author: str = Field(default="", description="Who made the model.")
    license: str = Field(default="", description="Terms that the model is given on.")
    description: str = Field(default="", description="What the model does, in a sentence or two.")


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
    labels: Labels | None = Field(
        default=None,
        description="Names of the classes, in the order of their scores in the first output that "
        "has so many: a list, or a text file with one a line.",
    )
    metadata: Metadata = Field(
        default=Metadata(), description="Author, license and description of the model."
    )
    samples: Samples = Field(
        default=Samples(), description="Real inputs; default seeded synthetic ones."
    )
    task: Task | None = Field(
        default=None, description="What artifacts must be worth on labelled samples."
    )
    targets: dict[str, TargetConfig] = Field(description="What to build.")
    limits: Limits = Field(default=Limits(), description="Time and memory of each step.")
    release: ReleasePolicy = Field(
        default=ReleasePolicy(), description="Where releases go, and what is asked of them."
    )

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
        steps = [entry.steps() for entry in self.inputs.values()]
        return Signature(
            inputs=tensors, dims=self._dims(), steps=reduce(operator.or_, map(dict, steps), {})
        )

    def preprocessing(self) -> dict[str, Preprocessing]:
        """How images become inputs, by input, where that is declared."""
        return {
            name: entry.preprocess.steps()
            for name, entry in self.inputs.items()
            if entry.preprocess is not None
        }

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
