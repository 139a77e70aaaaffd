"""A synthetic voice for the voice activity detector, in the chunks that an app would feed it.

Glottal pulses through the formants of five vowels, in syllables, with pauses: no recording has to
be shipped, and the detector takes it for speech where it is loud (its probability goes from 0.1
to 0.99; for noise and for a steady tone it stays below 0.1).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE = 16000
CHUNK, CONTEXT = 512, 64
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
BANDWIDTHS = (80, 90, 120)
NETWORK = Path(__file__).parent / "models/silero_vad/data/silero_vad.jit"


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Forty consecutive chunks of one voice (1.3 s)."""
    yield from chunks(voice(seconds=1.3, pitch=110, seed=0))


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Other voices, higher and lower and with other vowels, and silence."""
    for pitch, seed in ((190, 1), (90, 3)):
        yield from chunks(voice(seconds=1.3, pitch=pitch, seed=seed))
    yield from chunks(0.001 * np.random.default_rng(2).standard_normal(RATE // 4))


def chunks(sound: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The detector's inputs for a sound, the state of each chunk computed from those before."""
    import torch

    network = torch.jit.load(str(NETWORK), map_location="cpu")._model.eval()
    padded = np.concatenate([np.zeros(CONTEXT), sound]).astype(np.float32)
    state = torch.zeros(2, 1, 128)
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        x = padded[None, start : start + CONTEXT + CHUNK]
        yield {"x": x, "state": state.numpy().copy()}
        with torch.inference_mode():
            _, state = network(torch.from_numpy(x.copy()), state)


def voice(*, seconds: float, pitch: float, seed: int) -> np.ndarray:
    """A voice in [-0.5, 0.5] that says random vowels, three syllables a second."""
    random = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    melody = pitch * (1 + 0.2 * np.sin(4.4 * time) + 0.1 * np.sin(14.5 * time + 1))
    source = np.diff(np.floor(np.cumsum(melody) / RATE), prepend=0.0)
    source += 0.003 * random.standard_normal(len(time))
    length = int(0.16 * RATE)
    spoken = np.concatenate(
        [
            formants(source[start : start + length], VOWELS[random.integers(len(VOWELS))])
            for start in range(0, len(time), length)
        ]
    )
    spoken *= np.clip(np.sin(19.5 * time) + 0.6, 0, 1)
    return spoken / (2 * np.abs(spoken).max()) + 0.001 * random.standard_normal(len(time))


def formants(source: np.ndarray, vowel: tuple[int, ...]) -> np.ndarray:
    """The source through one resonator after the other."""
    for frequency, bandwidth in zip(vowel, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / RATE)
        one, two = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -(radius**2)
        made, before, last = np.empty_like(source), 0.0, 0.0
        for index, value in enumerate(source):
            before, last = last, value + one * last + two * before
            made[index] = last
        source = made
    return source
