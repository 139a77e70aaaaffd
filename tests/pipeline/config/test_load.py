"""The loader: what a file means, and the words and places of everything that can be wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.base import Options

KINDS = "'torch', 'onnx', 'tflite', 'keras', 'tensorflow' or 'sklearn'"


class OnnxOptions(Options):
    """Options of the fake `onnx`."""

    opset: int = Field(default=18, ge=13, le=23, description="Opset.")
    pair: tuple[int, int] = (1, 2)
    level: int | Literal["auto"] = "auto"

    @field_validator("opset")
    @classmethod
    def _no_twenty(cls, value: int) -> int:
        if value == 20:
            raise ValueError(f"opset {value} was a mistake")
        return value


class QuantizeOptions(Options):
    """Options of the fake int8 targets' quantization."""

    mode: Literal["static", "dynamic"] = "static"
    per_channel: bool = True
    note: str = ""

    @field_validator("note")
    @classmethod
    def _echoes(cls, value: str) -> str:
        if "secret" in value:
            raise ValueError(f"bad note {value!r}")
        return value


def fake(**members: Any) -> Any:
    defaults = {
        "Options": Options,
        "QuantizeOptions": None,
        "summary": "A fake.",
        "format": "onnx",
        "accepts": ("onnx",),
        "precision_asked": "fp32",
        "calibrated": False,
    }
    return SimpleNamespace(**{**defaults, **members})


TARGETS: Mapping[str, Any] = {
    "onnx": fake(Options=OnnxOptions),
    "onnx-int8": fake(QuantizeOptions=QuantizeOptions, calibrated=True),
    "tflite": fake(format="tflite"),
    "tflite-int8": fake(format="tflite", QuantizeOptions=QuantizeOptions),
    "coreml": fake(format="coreml", accepts=("exported_program", "onnx")),
}
ENVIRON = {"WHERE": "zoo", "TOKEN": "topsecret", "EMPTY": "", "SIZE": "8GiB", "TWENTY": "20"}

HEAD = """\
model: net
version: 1.2.0
"""
SOURCE = "source: {onnx: net.onnx}\n"
TARGET = "targets: {onnx: }\n"
GOOD = HEAD + SOURCE + TARGET


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], Config]:
    """Load a text as a config, in a directory that has the files which it may name."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "net.py").write_text(
        "import os.path\nfrom math import tau as circle\nLIMIT: int = 3\nfirst, second = 1, 2\n"
        "try:\n    def build(): local = 1\nexcept OSError:\n    pass\n"
    )
    (tmp_path / "star.py").write_text("from math import *\n")
    (tmp_path / "broken.py").write_text("def build():\n    return (\n")
    (tmp_path / "odd.py").write_bytes(b"x = '\\d'\0\n")
    for name in ("net.onnx", "zoo/net.pth", "real.npz"):
        (tmp_path / name).touch()

    def read_text(text: str | bytes) -> Config:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, environ=ENVIRON, targets=TARGETS)

    return read_text


Read = Callable[[str | bytes], Config]


def errors(read: Read, text: str | bytes, tmp_path: Path) -> list[str]:
    """The lines of the error that a text gives, without the directory."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "DIR").splitlines()


