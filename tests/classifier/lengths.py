"""Features that tell classes by their lengths."""

import numpy as np
import torch
from torch import Tensor, nn

import rarememory


def drawn(seed: int, per_class: int = 12, dim: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Classes that differ in how long their features are, and not in their direction."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    lengths = 4.0 + 3.0 * labels + 0.3 * torch.randn(len(labels), generator=random)
    directions = torch.ones(dim) + 0.2 * torch.randn(len(labels), dim, generator=random)
    return lengths.unsqueeze(1) * nn.functional.normalize(directions, dim=1), labels


def rings(seed: int, per_class: int = 20) -> tuple[Tensor, Tensor]:
    """Three classes around one another: their means are all the same."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    directions = nn.functional.normalize(torch.randn(len(labels), 2, generator=random), dim=1)
    lengths = 1.0 + 2.0 * labels + 0.2 * torch.randn(len(labels), generator=random)
    return 3.0 + lengths.unsqueeze(1) * directions, labels


def taught(seed: int = 0, **options: object) -> rarememory.MemoryClassifier:
    classifier = rarememory.wrap(nn.Identity(), host=False, **options)
    features, labels = drawn(seed)
    classifier.learn(features, labels.tolist(), [f"{place}.csv" for place in range(len(labels))])
    return classifier


def accuracy(classifier: rarememory.MemoryClassifier) -> float:
    features, labels = drawn(1)
    return float(np.mean(np.array(classifier.predict(features)) == labels.numpy()))


def discriminant(classifier: rarememory.MemoryClassifier) -> object:
    return classifier.reader._of(classifier.memory, classifier.ensembler.host_ids).discriminant
