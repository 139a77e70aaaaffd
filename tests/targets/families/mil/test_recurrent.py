"""Recurrent layers against torch's."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from crosscast.pipeline.errors import Unproven

torch = pytest.importorskip("torch")
recurrent = pytest.importorskip("crosscast.targets.families.mil.ops.recurrent")

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def ordered(weight: Any, order: str, wanted: str) -> Any:
    """The gates of a stacked weight in another order."""
    parts = dict(zip(order, weight.chunk(len(order)), strict=True))
    return torch.cat([parts[gate] for gate in wanted])


def lstm_weights(net: Any, suffix: str = "") -> dict[str, Any]:
    def weight(name: str) -> Any:
        return ordered(getattr(net, f"{name}_l0{suffix}"), "ifzo", "ifoz")

    return {
        "weight_ih": weight("weight_ih"),
        "weight_hh": weight("weight_hh"),
        "bias": weight("bias_ih") + weight("bias_hh"),
    }


@pytest.mark.parametrize(("direction", "whole"), [*product(("forward", "reverse"), (False, True))])
def test_lstm(direction: str, whole: bool) -> None:
    net = torch.nn.LSTM(SIZE, HIDDEN)
    x, h, c = (
        torch.randn(STEPS, BATCH, SIZE),
        torch.randn(BATCH, HIDDEN),
        torch.randn(BATCH, HIDDEN),
    )
    given = x if direction == "forward" else x.flip(0)
    wanted, (last_h, last_c) = net(given, (h[None], c[None]))
    found = recurrent.lstm(
        x=x, initial_h=h, initial_c=c, direction=direction, output_sequence=whole,
        **lstm_weights(net),
    )  # fmt: skip
    close(found[0], wanted if whole else wanted[-1:])
    close(found[1], last_h[0])
    close(found[2], last_c[0])


@pytest.mark.parametrize("whole", [False, True])
def test_bidirectional_lstm(whole: bool) -> None:
    net = torch.nn.LSTM(SIZE, HIDDEN, bidirectional=True)
    x = torch.randn(STEPS, BATCH, SIZE)
    h, c = torch.randn(2, BATCH, HIDDEN), torch.randn(2, BATCH, HIDDEN)
    wanted, (last_h, last_c) = net(x, (h, c))
    back = {f"{name}_back": value for name, value in lstm_weights(net, "_reverse").items()}
    found = recurrent.lstm(
        x=x, initial_h=torch.cat([*h], -1), initial_c=torch.cat([*c], -1),
        direction="bidirectional", output_sequence=whole, **lstm_weights(net), **back,
    )  # fmt: skip
    ends = torch.cat([wanted[-1:, :, :HIDDEN], wanted[:1, :, HIDDEN:]], -1)
    close(found[0], wanted if whole else ends)
    close(found[1], torch.cat([*last_h], -1))
    close(found[2], torch.cat([*last_c], -1))


def test_peepholes_and_the_bound_of_the_cell() -> None:
    size = torch.randn(4, 1)
    x, h, c = torch.randn(1, 1, 1), torch.randn(1, 1), torch.randn(1, 1)
    peep = torch.tensor([0.5, -0.5, 0.25])
    gates = (x[0] * size.T).reshape(4)
    cell = torch.sigmoid(gates[1] - 0.5 * c) * c
    cell = (cell + torch.sigmoid(gates[0] + 0.5 * c) * torch.tanh(gates[3])).clamp(-0.01, 0.01)
    found = recurrent.lstm(
        x=x, initial_h=h, initial_c=c, weight_ih=size, weight_hh=torch.zeros(4, 1), peephole=peep,
        clip=0.01,
    )  # fmt: skip
    close(found[2], cell)
    close(found[1], torch.sigmoid(gates[2] + 0.25 * cell) * torch.tanh(cell))


@pytest.mark.parametrize(("direction", "whole"), [*product(("forward", "reverse"), (False, True))])
def test_gru_that_resets_after_is_that_of_torch(direction: str, whole: bool) -> None:
    net = torch.nn.GRU(SIZE, HIDDEN)
    x, h = torch.randn(STEPS, BATCH, SIZE), torch.randn(BATCH, HIDDEN)
    wanted, last = net(x if direction == "forward" else x.flip(0), h[None])
    given = {
        name: ordered(getattr(net, f"{theirs}_l0"), "rzo", "roz")
        for name, theirs in (
            ("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias", "bias_hh"),
            ("input_bias", "bias_ih"),
        )
    }  # fmt: skip
    found = recurrent.gru(
        x=x, initial_h=h, direction=direction, output_sequence=whole, reset_after=True, **given
    )
    close(found[0], wanted if whole else wanted[-1:])
    close(found[1], last[0])


def test_gru_resets_the_state_before_its_product_by_default() -> None:
    x, h = torch.randn(1, BATCH, SIZE), torch.randn(BATCH, HIDDEN)
    ih, hh, bias = (
        torch.randn(3, HIDDEN, SIZE),
        torch.randn(3, HIDDEN, HIDDEN),
        torch.randn(3, HIDDEN),
    )
    r = torch.sigmoid(x[0] @ ih[0].T + h @ hh[0].T + bias[0])
    z = torch.sigmoid(x[0] @ ih[2].T + h @ hh[2].T + bias[2])
    new = torch.tanh(x[0] @ ih[1].T + (r * h) @ hh[1].T + bias[1])
    given = {"weight_ih": ih.flatten(0, 1), "weight_hh": hh.flatten(0, 1), "bias": bias.flatten()}
    close(recurrent.gru(x=x, initial_h=h, **given)[1], (1 - z) * new + z * h)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn(activation: str, direction: str) -> None:
    net = torch.nn.RNN(SIZE, HIDDEN, nonlinearity=activation)
    x, h = torch.randn(STEPS, BATCH, SIZE), torch.randn(BATCH, HIDDEN)
    wanted, last = net(x if direction == "forward" else x.flip(0), h[None])
    found = recurrent.rnn(
        x=x, initial_h=h, weight_ih=net.weight_ih_l0, weight_hh=net.weight_hh_l0,
        bias=net.bias_ih_l0 + net.bias_hh_l0, direction=direction, output_sequence=True,
        activation=activation,
    )  # fmt: skip
    close(found[0], wanted)
    close(found[1], last[0])


def test_what_is_not_known_is_refused() -> None:
    given = {"x": torch.zeros(1, 1, 1), "initial_h": torch.zeros(1, 1)}
    weights = {"weight_ih": torch.zeros(1, 1), "weight_hh": torch.zeros(1, 1)}
    with pytest.raises(Unproven, match="evaluator has no rnn with activation 'swish'"):
        recurrent.rnn(**given, **weights, activation="swish")
    with pytest.raises(Unproven, match="evaluator has no rnn with direction 'sideways'"):
        recurrent.rnn(**given, **weights, direction="sideways")