def test_a_whole_config(read: Read, tmp_path: Path) -> None:
    config = read(
        """\
model: efficientnet-lite0
version: 1.2.0-rc.1
source:
  torch: zoo/net.py:build
  weights: ${WHERE}/net.pth
inputs:
  image: {shape: [batch, 3, 224, 224], dtype: float32, range: [-1, 1], batch: [1, 8]}
  tokens: {shape: [batch, length, n], dtype: int64, length: [2, 9]}
  mask: {shape: [rows, 1, 1, 1], dtype: bool}
  photo: {shape: [1, 8, 8, 3], dtype: uint8, layout: nhwc, range: [0, 255]}
outputs: [scores]
samples: {parity: zoo/net.py:circle, calibration: real.npz}
targets:
  onnx: {opset: 19, pair: [3, 4]}
  onnx-int8:
    from: onnx
    layout: nhwc
    parity: {min_snr_db: 18, reason: measured}
    allow_unverified: no runtime
    quantize: {mode: dynamic}
  tflite:
  tflite-int8: {from: tflite}
  coreml: {}
limits: {timeout: 1e2, memory: 8GiB}
"""
    )
    assert config.path == tmp_path / "c.yaml"
    assert config.source.to_source() == {
        "kind": "torch",
        "factory": f"{tmp_path}/zoo/net.py:build",
        "file": None,
        "weights": f"{tmp_path}/zoo/net.pth",
        "weights_key": "",
        "weights_prefix": "",
        "submodule": "",
        "freeze": {},
    }
    assert config.samples.parity == f"{tmp_path}/zoo/net.py:circle"
    assert config.samples.calibration == f"{tmp_path}/real.npz"
    assert list(config.targets) == list(TARGETS)
    assert config.targets["onnx"].options() == {"opset": 19, "pair": [3, 4], "level": "auto"}
    assert config.targets["onnx"].quantize_options() == {}
    assert config.targets["onnx"].parity_options() == {}
    int8 = config.targets["onnx-int8"]
    assert (int8.from_, int8.layout, int8.allow_unverified) == ("onnx", "nhwc", "no runtime")
    assert int8.options() == {}
    assert int8.quantize_options() == {"mode": "dynamic", "per_channel": True, "note": ""}
    assert int8.parity_options() == {"min_snr_db": 18.0, "reason": "measured"}
    assert config.targets["tflite-int8"].quantize_options()["mode"] == "static"
    assert (config.limits.timeout, config.limits.memory) == (100.0, 8 * 2**30)
    assert config.signature() == Signature(
        inputs=(
            Tensor(
                name="image",
                shape=("batch", 3, 224, 224),
                dtype="float32",
                layout="nchw",
                range=(-1.0, 1.0),
            ),
            Tensor(name="tokens", shape=("batch", "length", "n"), dtype="int64"),
            Tensor(name="mask", shape=("rows", 1, 1, 1), dtype="bool"),
            Tensor(
                name="photo", shape=(1, 8, 8, 3), dtype="uint8", layout="nhwc", range=(0.0, 255.0)
            ),
        ),
        dims={"batch": (1, 8), "length": (2, 9), "n": (1, 64), "rows": (1, 4)},
    )


def test_defaults(read: Read, tmp_path: Path) -> None:
    config = read(GOOD)
    model = f"{tmp_path}/net.onnx"
    assert config.source.to_source() == {"kind": "onnx", "model": model, "freeze": {}}
    assert config.signature() == Signature(inputs=())
    assert (config.outputs, config.samples.parity, config.samples.calibration) == (None,) * 3
    assert (config.limits.timeout, config.limits.memory) == (1800.0, None)


def test_one_default_range_for_a_dimension_of_several_inputs(read: Read) -> None:
    config = read(
        GOOD + "inputs:\n"
        "  a: {shape: [batch, n], dtype: float32}\n"
        "  b: {shape: [2, batch, n], dtype: float32, n: [1, 3], batch: [2, 2]}\n"
    )
    assert config.signature().dims == {"batch": (2, 2), "n": (1, 3)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ('"null"', "null"),
        ("!!str 5", "5"),
        ("${WHERE}", "zoo"),
        ("'${WHERE}/${WHERE}'", "zoo/zoo"),
        ("${TWENTY}", "20"),
        ("${NONE:-a b}", "a b"),
        ("${EMPTY:-a}", "a"),
        ("${NONE:-}x", "x"),
        ("a${EMPTY}", "a"),
        ("$$ $${WHERE} $5 $", "$ ${WHERE} $5 $"),
        ("<<", "<<"),
        ('"\\u00e9"', "é"),
    ],
)
def test_text(read: Read, text: str, value: str) -> None:
    config = read(HEAD + SOURCE + f"targets:\n  onnx:\n    allow_unverified: {text}\n")
    assert config.targets["onnx"].allow_unverified == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+7", 7),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("!!float 3", 3.0),
        ("!!int '3'", 3),
    ],
)
def test_numbers(read: Read, text: str, value: float) -> None:
    assert read(f"{GOOD}limits:\n  timeout: {text}\n").limits.timeout == value


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("TRUE", True), ("!!bool false", False)]
)
def test_truth(read: Read, text: str, value: bool) -> None:
    config = read(
        HEAD + SOURCE + f"targets: {{tflite-int8: {{quantize: {{per_channel: {text}}}}}}}"
    )
    assert config.targets["tflite-int8"].quantize_options()["per_channel"] is value


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL", "!!null ''"])
def test_null(read: Read, text: str) -> None:
    assert read(f"{GOOD}outputs: {text}\n").outputs is None


@pytest.mark.parametrize(("text", "value"), [("1024", 1024), ("3 MiB", 3 * 2**20), ("9B", 9)])
def test_memory(read: Read, text: str, value: int) -> None:
    assert read(f"{GOOD}limits: {{memory: {text}}}\n").limits.memory == value


