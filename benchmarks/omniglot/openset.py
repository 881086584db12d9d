"""Open set: half of the characters are known from a few drawings, and the others are strangers.

A threshold on the nearest score says who is known. It is fitted to one half of the strangers and
tested on the other, whose characters nobody has seen before.
"""

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor
from torch.nn.functional import normalize

from rarememory import Memory
from rarememory.evaluation import Accuracy, Bar

RATES = (0.01, 0.05, 0.1)


def open_set(
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_shot: int,
    n_splits: int = 20,
    seed: int = 0,
    bar: Bar = iter,
) -> dict[str, Accuracy]:
    """How well known and strange are told apart, and how much of the known is then answered.

    `auroc` is of the nearest score. `far5` is the part of the known queries that is accepted and
    answered rightly where 5 % of strangers should be accepted; `far5.measured` is how many were.
    The splits share characters: the intervals are those of splitting.
    """
    generator = Generator().manual_seed(seed)
    splits = [_split(embeddings, n_shot, generator) for _ in bar(range(n_splits))]
    return {key: Accuracy.of(torch.tensor([one[key] for one in splits])) for key in splits[0]}


def _split(embeddings: Tensor, n_shot: int, generator: Generator) -> dict[str, float]:
    n_classes, n_drawings, key_dim = embeddings.shape
    order = torch.rand(n_classes, n_drawings, generator=generator).argsort(1)
    shuffled = embeddings.gather(1, order.unsqueeze(2).expand_as(embeddings))
    shuffled = shuffled[torch.randperm(n_classes, generator=generator)]
    known, fitted, tested = shuffled.split(_parts(n_classes))
    memory, labels = Memory(key_dim, len(known)), torch.arange(len(known))
    memory.write(normalize(known[:, :n_shot], dim=-1).mean(1), labels)
    recall = memory(known[:, n_shot:], k=1)
    right, scores = recall.prediction == labels.unsqueeze(1), recall.scores[..., 0]
    to_fit, strange = (memory(part, k=1).scores.flatten() for part in (fitted, tested))
    found = {"auroc": _auroc(scores.flatten(), strange)}
    for rate in RATES:
        threshold = to_fit.quantile(1 - rate)
        key = f"far{round(100 * rate)}"
        found[key] = _share(right & (scores > threshold))
        found[f"{key}.measured"] = _share(strange > threshold)
    return found


def _parts(n_classes: int) -> list[int]:
    """Half of the classes, and two quarters."""
    known, fitted = n_classes // 2, n_classes // 4
    return [known, fitted, n_classes - known - fitted]


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()


def _auroc(known: Tensor, strange: Tensor) -> float:
    right = torch.cat([torch.ones(len(known)), torch.zeros(len(strange))])
    return float(roc_auc_score(right, torch.cat([known, strange])))
