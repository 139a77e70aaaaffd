"""EfficientNet-Lite0 as its authors publish it; see models.txt for where it comes from."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "models"))


def build() -> torch.nn.Module:
    """The network without weights: float32[N, 3, 224, 224] in [-1, 1] -> logits[N, 1000]."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")