def test_anchors_and_merge_keys(read: Read) -> None:
    config = read(
        HEAD + SOURCE + "targets:\n"
        "  onnx: &common {layout: nhwc, allow_unverified: a}\n"
        "  tflite: {<<: *common, layout: nchw}\n"
        "  coreml: {<<: [{layout: nchw}, *common]}\n"
        "  tflite-int8: *common\n"
    )
    found = {name: (entry.layout, entry.allow_unverified) for name, entry in config.targets.items()}
    assert found == {
        "onnx": ("nhwc", "a"),
        "tflite": ("nchw", "a"),
        "coreml": ("nchw", "a"),
        "tflite-int8": ("nhwc", "a"),
    }


@pytest.mark.parametrize("name", ["build", "os", "circle", "LIMIT", "first", "second"])
def test_a_function_is_any_top_level_name(read: Read, name: str) -> None:
    assert read(f"{GOOD}samples: {{parity: 'zoo/net.py:{name}'}}\n").samples.parity


def test_what_a_star_import_brings_is_not_judged(read: Read) -> None:
    assert read(f"{GOOD}samples: {{parity: 'star.py:whatever'}}\n").samples.parity


def test_absolute_and_linked_paths(read: Read, tmp_path: Path) -> None:
    (tmp_path / "linked.npz").symlink_to(tmp_path / "net.onnx")
    assert read(f"{GOOD}samples: {{parity: linked.npz}}\n").samples.parity == (
        f"{tmp_path}/linked.npz"
    )
    absolute = f"{GOOD}samples: {{parity: '{tmp_path}/zoo/../real.npz'}}\n"
    assert read(absolute).samples.parity == f"{tmp_path}/real.npz"


def test_a_byte_order_mark_is_no_text(read: Read) -> None:
    assert read(b"\xef\xbb\xbf" + GOOD.encode()).model == "net"


