"""Architectures with random weights: one function each, as a user would write it for `torch:`.

Sizes are small, since weights are random: it is operators and shapes that are tried. transformers'
models come from their settings alone, without a hub.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TEXT = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}


def seeded(make: Any, *args: Any, **kwargs: Any) -> nn.Module:
    """The module, with the same random weights every time."""
    torch.manual_seed(0)
    return make(*args, **kwargs).eval()


def settled(model: nn.Module, shape: torch.Size) -> nn.Module:
    """The model with the statistics of such images in its norms: with none, its outputs are mostly
    the same for all.
    """
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(shape))
    return model.eval()


def of(config: str, model: str, **settings: Any) -> nn.Module:
    """A transformers model from its settings."""
    import transformers

    made = getattr(transformers, config)(**settings)
    return seeded(getattr(transformers, model), made)


# transformers: encoders


def bert() -> nn.Module:
    return of("BertConfig", "BertModel", **TEXT)


def roberta_classifier() -> nn.Module:
    return of("RobertaConfig", "RobertaForSequenceClassification", **TEXT, pad_token_id=0)


def distilbert() -> nn.Module:
    settings = {"vocab_size": 500, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    return of("DistilBertConfig", "DistilBertForQuestionAnswering", **settings)


def electra() -> nn.Module:
    return of("ElectraConfig", "ElectraForTokenClassification", **TEXT, embedding_size=32)


def albert() -> nn.Module:
    return of("AlbertConfig", "AlbertModel", **TEXT, embedding_size=32)


def deberta() -> nn.Module:
    settings = {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    return of("DebertaV2Config", "DebertaV2Model", **settings)


# transformers: decoders


def gpt2() -> nn.Module:
    settings = {"vocab_size": 500, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return of("GPT2Config", "GPT2LMHeadModel", **settings)


def llama() -> nn.Module:
    return of("LlamaConfig", "LlamaForCausalLM", **TEXT, num_key_value_heads=2)


def qwen2() -> nn.Module:
    return of("Qwen2Config", "Qwen2ForCausalLM", **TEXT, num_key_value_heads=2)


def opt() -> nn.Module:
    settings = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    return of("OPTConfig", "OPTForCausalLM", **settings, ffn_dim=128, word_embed_proj_dim=64)


# transformers: encoder-decoders


def t5() -> nn.Module:
    settings = {"vocab_size": 500, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2}
    return of("T5Config", "T5ForConditionalGeneration", **settings, num_heads=4)


def bart() -> nn.Module:
    settings = {"vocab_size": 500, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 128}
    return of("BartConfig", "BartForConditionalGeneration", **settings, **heads, **sizes)


def whisper() -> nn.Module:
    settings = {"vocab_size": 500, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 100}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return of(
        "WhisperConfig", "WhisperForConditionalGeneration", **settings, **heads, **sizes, **ids
    )


# transformers: vision


IMAGE = {"image_size": 64, "patch_size": 16, "hidden_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "intermediate_size": 128}


def vit() -> nn.Module:
    return of("ViTConfig", "ViTForImageClassification", **IMAGE, **HEADS)


def deit() -> nn.Module:
    return of("DeiTConfig", "DeiTModel", **IMAGE, **HEADS)


def swin() -> nn.Module:
    settings = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [1, 1]}
    return of(
        "SwinConfig", "SwinForImageClassification", **settings, num_heads=[2, 4], window_size=4
    )


def convnext() -> nn.Module:
    settings = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "image_size": 64}
    return of("ConvNextConfig", "ConvNextForImageClassification", **settings)


def mobilenet_v2() -> nn.Module:
    settings = {"depth_multiplier": 0.35, "image_size": 96}
    return of("MobileNetV2Config", "MobileNetV2ForImageClassification", **settings)


def resnet() -> nn.Module:
    settings = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}
    return of("ResNetConfig", "ResNetForImageClassification", **settings, layer_type="basic")


def regnet() -> nn.Module:
    settings = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}
    return of("RegNetConfig", "RegNetForImageClassification", **settings, groups_width=8)


def segformer() -> nn.Module:
    settings = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_labels": 5}
    return of(
        "SegformerConfig", "SegformerForSemanticSegmentation", **settings, decoder_hidden_size=32
    )


def yolos() -> nn.Module:
    settings = {**IMAGE, **HEADS, "image_size": [64, 96], "num_detection_tokens": 10}
    return of("YolosConfig", "YolosForObjectDetection", **settings)


def dpt() -> nn.Module:
    settings = {**IMAGE, **HEADS, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}
    sizes = {"neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}
    return of(
        "DPTConfig", "DPTForDepthEstimation", **settings, **sizes, reassemble_factors=[4, 2, 1, 0.5]
    )


def clip() -> nn.Module:
    text = {**TEXT, "max_position_embeddings": 32, "eos_token_id": 2}
    return of("CLIPConfig", "CLIPModel", text_config=text, vision_config={**IMAGE, **HEADS})


# transformers: audio


def wav2vec2() -> nn.Module:
    settings = {**TEXT, "vocab_size": 32, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3]}
    more = {
        "conv_stride": [5, 2, 2],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    settings.pop("max_position_embeddings")
    return of("Wav2Vec2Config", "Wav2Vec2ForCTC", **settings, **more)


def audio_spectrogram() -> nn.Module:
    settings = {"hidden_size": 64, "num_hidden_layers": 2, "max_length": 96, "num_mel_bins": 64}
    return of("ASTConfig", "ASTForAudioClassification", **settings, **HEADS)


# By hand: convolutions


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 16), block(16, 32), block(32, 64)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)]
        )
        self.mix = nn.ModuleList([block(64, 32), block(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = []
        x = image
        for layer in self.down[:-1]:
            x = layer(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, mix in zip(self.up, self.mix, strict=True):
            x = mix(torch.cat([up(x), kept.pop()], 1))
        return self.head(x)


class Detector(nn.Module):
    """A single-stage head over two scales: boxes by sigmoid and a grid, and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 2), block(16, 32, 2))
        self.deep = block(32, 48, 2)
        self.heads = nn.ModuleList([nn.Conv2d(32, 9, 1), nn.Conv2d(48, 9, 1)])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.stem(image)
        found = []
        for head, features in zip(self.heads, (fine, self.deep(fine)), strict=True):
            raw = head(features).flatten(2).transpose(1, 2)
            found.append(torch.cat([raw[..., :4].sigmoid() * 64, raw[..., 4:]], -1))
        every = torch.cat(found, 1)
        return every[..., :4], every[..., 4:].softmax(-1)


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 5, padding=2), nn.PReLU(), block(32, 32))
        self.up = nn.Sequential(nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        base = F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
        return base + self.up(self.body(image))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = block(3, 24, 2), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.gate = nn.Sequential(
            nn.Conv2d(24, 6, 1), nn.SiLU(), nn.Conv2d(6, 24, 1), nn.Hardsigmoid()
        )
        self.head = nn.Conv2d(24, 10, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.depth(self.stem(image)))
        return self.head(x * self.gate(x.mean((2, 3), keepdim=True)))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([block(3 + 12 * index, 12) for index in range(4)])
        self.head = nn.Linear(51, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for layer in self.layers:
            x = torch.cat([x, layer(F.avg_pool2d(x, 3, 1, 1))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2))
        self.head = nn.Linear(8, 3)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(volume).mean((2, 3, 4)))


def unet() -> nn.Module:
    return seeded(UNet)


def detector() -> nn.Module:
    return seeded(Detector)


def super_resolution() -> nn.Module:
    return seeded(SuperResolution)


def squeeze_excite() -> nn.Module:
    return settled(seeded(SqueezeExcite), torch.Size([8, 3, 64, 64]))


def dense() -> nn.Module:
    return seeded(Dense)


def volume() -> nn.Module:
    return seeded(Volume)


# By hand: sequences


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.rnn = cell(20, 32, batch_first=True, **settings)
        width = 64 if settings.get("bidirectional") else 32
        self.head = nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


class Streaming(nn.Module):
    """A GRU that takes its state and gives it back."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(20, 32, batch_first=True)
        self.head = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, state = self.rnn(x, state)
        return self.head(found), state


class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv1d(24, 24, 3, dilation=2**index, padding=2**index) for index in range(4)]
        )
        self.head = nn.Conv1d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.head(x)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(200, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.words(ids)).mean(1))


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(300, 24)
        self.convs = nn.ModuleList([nn.Conv1d(24, 16, size, padding=size // 2) for size in (3, 5)])
        self.head = nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids).transpose(1, 2)
        return self.head(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1))


def lstm() -> nn.Module:
    return seeded(Recurrent, nn.LSTM)


def bilstm() -> nn.Module:
    return seeded(Recurrent, nn.LSTM, bidirectional=True, num_layers=2)


def gru() -> nn.Module:
    return seeded(Recurrent, nn.GRU)


def streaming_gru() -> nn.Module:
    return seeded(Streaming)


def tcn() -> nn.Module:
    return seeded(TCN)


def transformer() -> nn.Module:
    return seeded(Transformer)


def text_cnn() -> nn.Module:
    return seeded(TextCNN)


# By hand: sound, generation, tables


class KeywordSpotter(nn.Module):
    """Spectrograms of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(1, 16, 2), block(16, 32, 2))
        self.head = nn.Linear(32, 12)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(mel).mean((2, 3)))


