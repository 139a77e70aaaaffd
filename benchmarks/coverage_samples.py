"""Real inputs for the real models of the coverage table, under the names that their files use.

One function for each entry of coverage-edits.yaml; all come from what configs/zoo has already.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "configs"))
from zoo import melody, photos, ppocr, voice

Samples = Iterator[dict[str, np.ndarray]]
SIDE = 224
"""Of the square images that init proposes for a detector of any size."""


def efficientnet_parity() -> Samples:
    """float32[1, 3, 224, 224] in [-1, 1]."""
    for sample in photos.parity():
        yield {"inputs": sample["image"]}


def efficientnet_calibration() -> Samples:
    """Other photos."""
    for sample in photos.calibration():
        yield {"inputs": sample["image"]}


def emotion_parity() -> Samples:
    """float32[1, 64, 64, 1] in [-1, 1]: faces and other things, in grey."""
    yield from grey("input_1", ("skimage/data/astronaut.png", *photos.PARITY))


def emotion_calibration() -> Samples:
    """Other photos."""
    yield from grey("input_1", photos.CALIBRATION[1:])


def emotion_tflite_parity() -> Samples:
    """The same under the name in the TFLite file."""
    yield from grey("x", ("skimage/data/astronaut.png", *photos.PARITY))


def emotion_tflite_calibration() -> Samples:
    """The same under the name in the TFLite file."""
    yield from grey("x", photos.CALIBRATION[1:])


def cifar_parity() -> Samples:
    """float32[1, 32, 32, 3] in [-1, 1)."""
    for name in photos.PARITY:
        yield {"input_1": (square(name, 32) - 128) / 128}


def cifar_calibration() -> Samples:
    """Other photos."""
    for name in photos.CALIBRATION:
        yield {"input_1": (square(name, 32) - 128) / 128}


def cifar_int8_parity() -> Samples:
    """int8[1, 32, 32, 3]."""
    for name in photos.PARITY:
        yield {"input_1_int8": (square(name, 32) - 128).astype(np.int8)}


def cifar_int8_calibration() -> Samples:
    """Other photos."""
    for name in photos.CALIBRATION:
        yield {"input_1_int8": (square(name, 32) - 128).astype(np.int8)}


def wake_words_parity() -> Samples:
    """float32[1, 96, 96, 3] in [0, 255]."""
    for name in ("skimage/data/astronaut.png", *photos.PARITY):
        yield {"input_1": square(name, 96)}


def wake_words_calibration() -> Samples:
    """Other photos."""
    for name in photos.CALIBRATION[1:]:
        yield {"input_1": square(name, 96)}


def pitch_parity() -> Samples:
    """float32[1, 43844, 1]: two melodies and a chord."""
    yield from heard("input_2", melody.parity())


def pitch_calibration() -> Samples:
    """Other melodies."""
    yield from heard("input_2", melody.calibration())


def pitch_onnx_parity() -> Samples:
    """The same under the name in the ONNX file."""
    yield from heard("serving_default_input_2:0", melody.parity())


def pitch_onnx_calibration() -> Samples:
    """The same under the name in the ONNX file."""
    yield from heard("serving_default_input_2:0", melody.calibration())


def detector_parity() -> Samples:
    """float32[1, 3, 224, 224] in [-1, 1]: two parts of a page, at the height of its lines."""
    for left in (0, 160):
        part = ppocr.page().crop((left, 0, left + 224, 191)).resize((SIDE, SIDE))
        yield {"x": ppocr.prepare(part)}


def detector_calibration() -> Samples:
    """Other things with edges and lines: a page magnified, and photos."""
    for top in (0, 80):
        part = ppocr.page().crop((100, top, 212, top + 112)).resize((SIDE, SIDE))
        yield {"x": ppocr.prepare(part)}
    for name in photos.CALIBRATION:
        yield {"x": ppocr.prepare(photos.load(name).resize((SIDE, SIDE)))}


def words_parity() -> Samples:
    """float32[1, 3, 48, 96] in [-1, 1]: pieces of the page's even lines."""
    yield from pieces(0)


def words_calibration() -> Samples:
    """Pieces of its odd lines."""
    yield from pieces(1)


def light_parity() -> Samples:
    """float32[1, 3, 224, 224] in [0, 1], for graphs of the ONNX model zoo."""
    yield from planes("data_0", photos.PARITY)


def light_calibration() -> Samples:
    """Other photos."""
    yield from planes("data_0", photos.CALIBRATION)


def light_gpu_parity() -> Samples:
    """The same under the name that some of the graphs use."""
    yield from planes("gpu_0/data_0", photos.PARITY)


