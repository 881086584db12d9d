"""Which images a memory knows already, so that learning a folder again stores none twice."""

import torch
from torch import Tensor

from rarememory.classifier import MemoryClassifier

SAME = 1 - 1e-5
"""Cosine from which two features are those of one image; batches of other sizes put them off."""


class Known:
    """The images that a classifier has learnt until now.

    An image is known if its class has an example with the same features, wherever its file was
    then; or, in a slot that stands for the mean of several, one with the same path.

    Args:
        classifier: as it is now; what it learns later does not count.
    """

    def __init__(self, classifier: MemoryClassifier) -> None:
        self._classifier = classifier
        self._examples = classifier.examples()
        self._keys = classifier.memory.keys.clone()

    def rows(self, images: Tensor, labels: list[str], paths: list[str]) -> list[bool]:
        """Whether each of these images is known under its label."""
        if not self._examples:
            return [False] * len(labels)
        features = self._classifier.features(images)
        memory = self._classifier.memory
        if memory.projection is not None:
            features = memory.projection(features.to(memory.projection.weight.dtype))
        units = torch.nn.functional.normalize(features.float(), dim=1)
        same = (units @ self._keys.float().T) >= SAME
        return [
            any(
                one.label == label and (same[row, one.slot] or path in one.refs[1:] + one.refs[:-1])
                for one in self._examples
            )
            for row, (label, path) in enumerate(zip(labels, paths, strict=True))
        ]