class WaveNet(nn.Module):
    """Gated convolutions over raw samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 16, stride=8)
        self.gates = nn.ModuleList(
            [nn.Conv1d(16, 32, 3, padding=2**k, dilation=2**k) for k in range(3)]
        )
        self.head = nn.Conv1d(16, 4, 1)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        x = self.first(audio)
        for gate in self.gates:
            value, opening = gate(x).chunk(2, 1)
            x = x + value.tanh() * opening.sigmoid()
        return self.head(x).mean(2)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 784), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, variance = self.encode(x).chunk(2, 1)
        return {"image": self.decode(mean), "mean": mean, "log_variance": variance}


class Diffusion(nn.Module):
    """A small denoiser with the step's embedding by sines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
        self.norm, self.step = nn.GroupNorm(4, 32), nn.Linear(32, 32)

    def forward(self, image: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(torch.arange(16) * (-math.log(10000) / 16))
        angles = timestep[:, None].float() * rates
        waves = self.step(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.norm(self.first(image)) + waves[:, :, None, None]
        return self.last(F.silu(x))


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(1000, 16), nn.Embedding(400, 16)
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        pair = torch.cat([self.users(user_ids), self.items(item_ids)], -1)
        return self.head(pair).squeeze(-1)


def keyword_spotter() -> nn.Module:
    return seeded(KeywordSpotter)


def wavenet() -> nn.Module:
    return seeded(WaveNet)


def vae() -> nn.Module:
    return seeded(VAE)


def diffusion() -> nn.Module:
    return seeded(Diffusion)


def recommender() -> nn.Module:
    return seeded(Recommender)


def mlp() -> nn.Module:
    return seeded(nn.Sequential, nn.Linear(12, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 3))


ARCHITECTURES = (
    bert, roberta_classifier, distilbert, electra, albert, deberta, gpt2, llama, qwen2, opt, t5,
    bart, whisper, vit, deit, swin, convnext, mobilenet_v2, resnet, regnet, segformer, yolos, dpt,
    clip, wav2vec2, audio_spectrogram, unet, detector, super_resolution, squeeze_excite, dense,
    volume, lstm, bilstm, gru, streaming_gru, tcn, transformer, text_cnn, keyword_spotter, wavenet,
    vae, diffusion, recommender, mlp,
)  # fmt: skip
