"""Nets of every kind that a source must take or refuse, as a user would write them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def features(self, image):
        return self.norm(self.first(image)).relu()

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))


class DictOutputs(CNN):
    def forward(self, image):
        features = self.features(image)
        return {"features": features, "pooled": features.mean((2, 3)), "loss": None}


@dataclass
class Found:
    features: torch.Tensor
    pooled: torch.Tensor
    loss: torch.Tensor | None = None


class DataclassOutputs(CNN):
    def forward(self, image):
        features = self.features(image)
        return Found(features=features, pooled=features.mean((2, 3)))


class TupleWithNone(CNN):
    def forward(self, image):
        features = self.features(image)
        return features, None, features.mean((2, 3))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.types = nn.Embedding(2, 8)

    def forward(self, ids, kinds):
        return self.words(ids) + 2 * self.types(kinds)


class SwappedKeywords(Tokens):
    def forward(self, mask=None, kinds=None, *, ids=None):
        assert mask is None
        return super().forward(ids, kinds)


class UnusedInput(Tokens):
    def forward(self, ids, kinds):
        return self.words(ids)


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.rnn(x)


class Branches(nn.Module):
    def __init__(self, other: float) -> None:
        super().__init__()
        self.other = other

    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x * self.other


class FixesBatch(nn.Module):
    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1) + torch.zeros(2, 28)


class BatchBranches(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] == 2 else x * 3


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class NoOnnx(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.odd = Odd()

    def forward(self, x):
        return self.odd(x) + 1


class Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x):
        return self.l(x)


class KeepsState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x * self.seen


class ReturnsFloat(CNN):
    def forward(self, image):
        return {"features": self.features(image), "score": 0.5}


class ReturnsNothing(CNN):
    def forward(self, image):
        return None


def made(net: type[nn.Module], *args):
    torch.manual_seed(0)
    return net(*args)


def cnn():
    return made(CNN)


def dict_outputs():
    return made(DictOutputs)


def dataclass_outputs():
    return made(DataclassOutputs)


def tuple_with_none():
    return made(TupleWithNone)


def two_inputs():
    return made(Tokens)


def swapped_keywords():
    return made(SwappedKeywords)


def unused_input():
    return made(UnusedInput)


def lstm():
    return made(LSTM)


def attention():
    return made(nn.TransformerEncoderLayer, 4, 2, 8)


def branches():
    return made(Branches, 3.0)


def branches_alike():
    return made(Branches, 2.0)


def fixes_batch():
    return made(FixesBatch)


def batch_branches():
    return made(BatchBranches)


def no_onnx():
    return made(NoOnnx)


def row():
    return made(Row)


def keeps_state():
    return made(KeepsState)


def gives_none():
    made(CNN)


def gives_class():
    return CNN


def gives_state():
    return made(CNN).state_dict()


def returns_float():
    return made(ReturnsFloat)


def returns_nothing():
    return made(ReturnsNothing)
