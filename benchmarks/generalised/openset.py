"""Open set: half of the new classes are never taught, and should be answered with "unknown".

No drawing of an evaluation character helps to fit the threshold, but the five that each known one
is taught from. The strangers that it is fitted to are rehearsed classes, forgotten again.
"""

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor, nn

from benchmarks.generalised.drawings import FIT, NEW_TEST, TEST, Drawings, Kinds, drawn
from benchmarks.generalised.memory import prepared, taught

RATES = (0.01, 0.05, 0.1)
SHOTS = 5


def open_set(host: nn.Module, kinds: Kinds, seed: int) -> dict[str, float]:
    """False-accept rates measured at those requested, and how well known and unknown are told."""
    order = torch.randperm(len(kinds.new), generator=Generator().manual_seed(seed)).tolist()
    names = [kinds.new.names[place] for place in order]
    known, strange = (kinds.new.select(part) for part in (names[::2], names[1::2]))
    classifier, _ = prepared(host, kinds, SHOTS)
    taught(classifier, drawn(known, slice(0, SHOTS)))
    met, strangers = drawn(kinds.old, TEST) + drawn(known, NEW_TEST), drawn(strange, NEW_TEST)
    scores = {
        "memory": [classifier.familiarity(part.batches()) for part in (met, strangers)],
        "max_softmax": [_max_softmax(host, part) for part in (met, strangers)],
    }
    figures = {f"openset.auroc.{name}": 100 * _auroc(*pair) for name, pair in scores.items()}
    for rate in RATES:
        classifier.fit_threshold(
            unknown=drawn(kinds.rehearsed, FIT).batches(), false_accept_rate=rate
        )
        accepted = [100 * _share_above(part, classifier.threshold) for part in scores["memory"]]
        key = f"openset.far{round(100 * rate)}"
        figures |= {f"{key}.known_accepted": accepted[0], f"{key}.measured": accepted[1]}
    return figures


def _share_above(scores: Float[Tensor, " queries"], threshold: Tensor) -> float:
    return (scores > threshold).double().mean().item()


def _auroc(known: Float[Tensor, " known"], unknown: Float[Tensor, " unknown"]) -> float:
    right = torch.cat([torch.ones(len(known)), torch.zeros(len(unknown))])
    return float(roc_auc_score(right, torch.cat([known, unknown])))


@torch.inference_mode()
def _max_softmax(host: nn.Module, drawings: Drawings) -> Float[Tensor, " queries"]:
    """The host's own confidence (Hendrycks and Gimpel 2017)."""
    parts = [host(inputs).log_softmax(1).amax(1) for inputs, _ in drawings.batches()]
    return torch.cat(parts)
