"""Two seconds of plucked strings at a time, as basic-pitch hears them: made, not recorded."""

from collections.abc import Iterator

import numpy as np

RATE = 22050
LENGTH = 43844
"""Samples in one window of basic-pitch."""

NOISE = 0.003
"""Of a quiet room, against strings of 1: without any, the spectrum between the notes would be one
of rounding errors."""


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Three melodies, one of them in chords."""
    yield window([60, 64, 67, 72])
    yield window([45, 57, 52, 50, 48])
    yield window([62, 66, 69], together=True)


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Other melodies, one of them in chords."""
    for notes in ([48, 52, 55, 60], [69, 71, 72, 76, 74], [40, 43, 47], [57, 60, 64, 65]):
        yield window(notes)
    yield window([55, 59, 62], together=True)


def window(notes: list[int], *, together: bool = False) -> dict[str, np.ndarray]:
    """Notes (MIDI numbers) one after the other, or all at once: float32[1, LENGTH, 1]."""
    sound = np.random.default_rng(notes).normal(0, NOISE, LENGTH)
    for index, note in enumerate(notes):
        start = 0 if together else index * LENGTH // len(notes)
        sound[start:] += plucked(note, LENGTH - start)
    return {"audio": (sound / np.abs(sound).max() * 0.8).astype(np.float32)[None, :, None]}


def plucked(note: int, length: int) -> np.ndarray:
    """A string that fades, its overtones faster than its ground note."""
    time = np.arange(length) / RATE
    pitch = 440 * 2 ** ((note - 69) / 12)
    overtones = range(1, min(9, int(RATE / 2 / pitch)))
    return sum(
        np.sin(2 * np.pi * pitch * k * time) / k * np.exp(-time * (1.5 + k)) for k in overtones
    )
