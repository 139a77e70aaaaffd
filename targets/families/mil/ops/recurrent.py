"""Recurrent layers, over the first axis. A reverse layer gives its steps in the order in which it
takes them; the reverse half of a bidirectional one, in the order of its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor, unknown

Activate = Callable[[Tensor], Tensor]

ACTIVATIONS: Mapping[str, Activate] = {
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
}
"""With their default coefficients, since an operator has none to give."""


def rnn(
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    activate = _activation("rnn", activation)
    given = _projected(x, weight_ih, bias)
    h, steps = initial_h, []
    for step in _ordered("rnn", given, direction):
        h = activate(step + h @ weight_hh.T)
        steps.append(h)
    return _sequence(steps, output_sequence), h


def gru(
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights are those of reset, output and update. reset_after, input_bias: from iOS 18 on; the
    input's bias is then apart from the recurrent one.
    """
    gates, activate = _activation("gru", recurrent_activation), _activation("gru", activation)
    size = initial_h.shape[-1]
    own = torch.zeros(3 * size) if bias is None else bias
    given = _projected(x, weight_ih, input_bias)
    h, steps = initial_h, []
    for step in _ordered("gru", given, direction):
        reset, new, update = step.split(size, -1)
        by_reset, by_new, by_update = weight_hh.split(size)
        bias_reset, bias_new, bias_update = own.split(size)
        r = gates(reset + h @ by_reset.T + bias_reset)
        z = gates(update + h @ by_update.T + bias_update)
        past = r * (h @ by_new.T + bias_new) if reset_after else (r * h) @ by_new.T + bias_new
        h = (1 - z) * activate(new + past) + z * h
        steps.append(h)
    return _sequence(steps, output_sequence), h


def lstm(
    *,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights are those of input, forget, output and cell. `clip` bounds the cell's state."""
    names = (recurrent_activation, cell_activation, activation)
    activate = tuple(_activation("lstm", name) for name in names)
    if direction != "bidirectional":
        steps, h, c = _lstm(
            _ordered("lstm", _projected(x, weight_ih, bias), direction),
            (initial_h, initial_c), weight_hh, peephole, activate, clip,
        )  # fmt: skip
        return _sequence(steps, output_sequence), h, c
    halves = []
    first_h, first_c = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    for side, (order, ih, hh, offset, peep) in enumerate(
        (
            ("forward", weight_ih, weight_hh, bias, peephole),
            ("reverse", weight_ih_back, weight_hh_back, bias_back, peephole_back),
        )
    ):
        given = _ordered("lstm", _projected(x, ih, offset), order)
        state = (first_h[side], first_c[side])
        halves.append(_lstm(given, state, hh, peep, activate, clip))
    (ahead, *_), (back, *_) = halves
    if output_sequence:
        made = torch.cat([torch.stack(ahead), torch.stack(back[::-1])], -1)
    else:
        made = torch.cat([ahead[-1], back[-1]], -1).unsqueeze(0)
    return (
        made,
        torch.cat([half[1] for half in halves], -1),
        torch.cat([half[2] for half in halves], -1),
    )


def _lstm(
    given: list[Tensor],
    state: tuple[Tensor, Tensor],
    weight_hh: Tensor,
    peephole: Tensor | None,
    activate: tuple[Activate, ...],
    clip: float | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """One direction: the steps, and the last states."""
    gate, inner, outer = activate
    h, c = state
    size = h.shape[-1]
    by_i, by_f, by_o = (torch.zeros(3 * size) if peephole is None else peephole).split(size)
    steps = []
    for step in given:
        i, f, o, z = (step + h @ weight_hh.T).split(size, -1)
        c = gate(f + by_f * c) * c + gate(i + by_i * c) * inner(z)
        c = c if clip is None else c.clamp(-clip, clip)
        h = gate(o + by_o * c) * outer(c)
        steps.append(h)
    return steps, h, c


def _activation(operator: str, name: str) -> Activate:
    if name not in ACTIVATIONS:
        raise unknown(operator, "activation", name)
    return ACTIVATIONS[name]


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the input adds to each step."""
    made = x @ weight.T
    return made if bias is None else made + bias


def _ordered(operator: str, given: Tensor, direction: str) -> list[Tensor]:
    """The steps in the order in which a layer takes them."""
    if direction not in ("forward", "reverse"):
        raise unknown(operator, "direction", direction)
    return list(given if direction == "forward" else given.flip(0))


def _sequence(steps: list[Tensor], whole: bool) -> Tensor:
    return torch.stack(steps) if whole else steps[-1].unsqueeze(0)


OPS: Mapping[str, Op | Since] = {function.__name__: function for function in (rnn, gru, lstm)}
