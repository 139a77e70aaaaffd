"""What forward() may take, by names, first layers and settings."""

from __future__ import annotations

from typing import Any

import pytest

from crosscast.pipeline.init.facts import Input
from crosscast.pipeline.init.torch_guess import (
    Argument,
    Clues,
    Layer,
    guesses,
    sizes_of,
    tried_sizes,
)

CONV = Layer("Conv2d", 3)
LSTM = Layer("LSTM", 20, (4, 32))


def first(name: str, *layers: Layer, kind: str = "", **config: Any) -> list[tuple[Any, ...]]:
    clues = Clues(layers=layers, config=config)
    found = next(guesses([Argument(name=name, kind=kind)], clues))
    return [(one.name, one.shape, one.dtype) for one in found]


@pytest.mark.parametrize(
    ("name", "layers", "config", "shape", "dtype"),
    [
        ("x", (CONV,), {}, ("batch", 3, 224, 224), "float32"),
        ("x", (CONV,), {"image_size": 64}, ("batch", 3, 64, 64), "float32"),
        ("pixel_values", (), {"image_size": [32, 64], "num_channels": 1},
         ("batch", 1, 32, 64), "float32"),
        ("x", (Layer("Conv1d", 1),), {}, ("batch", 1, "samples"), "float32"),
        ("x", (Layer("Conv1d", 24),), {}, ("batch", 24, "sequence"), "float32"),
        ("x", (Layer("Conv3d", 1),), {}, ("batch", 1, 16, 112, 112), "float32"),
        ("x", (Layer("Linear", 784),), {}, ("batch", 784), "float32"),
        ("x", (Layer("Embedding", 10),), {}, ("batch", "sequence"), "int64"),
        ("x", (LSTM,), {}, ("batch", "sequence", 20), "float32"),
        ("x", (Layer("GRU", 20, (1, 8), False),), {}, ("sequence", "batch", 20), "float32"),
        ("input_ids", (CONV,), {}, ("batch", "sequence"), "int64"),
        ("decoder_input_ids", (), {}, ("batch", "decoder_sequence"), "int64"),
        ("lengths", (), {}, ("batch",), "int64"),
        ("timestep", (CONV,), {}, ("batch",), "int64"),
        ("input_features", (), {"num_mel_bins": 80, "max_source_positions": 1500},
         ("batch", 80, 3000), "float32"),
        ("input_values", (), {}, ("batch", "samples"), "float32"),
        ("h", (LSTM,), {}, (4, "batch", 32), "float32"),
        ("anything", (), {}, ("batch", 16), "float32"),
    ],
)  # fmt: skip
def test_the_likeliest_guess(
    name: str, layers: tuple[Layer, ...], config: Any, shape: tuple[Any, ...], dtype: str
) -> None:
    assert first(name, *layers, **config) == [(name, shape, dtype)]


def test_an_lstms_state_is_two_tensors() -> None:
    assert [name for name, _, _ in first("state", LSTM)] == ["state.0", "state.1"]


def test_several_arguments_are_combined_likeliest_first() -> None:
    arguments = [Argument(name="image"), Argument(name="x")]
    found = list(guesses(arguments, Clues(layers=(CONV,))))
    assert [one.name for one in found[0]] == ["image", "x"]
    assert found[0][0].shape == found[0][1].shape == ("batch", 3, 224, 224)
    assert len(found) > 20


def test_sequences_fit_into_the_table_of_positions() -> None:
    (ids,) = next(guesses([Argument(name="input_ids")], Clues()))
    short = Clues(config={"max_position_embeddings": 32})
    assert sizes_of([ids], Clues())["sequence"][0] == (1, 64)
    assert sizes_of([ids], short)["sequence"][0] == (1, 32)
    assert sizes_of([ids], short)["batch"][0] == (1, 4)


def test_images_of_three_channels_are_tried_whatever_layer_was_made_first() -> None:
    inner = Layer("Conv2d", 32)
    shapes = [one[0].shape for one in guesses([Argument(name="x")], Clues(layers=(inner,)))]
    assert shapes[0][1] == 32
    assert {shape[1] for shape in shapes} == {32, 3, 1}


def test_chunks_of_sound_come_last_where_a_signal_is_convolved() -> None:
    clues = Clues(layers=(Layer("Conv1d", 129),))
    found = [one.shape for (one,) in guesses([Argument(name="x")], clues)]
    assert found[:2] == [("batch", 129, "sequence"), ("batch", "sequence", 129)]
    assert found[2:] == [("batch", size) for size in (512, 256, 480, 160)]


@pytest.mark.parametrize(
    ("shape", "layer", "config", "told"),
    [
        (("batch", 3, 224, 224), CONV, {}, True),
        (("batch", 3, 64, 96), CONV, {"image_size": [64, 96]}, False),
        (("batch", 784), Layer("Linear", 784), {}, False),
        ((4, "batch", 32), LSTM, {}, False),
        (("batch", 512), Layer("Conv1d", 129), {}, True),
    ],
)
def test_sizes_that_nothing_shows_are_told(
    shape: tuple[Any, ...], layer: Layer, config: Any, told: bool
) -> None:
    one = Input(name="x", shape=shape, dtype="float32")
    said = tried_sizes((one,), Clues(layers=(layer,), config=config))
    assert bool(said) == told
    assert all("'x'" in line for line in said)
