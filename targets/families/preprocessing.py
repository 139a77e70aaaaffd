"""How an image becomes an input of an artifact, for its users: in words and in code.

A manifest's "preprocessing" says for an input what is to be done outside of the model (resize, fit,
pad, interpolation, crop, color, scale, mean, std) and what its graph does ("folded").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PYTHON = """
import numpy as np
from PIL import Image, ImageOps


def prepare_{name}(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("{mode}")
{steps}
    pixels = np.asarray(image).reshape(image.height, image.width, {channels})
{values}
    return np.ascontiguousarray(x[None])  # a batch of one
"""
JAVASCRIPT = """
// rgba: the bytes of the image, resized and cropped as above (ImageData.data)
function prepare_{name}(rgba) {{
  const n = rgba.length / 4;
  const x = new {array}({channels} * n);
{constants}  for (let i = 0; i < n; i++) {{
    for (let c = 0; c < {channels}; c++) {{
      const value = {value};
      x[{index}] = {result};
    }}
  }}
  return x;{then}
}}
"""
KOTLIN = """
// pixels: of the image, resized and cropped as above (Bitmap.getPixels)
fun prepare_{name}(pixels: IntArray): {array} {{
    val n = pixels.size
    val x = {array}({channels} * n)
{constants}    for (i in 0 until n) {{
        for (c in 0 until {channels}) {{
            val value = {value}
            x[{index}] = {result}
        }}
    }}
    return x{then}
}}
"""
JAVA = """
// pixels: of the image, resized and cropped as above (Bitmap.getPixels)
static {array}[] prepare_{name}(int[] pixels) {{
    int n = pixels.length;
    {array}[] x = new {array}[{channels} * n];
{constants}    for (int i = 0; i < n; i++) {{
        for (int c = 0; c < {channels}; c++) {{
            int value = {value};
            x[{index}] = {result};
        }}
    }}
    return x;{then}
}}
"""
SWIFT = """
// rgba: the bytes of the image, resized and cropped as above (CGContext's data)
func prepare_{name}(_ rgba: [UInt8]) -> [{array}] {{
    let n = rgba.count / 4
    var x = [{array}](repeating: 0, count: {channels} * n)
{constants}    for i in 0..<n {{
        for c in 0..<{channels} {{
            let value = {value}
            x[{index}] = {result}
        }}
    }}
    return x{then}
}}
"""
CODE: Mapping[str, tuple[str, str]] = {
    "js": ("JavaScript", JAVASCRIPT),
    "kotlin": ("Kotlin", KOTLIN),
    "java": ("Java", JAVA),
    "swift": ("Swift", SWIFT),
}
ARRAYS = {
    "js": ("Float32Array", "Uint8Array"),
    "kotlin": ("FloatArray", "ByteArray"),
    "java": ("float", "byte"),
    "swift": ("Float", "UInt8"),
}
"""The arrays of floats, and of bytes."""

RGBA = "rgba[4 * i{}]"
LUMA = "({} * 19595 + {} * 38470 + {} * 7471 + 32768) {} 16"
"""Pillow's gray: ITU-R 601-2 in fixed point."""

NAMES = {"rgb": "red, green, blue", "bgr": "blue, green, red", "gray": "gray"}


def words(manifest: Mapping[str, Any]) -> str:
    """A section of Markdown; empty where the manifest declares no preprocessing."""
    parts = []
    for name, entry in _entries(manifest):
        steps = _steps(entry, _tensor(manifest, name), is_fed_whole=_is_image(manifest, entry))
        listed = "\n".join(f"{index}. {step}" for index, step in enumerate(steps, 1))
        parts.append(f"`{name}` is made of an image:\n\n{listed}")
    return "\n\n".join(["## Preprocessing", *parts]) if parts else ""


def images(preprocessing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The inputs that are images as they are decoded, since the graph does the rest."""
    return [name for name, entry in preprocessing.items() if entry["folded"] is not None]


def line(entry: Mapping[str, Any]) -> str:
    """An entry of the manifest in one line."""
    text = ", ".join([*_geometry(entry), entry["color"], *_arithmetic(entry)])
    if entry["folded"] is None:
        return text
    inside = ", ".join([entry["folded"]["color"], *_arithmetic(entry["folded"])])
    return f"{text}; in the model: {inside}"


def blocks(manifest: Mapping[str, Any], *languages: str) -> list[tuple[str, str, str]]:
    """The (title, language, code) blocks of the preprocessing in these languages."""
    found = []
    for name, entry in _entries(manifest):
        tensor = _tensor(manifest, name)
        for language in languages:
            if _is_image(manifest, entry) and language != "python":
                continue
            if language == "python":
                title, code = "Python (Pillow, numpy)", _python(tensor, entry)
            else:
                title, template = CODE[language]
                code = _code(language, template, tensor, entry)
            found.append((f"Preprocessing of `{name}` in {title}", language, code))
    return found


def _entries(manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return list((manifest.get("preprocessing") or {}).items())


def _tensor(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(tensor for tensor in manifest["inputs"] if tensor["name"] == name)


# In words


def _is_image(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether the artifact takes the image itself, not an array of its pixels."""
    return manifest.get("format") == "coreml" and entry["folded"] is not None


def _steps(entry: Mapping[str, Any], tensor: Mapping[str, Any], *, is_fed_whole: bool) -> list[str]:
    mode = "gray" if entry["color"] == "gray" else "RGB"
    shape = " x ".join(str(dim) for dim in tensor["shape"])
    steps = [
        f"Decode it to 8 bits a channel, apply its EXIF orientation, convert it to {mode} "
        "(transparency is dropped).",
        *(f"{step[0].upper()}{step[1:]}." for step in _geometry(entry)),
    ]
    if entry["color"] == "bgr":
        steps.append("Put the channels in the order blue, green, red.")
    if formula := _formula(entry):
        steps.append(f"In float32: {formula}.")
    if is_fed_whole:
        steps.append("Feed it as an image.")
    else:
        steps.append(f"Lay it out as {tensor['layout']}, {shape}{_typed(tensor)}.")
    if entry["folded"] is not None:
        steps.append(f"Nothing else: the model itself does the rest ({_inside(entry['folded'])}).")
    return steps


def _geometry(entry: Mapping[str, Any]) -> list[str]:
    steps, how = [], f"{entry['interpolation']}, antialiased as by Pillow"
    if entry["interpolation"] == "nearest":
        how = "nearest"
    resize = entry["resize"]
    if isinstance(resize, int):
        steps.append(f"resize its shorter side to {resize}, keeping its aspect ratio ({how})")
    elif resize is not None and entry["fit"] == "letterbox":
        size = f"{resize[0]} x {resize[1]}"
        steps.append(f"scale it to fit into {size} ({how}), centre it and pad with {entry['pad']}")
    elif resize is not None:
        steps.append(f"resize it to {resize[0]} x {resize[1]} ({how})")
    if entry["crop"] is not None:
        steps.append(f"crop the centre, {entry['crop'][0]} x {entry['crop'][1]}")
    return steps


def _formula(entry: Mapping[str, Any]) -> str:
    parts = _arithmetic(entry)
    text = "pixel"
    for part in parts:
        text = f"({text} {part})" if part.startswith("- ") else f"{text} {part}"
    return f"x = {text}" if parts else ""


def _arithmetic(entry: Mapping[str, Any]) -> list[str]:
    return [
        *([f"* {entry['scale']:.9g}"] if entry["scale"] != 1.0 else []),
        *([f"- {_listed(entry['mean'])}"] if entry["mean"] else []),
        *([f"/ {_listed(entry['std'])}"] if entry["std"] else []),
    ]


def _inside(folded: Mapping[str, Any]) -> str:
    formula = _formula(folded)
    return ", ".join([f"channels {NAMES[folded['color']]}", *([formula] if formula else [])])


def _listed(numbers: Sequence[float]) -> str:
    texts = [f"{number:.9g}" for number in numbers]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _typed(tensor: Mapping[str, Any]) -> str:
    quantization = tensor.get("quantization")
    if quantization is None:
        return f", {tensor['dtype']}"
    scale, zero = quantization
    return f", {tensor['dtype']}: round(x / {scale:.9g}) + {zero}, clipped to its limits"


# In code


def _python(tensor: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    gray = entry["color"] == "gray"
    return PYTHON.format(
        name=_identifier(tensor),
        mode="L" if gray else "RGB",
        channels=1 if gray else 3,
        steps="\n".join(f"    {line}" for line in _python_geometry(entry)) or "    # as it is",
        values="\n".join(f"    {line}" for line in _python_values(tensor, entry)),
    )


def _python_geometry(entry: Mapping[str, Any]) -> list[str]:
    resample = f"Image.Resampling.{entry['interpolation'].upper()}"
    resize, lines = entry["resize"], []
    if isinstance(resize, int):
        lines += [
            f"sides = [int({resize} * side / min(image.size)) for side in image.size]",
            f"image = image.resize(sides, {resample})",
        ]
    elif resize is not None and entry["fit"] == "letterbox":
        height, width = resize
        lines += [
            f"ratio = min({width} / image.width, {height} / image.height)",
            "sides = [max(1, round(side * ratio)) for side in image.size]",
            f"image = image.resize(sides, {resample})",
            f"fill = {entry['pad'] if entry['color'] == 'gray' else (entry['pad'],) * 3}",
            f"canvas = Image.new(image.mode, ({width}, {height}), fill)",
            f"canvas.paste(image, (({width} - sides[0]) // 2, ({height} - sides[1]) // 2))",
            "image = canvas",
        ]
    elif resize is not None:
        lines.append(f"image = image.resize(({resize[1]}, {resize[0]}), {resample})")
    if entry["crop"] is not None:
        height, width = entry["crop"]
        lines += [
            f"left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    return lines


def _python_values(tensor: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    lines = ["x = pixels[..., ::-1]" if entry["color"] == "bgr" else "x = pixels"]
    if _arithmetic(entry):
        lines.append(f"x = x.astype(np.float32) * np.float32({entry['scale']!r})")
    if entry["mean"]:
        lines.append(f"x = x - np.float32({list(entry['mean'])})")
    if entry["std"]:
        lines.append(f"x = x / np.float32({list(entry['std'])})")
    if tensor["layout"] == "nchw":
        lines.append("x = x.transpose(2, 0, 1)")
    dtype, quantization = tensor["dtype"], tensor.get("quantization")
    if quantization is not None:
        limits = f'np.iinfo("{dtype}").min, np.iinfo("{dtype}").max'
        lines.append(f"x = np.clip(np.rint(x / {quantization[0]!r}) + {quantization[1]}, {limits})")
    return [*lines, f'x = x.astype("{dtype}")']


def _code(language: str, template: str, tensor: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    channels = 1 if entry["color"] == "gray" else 3
    is_float = bool(_arithmetic(entry)) or tensor["dtype"].startswith("float")
    is_planar = tensor["layout"] == "nchw"
    pad = "  " if language == "js" else "    "
    result, constants = _result(language, entry, channels, is_float=is_float)
    then = _typed(tensor).removeprefix(", ")
    comment = "" if then in ("float32", "uint8") else f" // then {then}"
    return template.format(
        name=_identifier(tensor),
        array=ARRAYS[language][0 if is_float else 1],
        channels=channels,
        constants="".join(f"{pad}{constant}\n" for constant in constants),
        value=_value(language, entry["color"]),
        index="c * n + i" if is_planar else f"{channels} * i + c",
        result=result,
        then=comment,
    )


def _value(language: str, color: str) -> str:
    """The expression of a pixel's channel `c`, 0 to 255."""
    if language in ("js", "swift"):
        kind = "Int({})" if language == "swift" else "{}"
        parts = [kind.format(RGBA.format(f" + {index}" if index else "")) for index in range(3)]
        place = "2 - c" if color == "bgr" else "c"
        value = kind.format(RGBA.format(f" + {place}"))
        shift = ">>"
    else:
        shift, mask = ("shr", "and") if language == "kotlin" else (">>", "&")
        parts = [f"(pixels[i] {shift} {bits} {mask} 0xff)" for bits in (16, 8, 0)]
        place = "8 * c" if color == "bgr" else "16 - 8 * c"
        value = f"pixels[i] {shift} ({place}) {mask} 0xff"
    return LUMA.format(*parts, shift) if color == "gray" else value


def _result(
    language: str, entry: Mapping[str, Any], channels: int, *, is_float: bool
) -> tuple[str, list[str]]:
    """The expression of an element, and the constants that it reads."""
    if not is_float:
        return {"js": "value", "kotlin": "value.toByte()", "java": "(byte) value"}.get(
            language, "UInt8(value)"
        ), []
    end = "f" if language in ("kotlin", "java") else ""
    result = {"swift": "Float(value)", "kotlin": "value.toFloat()"}.get(language, "value")
    constants = []
    if entry["scale"] != 1.0:
        result = f"{result} * {entry['scale']:.9g}{end}"
    for key, sign in (("mean", "-"), ("std", "/")):
        if numbers := entry[key]:
            constants.append(_constant(language, key, numbers * (channels // len(numbers)), end))
            grouped = f"({result})" if sign == "/" and " " in result else result
            result = f"{grouped} {sign} {key}[c]"
    return result, constants


def _constant(language: str, name: str, numbers: Sequence[float], end: str) -> str:
    listed = ", ".join(f"{float(number):.9g}{end}" for number in numbers)
    return {
        "js": f"const {name} = [{listed}];",
        "kotlin": f"val {name} = floatArrayOf({listed})",
        "java": f"float[] {name} = {{{listed}}};",
    }.get(language, f"let {name}: [Float] = [{listed}]")


def _identifier(tensor: Mapping[str, Any]) -> str:
    return re.sub(r"\W", "_", tensor["name"])
