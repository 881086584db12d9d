"""How well scores separate queries of known classes from those of unknown ones."""

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

RATES = (0.01, 0.05, 0.1)
"""False-accept rates: the share of unknown queries that a threshold is fitted to accept."""


def auroc(known: Float[Tensor, " known"], unknown: Float[Tensor, " unknown"]) -> float:
    """The area under the ROC curve; a higher score stands for a known class."""
    is_known = torch.cat([torch.ones(len(known)), torch.zeros(len(unknown))])
    return float(roc_auc_score(is_known, torch.cat([known, unknown])))


def share(chosen: Tensor) -> float:
    """The share of True."""
    return chosen.double().mean().item()