FILES: list[tuple[str | bytes, list[str]]] = [
    ("", ["c.yaml: the file is empty"]),
    ("# nothing\n", ["c.yaml: the file is empty"]),
    ("- 1\n", ["c.yaml:1:1: expected a mapping at the top, got [1]"]),
    ("\nx\n", ["c.yaml:2:1: expected a mapping at the top, got 'x'"]),
    ("null", ["c.yaml:1:1: expected a mapping at the top, got null"]),
    (b"model: a\nx: \xff\n", ["c.yaml:2:4: not UTF-8 text"]),
    ("a: 1\nb: \x01\n", ["c.yaml:2:4: character U+0001 is not allowed"]),
    (
        "a: [1\nb: 2\n",
        [
            "c.yaml:2:2: not valid YAML: expected ',' or ']', but got ':', "
            "while parsing a flow sequence"
        ],
    ),
    (
        "a: {b: ${C}}\n",
        [
            "c.yaml:1:9: not valid YAML: expected ',' or '}', but got '{', while parsing a flow "
            "mapping, quote a '${VAR}' that stands in braces or brackets"
        ],
    ),
    ("a: *b\n", ["c.yaml:1:4: not valid YAML: found undefined alias 'b'"]),
    ('a: "\\UFFFFFFFF"\n', ["c.yaml:1:7: not valid YAML: no such character"]),
    (
        "a: 1\n---\nb: 2\n",
        [
            "c.yaml:2:1: not valid YAML: but found another document, "
            "expected a single document in the stream"
        ],
    ),
    ("[" * 60, ["c.yaml:1:51: not valid YAML: nested over 50 deep"]),
    ("a: &a [*a]\n", ["c.yaml:1:4: a[0]: this anchor contains itself"]),
    ("a: &a {<<: *a}\n", ["c.yaml:1:4: a: this anchor contains itself"]),
    (
        "a: &a0 [x]\n" + "".join(f"b{n}: &a{n + 1} [*a{n}]\n" for n in range(80)),
        [f"c.yaml:1:9: b47{'[0]' * 49}: nested over 50 deep"],
    ),
    (
        "a: &a0 [x, x]\n" + "".join(f"b{n}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(30)),
        [
            "c.yaml:3:9: the file stands for over 20000 values; it repeats aliases too often",
        ],
    ),
    (
        "a: &a0 {x: 1}\n" + "".join(f"b{n}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n" for n in range(30)),
        ["c.yaml:2:10: the file stands for over 20000 values; it repeats aliases too often"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), FILES)
def test_files_that_are_no_config(
    read: Read, tmp_path: Path, text: str | bytes, expected: list[str]
) -> None:
    found = errors(read, text, tmp_path)
    if "stands for" in expected[0]:  # where the count runs out is of no interest
        assert [line.split(": ", 1)[1] for line in found] == [expected[0].split(": ", 1)[1]]
    else:
        assert found == expected


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/c.yaml: no such file$"):
        load(tmp_path / "c.yaml", targets=TARGETS)
    with pytest.raises(ConfigError, match=r": this is a directory; a config is a YAML file$"):
        load(tmp_path, targets=TARGETS)
    with pytest.raises(ConfigError, match=r"^.x: cannot be read: embedded null byte$"):
        load("\0x", targets=TARGETS)


# What a config says after GOOD or HEAD, and the errors, of which each begins with "c.yaml:"
AFTER_GOOD: list[tuple[str, list[str]]] = [
    # keys
    (
        "limit: {}\n1: 2\n? [a]\n: 3\n",
        [
            "5:1: limit: unknown key; did you mean 'limits'?",
            "6:1: a key is text; quote it: '1'",
            "7:3: a key is text",
        ],
    ),
    (
        "zzz: 1\n",
        [
            "5:1: zzz: unknown key; known here: 'inputs', 'labels', 'limits', 'metadata', 'model', "
            "'outputs', 'release', 'samples', 'source', 'targets' and 'version'"
        ],
    ),
    ("model: again\n", ["5:1: model: duplicate key; the first is at 1:1"]),
    (
        "limits: {timeout: 1, timeout: 2}\n",
        ["5:22: limits.timeout: duplicate key; the first is at 5:10"],
    ),
    ("limits: {<<: 3}\n", ["5:14: limits.<<: expected a mapping to merge"]),
    ("limits: !x {}\n", ["5:9: limits: the tag '!x' is not supported"]),
    (
        "limits: {timeout: !!int x}\n",
        ["5:19: limits.timeout: the tag '!!int' does not fit this text"],
    ),
    (
        "limits: {timeout: !!python/name:os.system x}\n",
        [
            "5:19: limits.timeout: the tag 'tag:yaml.org,2002:python/name:os.system' "
            "is not supported"
        ],
    ),
    # scalars
    (
        "limits: {timeout: " + "9" * 101 + "}\n",
        ["5:19: limits.timeout: a number of over 100 digits"],
    ),
    ("limits: {timeout: .nan}\n", ["5:19: limits.timeout: expected a finite number, got nan"]),
    ("limits: {timeout: 0}\n", ["5:19: limits.timeout: expected more than 0, got 0"]),
    ("limits: {timeout: '5'}\n", ["5:19: limits.timeout: expected a number, got '5'"]),
    ("limits: {timeout: yes}\n", ["5:19: limits.timeout: expected a number, got 'yes'"]),
    (
        "limits: {memory: 8GB}\n",
        ["5:18: limits.memory: expected bytes or a size such as '8GiB', got '8GB'"],
    ),
    ("limits: {memory: true}\n", ["5:18: limits.memory: expected a whole number, got true"]),
    ("limits: [1, {}]\n", ["5:9: limits: expected a mapping, got a list"]),
    ("limits:\n", ["5:8: limits: expected a mapping, got null"]),
    ("outputs: []\n", ["5:10: outputs: expected a list of 1 or more, got []"]),
    ("outputs: [a, b, a]\n", ["5:10: outputs: a name stands twice in ['a', 'b', 'a']"]),
    ("outputs: [a, {}]\n", ["5:14: outputs[1]: expected text, got a mapping"]),
    # the environment
    (
        "outputs: ['${A}${B}', '${', '${1}']\n",
        [
            "5:11: outputs[0]: the environment variable 'A' is not set",
            "5:11: outputs[0]: the environment variable 'B' is not set",
            "5:23: outputs[1]: expected '${NAME}' or '${NAME:-default}'; '$$' is a dollar sign",
            "5:29: outputs[2]: expected '${NAME}' or '${NAME:-default}'; '$$' is a dollar sign",
        ],
    ),
    ('outputs: ["\\ud800"]\n', ["5:11: outputs[0]: this is not Unicode text"]),
    (
        "limits: {timeout: '${TOKEN}'}\n",
        ["5:19: limits.timeout: expected a number, got '${TOKEN}'"],
    ),
    (
        "outputs: ['${TOKEN}', '${TOKEN}']\n",
        ["5:10: outputs: a name stands twice in ['${TOKEN}', '${TOKEN}']"],
    ),
    (
        "samples: {parity: '${TOKEN}.npz'}\n",
        ["5:19: samples.parity: no such file: '${TOKEN}.npz' (looked in 'DIR')"],
    ),
    # samples
    (
        "samples: {parity: x.txt, calibratoin: 1}\n",
        [
            "5:19: samples.parity: no such file or folder: 'x.txt'; expected "
            "'file.py:function', an '.npz' file or a folder of images",
            "5:26: samples.calibratoin: unknown key; did you mean 'calibration'?",
        ],
    ),
    (
        "samples: {parity: 'zoo/net.py:biuld', calibration: 'gone.py:f'}\n",
        [
            "5:19: samples.parity: the file has no such function: 'zoo/net.py:biuld'; "
            "did you mean 'build'?",
            "5:52: samples.calibration: no such file: 'gone.py:f' (looked in 'DIR')",
        ],
    ),
    (
        "samples: {parity: 'zoo/net.py:local', calibration: 'zoo/net.py:'}\n",
        [
            "5:19: samples.parity: the file has no such function: 'zoo/net.py:local'",
            "5:52: samples.calibration: no such file or folder: 'zoo/net.py:'; "
            "expected 'file.py:function', an '.npz' file or a folder of images",
        ],
    ),
    (
        "samples: {parity: 'broken.py:build', calibration: 'odd.py:f'}\n",
        [
            "5:19: samples.parity: line 2 is not valid Python: 'broken.py:build': "
            "'(' was never closed",
            "5:51: samples.calibration: the file is not valid Python: 'odd.py:f': "
            "source code string cannot contain null bytes",
        ],
    ),
    (
        "samples: {parity: '/gone/real.npz', calibration: \"a\\0/b.npz\"}\n",
        [
            "5:19: samples.parity: no such file: '/gone/real.npz'",
            "5:50: samples.calibration: this cannot be a path: 'a\\x00/b.npz' (looked in 'DIR')",
        ],
    ),
    # inputs
    ("inputs: [1]\n", ["5:9: inputs: expected a mapping, got [1]"]),
    ("inputs: {a: 3}\n", ["5:13: inputs.a: expected a mapping, got 3"]),
    (
        "inputs: {a: {}}\n",
        ["5:10: inputs.a.dtype: this key is missing", "5:10: inputs.a.shape: this key is missing"],
    ),
    (
        "inputs:\n"
        "  a: {shape: [bach, -1, 1.5, a b, range, true], dtyp: int8, batch: [1, 8], zz: 1}\n",
        [
            "6:3: inputs.a.dtype: this key is missing",
            "6:21: inputs.a.shape[1]: expected 1 or more, got -1",
            "6:25: inputs.a.shape[2]: expected a whole number or text, got 1.5",
            "6:30: inputs.a.shape[3]: expected a name of letters, digits and '_', got 'a b'",
            "6:35: inputs.a.shape[4]: 'range' is a key of every input; "
            "give the dimension another name",
            "6:42: inputs.a.shape[5]: expected a whole number or text, got true",
            "6:49: inputs.a.dtyp: neither a key nor a dimension of 'shape'; did you mean 'dtype'?",
            "6:61: inputs.a.batch: neither a key nor a dimension of 'shape'; did you mean 'bach'?",
            "6:76: inputs.a.zz: neither a key nor a dimension of 'shape'",
        ],
    ),
    (
        "inputs: {a: {shape: [n, m], dtype: int46, n: [3, 1], m: [0, 2]}}\n",
        [
            "5:36: inputs.a.dtype: expected 'float16', 'float32', 'float64', 'int8', 'int16', "
            "'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64', 'bool' or 'string', "
            "got 'int46'; did you mean 'int64'?",
            "5:46: inputs.a.n: expected [least, greatest], got [3, 1]",
            "5:58: inputs.a.m[0]: expected 1 or more, got 0",
        ],
    ),
    (
        "inputs:\n  a: {shape: [n], dtype: int8, n: [1, 2]}\n"
        "  b: {shape: [n], dtype: int8, n: [1, 3]}\n",
        ["7:35: inputs.b.n: differs from [1, 2] of inputs.a; a dimension has one range"],
    ),
    (
        "inputs:\n"
        "  a: {shape: [1], dtype: bool, range: [0, 1], layout: nhwc}\n"
        "  b: {shape: [1], dtype: uint8, range: [-1, 300]}\n"
        "  c: {shape: [1], dtype: float32, range: [1, 1]}\n"
        "  d: {shape: [1], dtype: float32, range: [1]}\n"
        "  e: {shape: [1], dtype: float32, range: [1, 2, 3]}\n"
        "  f: {shape: [1], dtype: float16, range: [0, 1e6]}\n",
        [
            "6:39: inputs.a.range: a bool input has no range",
            "6:55: inputs.a.layout: only an input of 4 dimensions has a layout, this one has 1",
            "7:40: inputs.b.range: not within [0, 255] of uint8: [-1, 300]",
            "8:42: inputs.c.range: expected [low, high] with low below high, got [1, 1]",
            "9:42: inputs.d.range: expected a longer list, got [1]",
            "10:42: inputs.e.range: expected a list of 2 or fewer, got [1, 2, 3]",
            "11:42: inputs.f.range: not within [-65504.0, 65504.0] of float16: [0, 1000000.0]",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), AFTER_GOOD)
def test_errors(read: Read, tmp_path: Path, text: str, expected: list[str]) -> None:
    assert errors(read, GOOD + text, tmp_path) == [f"c.yaml:{line}" for line in expected]


SOURCES: list[tuple[str, list[str]]] = [
    (
        "source: 3\n",
        [f"3:9: source: expected a mapping with one of the keys {KINDS}, got 3"],
    ),
    ("source: {}\n", [f"3:1: source: one of the keys {KINDS} is needed"]),
    ("source: {trch: 'a.py:f'}\n", ["3:10: source.trch: unknown key; did you mean 'torch'?"]),
    (
        "source: {onnx: {url: https://x.org/a.onnx}}\n",
        [
            "3:10: source.onnx: a url needs the file's 'sha256', which says which file is meant; "
            "`sha256sum FILE` prints it"
        ],
    ),
    (
        "source: {onnx: {url: ftp://x.org/a.onnx, sha256: A}}\n",
        [
            "3:22: source.onnx.url: expected a url that begins with https://, http:// or file://, "
            "got 'ftp://x.org/a.onnx'",
            "3:50: source.onnx.sha256: expected 64 hexadecimal digits, in lower case, got 'A'",
        ],
    ),
    (
        "source: {onnx: net.onnx, torch: 1}\n",
        ["3:26: source.torch: one source is needed, 'onnx' is given as well"],
    ),
    (
        "source: {onnx: net.onnx, weights: 1}\n",
        ["3:26: source.weights: unknown key; known here: 'freeze' and 'onnx'"],
    ),
    (
        "source: {onnx: zoo}\n",
        ["3:16: source.onnx: this is a directory, not a file: 'zoo' (looked in 'DIR')"],
    ),
    (
        "source:\n  torch: net.py\n  wieghts: x\n",
        [
            "3:1: inputs: a torch source does not state its inputs; declare them here",
            "4:10: source.torch: expected 'file.py:function', got 'net.py'",
            "5:3: source.wieghts: unknown key; did you mean 'weights'?",
        ],
    ),
    (
        "source: {torch: 'zoo/net.py:build', weights: '${WHERE}/none.pth'}\ninputs: {}\n",
        [
            "3:46: source.weights: no such file: '${WHERE}/none.pth' (looked in 'DIR')",
            "4:1: inputs: a torch source does not state its inputs; declare them here",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), SOURCES)
def test_errors_of_sources(read: Read, tmp_path: Path, text: str, expected: list[str]) -> None:
    found = errors(read, HEAD + text + TARGET, tmp_path)
    # A missing key is said at the top of the mapping that lacks it.
    at_top = [line.replace("3:1: inputs", "1:1: inputs") for line in expected]
    assert found == [f"c.yaml:{line}" for line in at_top]


TARGET_ERRORS: list[tuple[str, list[str]]] = [
    ("targets: {}\n", ["4:10: targets: at least one target is needed"]),
    ("targets:\n", ["4:9: targets: expected a mapping, got null"]),
    (
        "targets: {tflit: , onnx: 1}\n",
        [
            "4:11: targets.tflit: unknown key; did you mean 'tflite'?",
            "4:26: targets.onnx: expected a mapping, got 1",
        ],
    ),
    (
        "targets: {tflite-int8: {quantise: {}, quantize: {mode: statik, per_channel: no}}}\n",
        [
            "4:25: targets.tflite-int8.quantise: unknown key; did you mean 'quantize'?",
            "4:56: targets.tflite-int8.quantize.mode: expected 'static' or 'dynamic', "
            "got 'statik'; did you mean 'static'?",
            "4:77: targets.tflite-int8.quantize.per_channel: expected true or false, got 'no'",
        ],
    ),
    (
        "targets: {tflite: {quantize: {}}}\n",
        [
            "4:20: targets.tflite.quantize: unknown key; known here: 'allow_unverified', 'from', "
            "'layout', 'parity', 'preprocess' and 'via'"
        ],
    ),
    (
        "targets: {onnx: {opset: 12, pair: [1, x], level: 1.5, layout: nwhc}}\n",
        [
            "4:25: targets.onnx.opset: expected 13 or more, got 12",
            "4:39: targets.onnx.pair[1]: expected a whole number, got 'x'",
            "4:50: targets.onnx.level: expected a whole number or 'auto', got 1.5",
            "4:63: targets.onnx.layout: expected 'nchw' or 'nhwc', got 'nwhc'; "
            "did you mean 'nhwc'?",
        ],
    ),
    ("targets: {onnx: {opset: 20}}\n", ["4:25: targets.onnx.opset: opset 20 was a mistake"]),
    (
        "targets: {onnx: {opset: '${TWENTY}'}}\n",
        ["4:25: targets.onnx.opset: expected a whole number, got '${TWENTY}'"],
    ),
    (
        "targets: {tflite-int8: {quantize: {note: 'x ${TOKEN}'}}}\n",
        ["4:42: targets.tflite-int8.quantize.note: bad note 'x ${TOKEN}'"],
    ),
    (
        "targets: {onnx: {parity: {max_error: 0.1}}, "
        "tflite: {parity: {min_snr_db: 1, reason: ' '}}}\n",
        [
            "4:18: targets.onnx.parity: a changed tolerance needs a 'reason', "
            "which the manifest will state",
            "4:54: targets.tflite.parity: a changed tolerance needs a 'reason', "
            "which the manifest will state",
        ],
    ),
    (
        "targets: {onnx-int8: }\n",
        [
            "4:11: targets.onnx-int8: needs calibration samples; "
            "add 'samples: {calibration: file.py:function}', an .npz, a folder of images, "
            "or 'synthetic'"
        ],
    ),
    # from
    (
        "targets: {onnx: {from: onnx}}\n",
        ["4:24: targets.onnx.from: a target cannot start from itself"],
    ),
    (
        "targets: {onnx: , tflite: {from: onxn}, coreml: {from: [onnx]}}\n",
        [
            "4:34: targets.tflite.from: no such target in this config: 'onxn'; "
            "did you mean 'onnx'?",
            "4:56: targets.coreml.from: expected text, got ['onnx']",
        ],
    ),
    (
        "targets: {onnx: {from: tflite}, tflite: , coreml: {from: tflite}}\n",
        [
            "4:24: targets.onnx.from: 'onnx' starts from 'onnx', but 'tflite' gives 'tflite'",
            "4:58: targets.coreml.from: 'coreml' starts from 'exported_program' or 'onnx', "
            "but 'tflite' gives 'tflite'",
        ],
    ),
    (
        "targets: {onnx: {from: onnx-int8}, onnx-int8: {from: onnx}, tflite: {from: onnx}}\n"
        "samples: {calibration: real.npz}\n",
        ["4:24: targets.onnx.from: targets start from each other: onnx -> onnx-int8 -> onnx"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), TARGET_ERRORS)
def test_errors_of_targets(read: Read, tmp_path: Path, text: str, expected: list[str]) -> None:
    found = errors(read, HEAD + SOURCE + text, tmp_path)
    assert found == [f"c.yaml:{line}" for line in expected]


@pytest.mark.parametrize("labels", ["[cat, 'dog and co']", "labels.txt"])
def test_labels_are_a_list_or_the_lines_of_a_file(read: Read, tmp_path: Path, labels: str) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog and co\r\n\n")
    assert read(f"{GOOD}labels: {labels}\n").labels == ["cat", "dog and co"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("gone.txt", "5:9: labels: no such file: 'gone.txt' (looked in 'DIR')"),
        ("gap.txt", "5:9: labels: line 2 of 'gap.txt' is empty; a class needs a name"),
        ("latin.txt", "5:9: labels: 'latin.txt' cannot be read: it is not UTF-8 text"),
        ("[1, b]", "5:10: labels[0]: expected text, got 1"),
    ],
)
def test_labels_that_cannot_be(read: Read, tmp_path: Path, labels: str, expected: str) -> None:
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    assert errors(read, f"{GOOD}labels: {labels}\n", tmp_path) == [f"c.yaml:{expected}"]


def test_a_label_that_stands_twice_is_no_matter_but_to_core_ml(read: Read, tmp_path: Path) -> None:
    text = HEAD + SOURCE + "labels: [crane, bee, crane]\n"
    assert read(f"{text}targets: {{onnx: }}\n").labels == ["crane", "bee", "crane"]
    assert errors(read, f"{text}targets: {{onnx: , coreml: }}\n", tmp_path) == [
        "c.yaml:4:9: labels: 'crane' stands twice, and 'coreml' needs a label of its own for each "
        "class"
    ]


def test_metadata(read: Read) -> None:
    assert read(GOOD).metadata.model_dump() == {"author": "", "license": "", "description": ""}
    found = read(f"{GOOD}metadata: {{author: Ada, license: MIT}}\n").metadata
    assert (found.author, found.license, found.description) == ("Ada", "MIT", "")


def test_everything_wrong_is_said_in_one_run(read: Read, tmp_path: Path) -> None:
    text = (
        "Model: Net\nversion: 1.2\nsource: {onnx: gone.onnx}\n"
        "targets: {tflite: {from: zzz}, onnx: {oopset: 1}}\n"
    )
    assert errors(read, text, tmp_path) == [
        "c.yaml:1:1: Model: unknown key; did you mean 'model'?",
        "c.yaml:1:1: model: this key is missing",
        "c.yaml:2:10: version: expected text, got 1.2",
        "c.yaml:3:16: source.onnx: no such file: 'gone.onnx' (looked in 'DIR')",
        "c.yaml:4:26: targets.tflite.from: no such target in this config: 'zzz'",
        "c.yaml:4:39: targets.onnx.oopset: unknown key; did you mean 'opset'?",
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model", "Net", "lower-case letters, digits, '.', '_' and '-', "
         "with a letter or digit among them"),
        ("model", "'..'", "lower-case letters, digits, '.', '_' and '-', "
         "with a letter or digit among them"),
        ("model", "a/b", "lower-case letters, digits, '.', '_' and '-', "
         "with a letter or digit among them"),
        ("version", "'1.2'", "a version such as '1.2.0'"),
        ("version", "01.2.3", "a version such as '1.2.0'"),
        ("version", "v1.2.3", "a version such as '1.2.0'"),
    ],
)  # fmt: skip
def test_names_and_versions(
    read: Read, tmp_path: Path, key: str, value: str, expected: str
) -> None:
    lines = {"model": "model: net", "version": "version: 1.2.0", key: f"{key}: {value}"}
    shown = value if value.startswith("'") else repr(value)
    at = f"c.yaml:{list(lines).index(key) + 1}:{len(key) + 3}"
    assert errors(read, "\n".join(lines.values()) + "\n" + SOURCE + TARGET, tmp_path) == [
        f"{at}: {key}: expected {expected}, got {shown}"
    ]


SNIPPETS = st.sampled_from(
    [
        "model", "source", "inputs", "targets", "onnx", "torch", "from", "shape", "dtype",
        ": ", "\n", "\n  ", "- ", "{", "}", "[", "]", ", ", "? ", "&a ", "*a", "<<", "!!int ",
        "${A}", "${", "$$", '"', "'", "\\U", "FFFFFFFF", "1", "-1e9", "0x", "0o7", ".nan", ".inf",
        "null", "true", "no", "---", "...", "%YAML 1.2", "|", ">", "#", "\t", "\0", "é", "\ud7ff",
        "file.py:f", "x.npz", "quantize", "!x ",
    ]
)  # fmt: skip
ANYTHING = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.lists(SNIPPETS, max_size=40).map("".join),
    st.lists(SNIPPETS, max_size=40).map(lambda parts: GOOD + "".join(parts)),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=ANYTHING)
@example(text=GOOD)
@example(text="? {a: b}\n: c\n")
@example(text="a: 0x" + "F" * 99)
@example(text=f"{GOOD}limits: {{timeout: {'9' * 99}, memory: {'9' * 99}}}")
@example(text=f"{GOOD}samples: {{parity: {'x' * 300}.npz}}")
def test_any_text_loads_or_is_a_config_error(read: Read, tmp_path: Path, text: str) -> None:
    message = ""
    try:
        assert isinstance(read(text), Config)
    except ConfigError as error:
        message = error.message
    # Each line has its place: no text of the file can break a line in two.
    start = f"{tmp_path}/c.yaml:"
    assert not message or all(line.startswith(start) for line in message.split("\n"))


def test_loading_imports_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys, crosscast.pipeline.config.load\n"
        "heavy = {'torch', 'tensorflow', 'onnx', 'onnxruntime', 'coremltools', 'ai_edge_litert'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
