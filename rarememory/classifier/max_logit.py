"""The max logit of a host: whether an example is like those that the host was trained on.

    m(x) = (max_c logit_c - mean_c logit_c) / |x|

of its logits and the features x that they are linear in. A host has a higher one for examples of
its own classes than for others (Hendrycks et al. 2022, "MaxLogit"), which its softmax does not
show: it can be sure of an example of a class that it has never seen. To subtract the mean takes
away what all logits have in common, which training leaves to chance, and to divide by the length
what a photo has of contrast or size, which tells no classes: without that a host of ImageNet's
classes gave small photos of any kind as much as large ones of its own kind.
"""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.beside_keys import norms_of
from rarememory.classifier.blend import EXCLUDED

_LEAST_DEVIATION = 0.3
"""Of the mean: examples that are few may be alike by chance."""


def above_mean(logits: Float[Tensor, "batch n_host"]) -> Float[Tensor, " batch"]:
    """The highest logit of each row less the mean of the row, EXCLUDED ones left out.

    Example:
        >>> import torch
        >>> above_mean(torch.tensor([[3.0, 1.0, EXCLUDED], [2.0, 2.0, 2.0]]))
        tensor([1., 0.])
    """
    allowed = logits > EXCLUDED / 2
    mean = logits.where(allowed, 0.0).sum(1) / allowed.sum(1)
    return logits.amax(1) - mean


class MaxLogit(NamedTuple):
    """How the max logit of an example counts for all classes of the host: weight (m - mean).

    Attributes:
        weight: 0 where nothing is known of it.
        mean: of new examples.
    """

    weight: float = 0.0
    mean: float = 0.0

    @classmethod
    def beside(
        cls, max_logits: Float[Tensor, " examples"], places: Int64[Tensor, " examples"]
    ) -> "MaxLogit":
        """How it counts beside these examples of new classes.

        In standard deviations of them, because the logits of each host are on a scale of its own.
        C classes say how much examples of several classes differ but for a part of 1 / C; one class
        says nothing of it.

        Args:
            max_logits: of the examples; negative where they are not known.
            places: the class of each.
        """
        known = max_logits >= 0
        classes, values = places[known].unique(), max_logits[known].double()
        if len(classes) < 2:
            return cls()
        mean = values.mean().item()
        deviation = max(values.std().item(), _LEAST_DEVIATION * mean)
        return cls((1 - 1 / len(classes)) / deviation, mean) if deviation > 0 else cls()

    def terms(self, max_logits: Float[Tensor, " batch"]) -> Float[Tensor, " batch"] | None:
        """weight (m - mean), 0 where m is not known; None where nothing counts."""
        if not self.weight:
            return None
        return (self.weight * (max_logits - self.mean)).masked_fill(max_logits < 0, 0.0)

    def terms_of(
        self, features: Float[Tensor, "batch key_dim"], logits: Float[Tensor, "batch n_host"] | None
    ) -> Float[Tensor, " batch"] | None:
        """The same of features and the logits of a host."""
        if not self.weight or logits is None:
            return None
        return self.terms(above_mean(logits) / norms_of(features).to(logits.dtype))