def light_gpu_calibration() -> Samples:
    """Other photos and their quarters, under that name."""
    for sample in planes("gpu_0/data_0", photos.CALIBRATION):
        yield sample
        (pixels,) = sample.values()
        for part in quarters(pixels):
            yield {"gpu_0/data_0": part}


def keyword_parity() -> Samples:
    """float32[1, 50, 10, 1]: spectrograms of a voice, of noise and of a tone."""
    yield from heights(50, 10, (110, 0, 440))


def keyword_calibration() -> Samples:
    """Of other voices."""
    yield from heights(50, 10, (190, 150, 1, 880))


def anomaly_parity() -> Samples:
    """float32[1, 5, 128, 1]: the same with more bands."""
    yield from heights(5, 128, (110, 0, 440))


def anomaly_calibration() -> Samples:
    """Of other voices."""
    yield from heights(5, 128, (190, 150, 1, 880))


def voice_parity() -> Samples:
    """Input float32[1, 576] and state float32[2, 1, 128]: chunks of a voice, as they follow."""
    yield from spoken(voice.parity())


def voice_calibration() -> Samples:
    """Another voice."""
    yield from spoken(voice.calibration())


def voice_rate_parity() -> Samples:
    """The same with the rate as an input."""
    for sample in voice_parity():
        yield {**sample, "sr": np.array(voice.RATE)}


def voice_rate_calibration() -> Samples:
    """Another voice."""
    for sample in voice_calibration():
        yield {**sample, "sr": np.array(voice.RATE)}


def square(name: str, side: int) -> np.ndarray:
    """A photo's centre: float32[1, side, side, 3] in [0, 255]."""
    image = photos.load(name)
    edge = min(image.size)
    left, top = ((size - edge) // 2 for size in image.size)
    cut = image.crop((left, top, left + edge, top + edge)).resize((side, side))
    return np.asarray(cut, np.float32)[None]


def grey(name: str, files: tuple[str, ...]) -> Samples:
    """Photos as float32[1, 64, 64, 1] in [-1, 1]."""
    for file in files:
        pixels = square(file, 64).mean(axis=-1, keepdims=True)
        yield {name: (pixels / 255 - 0.5) * 2}


def heard(name: str, sounds: Samples) -> Samples:
    """Sounds under another name."""
    for sound in sounds:
        yield {name: sound["audio"]}


def pieces(odd: int) -> Samples:
    """Pieces of lines of print: float32[1, 3, 48, 96]."""
    for line in ppocr.cut_lines(ppocr.page())[odd::2]:
        high = line.resize((round(line.width * 48 / line.height), 48), Image.Resampling.BICUBIC)
        for left in range(0, high.width - 96, 192):
            yield {"x": ppocr.prepare(high.crop((left, 0, left + 96, 48)))}


def spoken(sounds: Samples) -> Samples:
    """Chunks and states under the names of the ONNX files."""
    for sound in sounds:
        yield {"input": sound["x"], "state": sound["state"]}


def planes(name: str, files: tuple[str, ...]) -> Samples:
    """Photos as float32[1, 3, 224, 224] in [0, 1]."""
    for file in files:
        pixels = square(file, SIDE).transpose(0, 3, 1, 2) / 255
        yield {name: np.ascontiguousarray(pixels)}


def quarters(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Each quarter of [1, 3, side, side] at the size of the whole."""
    half = pixels.shape[2] // 2
    for top in (0, half):
        for left in (0, half):
            part = pixels[:, :, top : top + half, left : left + half]
            yield part.repeat(2, axis=2).repeat(2, axis=3)


def heights(frames: int, bands: int, sounds: tuple[int, ...]) -> Samples:
    """Logarithmic spectrograms in [0, 225] of voices (pitches above 99), tones (above 300) and
    noise: float32[1, frames, bands, 1].
    """
    for pitch in sounds:
        wave = sound_of(pitch)
        step = (len(wave) - 480) // frames
        parts = np.stack([wave[i * step :][:480] for i in range(frames)]) * np.hanning(480)
        power = np.abs(np.fft.rfft(parts, 1024)[:, 8:488]) ** 2
        levels = np.log(power.reshape(frames, -1)[:, : 480 // bands * bands] + 1e-6)
        levels = levels.reshape(frames, bands, -1).mean(axis=-1)
        scaled = 225 * (levels - levels.min()) / (np.ptp(levels) or 1)
        yield {"input_1": scaled.astype(np.float32)[None, ..., None]}


def sound_of(pitch: int) -> np.ndarray:
    """One second: a voice, a tone, or noise of that seed."""
    if pitch < 100:
        return np.random.default_rng(pitch).normal(0, 0.1, voice.RATE)
    if pitch > 300:
        return np.sin(2 * np.pi * pitch * np.arange(voice.RATE) / voice.RATE)
    return voice.voice(seconds=1, pitch=pitch, seed=pitch)
