"""Open set: half of the characters are known from a few drawings, and the others are unknown.

A threshold on the nearest score decides who is known. It is fitted to one half of the unknown
characters and tested on the other half.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from benchmarks.openset import RATES, auroc, share
from rarememory import Memory
from rarememory.evaluation import Accuracy, Bar


def open_set(
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_shot: int,
    n_splits: int = 20,
    seed: int = 0,
    bar: Bar = iter,
) -> dict[str, Accuracy]:
    """How well known and unknown are separated, and how many known queries are accepted and right.

    `auroc` is of the nearest score. `far5` is the share of the known queries that is accepted and
    answered rightly where 5 % of unknown ones should be accepted; `far5.measured` is how many of
    them were. The splits share characters, so the intervals are those of splitting alone.
    """
    generator = Generator().manual_seed(seed)
    splits = [_split(embeddings, n_shot, generator) for _ in bar(range(n_splits))]
    return {key: Accuracy.of(torch.tensor([one[key] for one in splits])) for key in splits[0]}


def _split(embeddings: Tensor, n_shot: int, generator: Generator) -> dict[str, float]:
    n_classes, n_drawings, key_dim = embeddings.shape
    order = torch.rand(n_classes, n_drawings, generator=generator).argsort(1)
    shuffled = embeddings.gather(1, order.unsqueeze(2).expand_as(embeddings))
    shuffled = shuffled[torch.randperm(n_classes, generator=generator)]
    known, to_fit, to_test = shuffled.split(_parts(n_classes))
    memory, labels = Memory(key_dim, len(known)), torch.arange(len(known))
    memory.write(normalize(known[:, :n_shot], dim=-1).mean(1), labels)
    recall = memory(known[:, n_shot:], k=1)
    correct, scores = recall.prediction == labels.unsqueeze(1), recall.scores[..., 0]
    fitted, unknown = (memory(part, k=1).scores.flatten() for part in (to_fit, to_test))
    found = {"auroc": auroc(scores.flatten(), unknown)}
    for rate in RATES:
        threshold = fitted.quantile(1 - rate)
        key = f"far{round(100 * rate)}"
        found[key] = share(correct & (scores > threshold))
        found[f"{key}.measured"] = share(unknown > threshold)
    return found


def _parts(n_classes: int) -> list[int]:
    """Half of the classes, and two quarters."""
    known, fitted = n_classes // 2, n_classes // 4
    return [known, fitted, n_classes - known - fitted]
