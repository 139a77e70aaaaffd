"""EfficientNet-Lite0 as its authors publish it; see models.txt for where it comes from."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "models"))


def build() -> torch.nn.Module:
    """The network without weights: float32[N, 3, 224, 224] in [-1, 1] -> logits[N, 1000]."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def trained() -> torch.nn.Module:
    """The same with its ImageNet weights, for inference."""
    model = build()
    weights = next((Path(__file__).parent / "models").rglob("efficientnet-lite0-*.pth"))
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
