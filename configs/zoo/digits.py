"""A small convolutional classifier of handwritten digits, trained here in seconds, always alike."""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

STEPS = 300
PARITY, CALIBRATION, LABELLED, TRAINING = 8, 89, 700, 1000  # digits of each set, in this order


def build() -> nn.Module:
    """image[N, 1, 8, 8] in [0, 1] -> scores[N, 10]; the same seed and data, the same weights."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them sum in another order from run to run
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    train(model, *(torch.from_numpy(array) for array in digits(-TRAINING, None)))
    torch.set_num_threads(threads)
    return model


def train(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> None:
    """Minimise the cross-entropy for a few seconds."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        functional.cross_entropy(model(images[batch]), classes[batch]).backward()
        optimizer.step()


def digits(start: int, end: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Digits by their places: float32[n, 1, 8, 8] in [0, 1], and which ones they are."""
    images, classes = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return pixels[start:end], classes[start:end]


def parity() -> Iterator[dict[str, np.ndarray]]:
    """What artifacts are compared with the source on."""
    for image in digits(0, PARITY)[0]:
        yield {"image": image[None]}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """What int8 ranges are measured on."""
    for image in digits(PARITY, PARITY + CALIBRATION)[0]:
        yield {"image": image[None]}


def labelled() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """What the classifier is judged on: digits, and which ones they are."""
    start = PARITY + CALIBRATION
    for image, digit in zip(*digits(start, start + LABELLED), strict=True):
        yield {"image": image[None]}, int(digit)
