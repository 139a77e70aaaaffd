"""What names and shapes of inputs usually mean. Pure; all of it is assumption, and said to be."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from crosscast.pipeline.config import inputs as schema
from crosscast.pipeline.config.inputs import BATCH_SIZES
from crosscast.pipeline.init.facts import Size
from crosscast.pipeline.signature import Layout, Tensor

ASSUMED = "assumed: the model does not say"
BATCH = re.compile(r"(?i)(b|n|bs|batch|batch_?size|none|batch_?dim.*)\Z")
ANONYMOUS = re.compile(
    r"(?i)(unk__?\d+|dim|\w*?_?dim_?\d+|s\d+|\?|none|-?\d+|[\w.]*dynamic_?dim[\w.]*|\w*dim_param\w*|unk\w*)\Z"
)
MASK = re.compile(r"(?i)mask")
TIMESTEP = re.compile(r"(?i)(t|time_?steps?|steps?)\Z")
AUDIO = re.compile(r"(?i)audio|wav|speech|signal|pcm|sound")
IMAGE = re.compile(r"(?i)ima?ge?|pixel|photo|frame|picture")
STATE = re.compile(r"(?i)\A(h|c|hx|cx|h_?\d|c_?\d|h_n|c_n)(\.\d)?\Z|state|hidden|cell|memory|cache")
ONE_STATE = re.compile(r"(?i)(h|c|h_?\d|c_?\d|h_n|c_n|cell)\Z")
"""Half of an LSTM's state."""
PAST = re.compile(r"(?i)past[._]")
BEFORE = re.compile(r"\A(prev|previous|past|last|old|in|input|init|initial)_|_?(0|in|prev|init)\Z")
"""What a state's name has for the time before the call."""
AFTER = ("{}n", "{}_n", "{}out", "{}_out", "{}_new", "{}_next", "{}_updated", "out_{}", "output_{}",
         "new_{}", "next_{}", "present_{}", "updated_{}")  # fmt: skip
"""What the output is called that is the state after it, in small letters."""
LENGTH = re.compile(r"(?i)len(gth)?s?\Z|_lens?(gths)?\Z")

SEQUENCE: tuple[Size, ...] = ((1, 64), (8, 64), (16, 64), (1, 16), 16, 32, 64, 8, 128, 256, 512)
IMAGE_SIDE: tuple[Size, ...] = ((32, 96), 224, 48, 32, 64, 256, 320, 128, 96, 512, 640, 299, 384)
SAMPLES: tuple[Size, ...] = ((8000, 32000), 16000, 512, (512, 2048), 1024, 4096, 32000, 48000)
OTHER: tuple[Size, ...] = ((1, 64), (16, 64), 16, 64, 128, 100, 256, 512, 224, 1024, 16000)


def range_of(
    name: str, dtype: str, shape: Sequence[int | str]
) -> tuple[tuple[float, float] | None, str]:
    """The range that is assumed of an input that nothing else is known of, and the comment."""
    if dtype in ("bool", "string"):
        return None, ""
    if MASK.search(name) and not dtype.startswith("float"):
        return (0, 1), "a mask"
    if dtype in ("uint8", "int8"):
        return ((0, 255), "bytes") if dtype == "uint8" else ((-128, 127), "bytes")
    if not dtype.startswith("float"):
        if TIMESTEP.match(name):
            return (0, 999), "assumed: a step of diffusion"
        return (0, 1), "assumed: 0 and 1 exist in any table; widen it to the ids that are used"
    if MASK.search(name):
        return (0, 1), "a mask"
    if STATE.search(name):
        return (-1, 1), "assumed: a state"
    if AUDIO.search(name):
        return (-1, 1), "assumed: samples of sound"
    if _is_image(shape):
        return (0, 1), f"{ASSUMED}; pixels divided by 255"
    return (-1, 1), ASSUMED


def _is_image(shape: Sequence[int | str]) -> bool:
    return len(shape) == 4 and bool({1, 3, 4} & {shape[1], shape[3]})


def layout_of(shape: Sequence[int | str], own: Layout) -> Layout | None:
    """The layout of a rank-4 input whose channels are plain to see elsewhere than the framework
    has them; None where they are not.
    """
    if len(shape) != 4:
        return None
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if own == "nchw" and last and not first:
        return "nhwc"
    return "nchw" if own == "nhwc" and first and not last else None


def dimension(
    name: str, *, axis: int, shape: Sequence[int | str], dtype: str, layout: Layout
) -> str:
    """A dimension's name, as a config may have it: its own, or what it is by its place."""
    if ANONYMOUS.match(name) or not name:
        return _by_place(axis, len(shape), dtype, layout)
    clean = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    clean = f"_{clean}" if clean[:1].isdigit() else clean
    return f"{clean}_" if clean in schema.Input.model_fields else clean or f"dim_{axis}"


def _by_place(axis: int, rank: int, dtype: str, layout: Layout) -> str:
    if axis == 0:
        return "batch"
    if rank == 4 and dtype.startswith(("float", "uint8")):
        first = layout == "nchw"
        return {1: "channels" if first else "height", 2: "height" if first else "width"}.get(
            axis, "width" if first else "channels"
        )
    if (rank in (2, 3) and axis == 1) or rank == 1:
        return "sequence"
    return f"dim_{axis}"


def sizes_of(
    name: str, *, axis: int, shape: Sequence[int | str], dtype: str, owner: str
) -> tuple[Size, ...]:
    """Sizes that a dynamic dimension may have, the likeliest first. owner: the input's name."""
    if (axis == 0 and name not in shape[1:]) or BATCH.match(name):
        return BATCH_SIZES, 1, 2
    if name in ("height", "width") or (len(shape) == 4 and axis >= 1 and dtype[0] in "fu"):
        return IMAGE_SIDE
    if not dtype.startswith("float"):
        return SEQUENCE
    if AUDIO.search(owner) or AUDIO.search(name) or len(shape) == 2 or name == "samples":
        return (*SAMPLES, *SEQUENCE)
    return (*SEQUENCE, *SAMPLES) if len(shape) == 3 else OTHER


def fed_by(state: Tensor, outputs: Sequence[Tensor]) -> str:
    """The output that is the next value of a state, where the names of both say so and shape and
    dtype are the same; empty where they do not, or two outputs could be.
    """
    if not is_state(state.name):
        return ""
    stem = _stem(state.name)
    names = {_plain(state.name), *(form.format(stem) for form in AFTER)}
    found = [
        output.name
        for output in outputs
        if _plain(output.name) in names
        and (output.shape, output.dtype) == (state.shape, state.dtype)
    ]
    return found[0] if len(found) == 1 else ""


def is_state(name: str) -> bool:
    """Whether an input is called like something that is carried from call to call."""
    return any(map(STATE.search, (name, _stem(name)))) or bool(PAST.match(name))


def _stem(name: str) -> str:
    return BEFORE.sub("", _plain(name), count=1)


def _plain(name: str) -> str:
    """In small letters, the parts joined by one character."""
    return re.sub(r"\W+", "_", name.lower()).replace("past_key_values", "past")


def unique(names: Collection[str], name: str) -> str:
    """The name, or with a number where it is taken."""
    numbers = (f"{name}_{number}" for number in range(2, 1000))
    return name if name not in names else next(one for one in numbers if one not in names)
