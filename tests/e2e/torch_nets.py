"""Torch networks as users write them: nested inputs, state, constants, aliases, odd layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x, state):
        return self.rnn(x, state)


class Streaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x, caches):
        x = torch.cat([caches[0], x], 2)
        y = torch.cat([caches[1], self.first(x).relu()], 2)
        return self.second(y), (x[..., -2:], y[..., -2:])


class KeywordOnly(nn.Module):
    def forward(self, x, *, flag, scale, mode="add"):
        y = x * scale if mode == "multiply" else x + scale
        return torch.where(flag, y, x)


class Guarded(nn.Module):
    def forward(self, x):
        shares = torch.relu(x - 5)
        return shares / (shares.sum(-1, keepdim=True) + 1e-12)


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch):
        return {"out": {"logits": self.layer(batch["x"]) * batch["mask"][:, None]}, "none": None}


class Anything(nn.Module):
    def forward(self, *tensors):
        return tensors[0] + 2 * tensors[1]


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Aliases(nn.Module):
    def forward(self, x, y):
        z = x + 1
        return z, z, x, Pair(a=y, b=torch.ones(3))


class SameName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids, state):
        return {"embedding": self.table(ids), "state": state * 2}


class Reparametrised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        again = nn.utils.parametrizations
        self.one = again.weight_norm(nn.Conv1d(4, 4, 3, padding=1))
        self.two = again.spectral_norm(nn.Linear(5, 5))
        self.three = nn.utils.spectral_norm(nn.Linear(5, 5))

    def forward(self, x):
        return self.three(self.two(self.one(x)))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.LazyConv2d(4, 3),
            nn.LazyBatchNorm2d(),
            nn.LazyLinear(3),
        )

    def forward(self, image):
        return self.head(self.norm(self.conv(image)).mean((2, 3)))


class Masked(nn.Module):
    def forward(self, x, mask):
        heads = x[:, None]
        return functional.scaled_dot_product_attention(
            heads, heads, heads, attn_mask=mask[:, None, None]
        )


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, deep: bool, times: int = 3):
        if deep:
            x = self.layer(x)
        for _ in range(times):
            x = x * 0.5 + 1
        return x


class CallsScript(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(Branching())

    def forward(self, x):
        return self.inner(x, True)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Branching()
        self.last = torch.zeros(1)

    def forward(self, x):
        self.last = x
        return self.inner(x, True)


class FarBranch(nn.Module):
    def forward(self, x):
        return x + 1 if x.max() > 0.999 else x - 1


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


class Decoder(nn.Module):
    """As the transformers library makes them: a cache beside the logits, experts by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=True, _experts_implementation="grouped_mm")
        self.layer = nn.Linear(4, 4)

    def set_experts_implementation(self, name: str) -> None:
        self.config._experts_implementation = name

    def forward(self, x):
        y = self.layer(x)
        if self.config._experts_implementation == "grouped_mm":
            y = y * torch.histc(y, 2, 0, 0).sum().clamp(1, 1)
        return {"logits": y, "cache": object() if self.config.use_cache else None}


def made(net: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return net()


def recurrent():
    return made(Recurrent)


def streaming():
    return made(Streaming)


def keyword_only():
    return made(KeywordOnly)


def mapped():
    return made(Mapped)


def anything():
    return made(Anything)


def aliases():
    return made(Aliases)


def same_name():
    return made(SameName)


def reparametrised():
    return made(Reparametrised)


def lazy():
    return made(Lazy)


def masked():
    return made(Masked)


def calls_script():
    return made(CallsScript)


def far_branch():
    return made(FarBranch)


def tied():
    return made(Tied)


def decoder():
    return made(Decoder)


def guarded():
    return Guarded()


def half():
    return made(Branching).half().layer
