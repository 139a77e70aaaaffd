"""A variational autoencoder for handwritten digits, trained here in seconds and always alike."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LATENT = 8
STEPS = 600
TRAINING = 1500  # images; those behind are for calibration and parity


class DigitsVAE(nn.Module):
    """image[N, 1, 8, 8] in [0, 1] -> reconstruction[N, 1, 8, 8], mean[N, 8], log_variance[N, 8].

    In eval mode nothing is drawn: the image is decoded from the mean of its code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 128),
            nn.ReLU(),
            nn.Unflatten(1, (32, 2, 2)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, log_variance = self.encoder(image).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return {
            "reconstruction": self.decoder(code),
            "mean": mean,
            "log_variance": log_variance,
        }


def build() -> nn.Module:
    """The network, trained: the same seed, data and order give the same weights."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them sum in another order from run to run
    model = train(DigitsVAE(), torch.from_numpy(digits()[:TRAINING]))
    torch.set_num_threads(threads)
    return model


def train(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Maximise the evidence lower bound for a few seconds."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = images[torch.randint(len(images), (128,))]
        out = model(batch)
        mean, log_variance = out["mean"], out["log_variance"]
        error = functional.binary_cross_entropy(out["reconstruction"], batch, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        optimizer.zero_grad()
        ((error + 0.2 * divergence) / len(batch)).backward()
        optimizer.step()
    return model


def digits() -> np.ndarray:
    """All 1797 digits of scikit-learn as float32[1797, 1, 8, 8] in [0, 1]."""
    from sklearn.datasets import load_digits

    return (load_digits().images[:, None] / 16).astype(np.float32)


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Eight digits that were not trained on."""
    for image in digits()[-8:]:
        yield {"image": image[None]}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Others that were not trained on."""
    for image in digits()[TRAINING : TRAINING + 100]:
        yield {"image": image[None]}
