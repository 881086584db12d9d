"""What the model makes of labelled examples, for what is fitted or tuned to them."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

EVERY = 5
"""Of so many examples of a class one is held out, where none are given."""


class LabelledOutputs(NamedTuple):
    """Features, the model's logits, and the integers of labels.

    Example:
        >>> one = LabelledOutputs(torch.eye(2), None, torch.tensor([3, 7]))
        >>> LabelledOutputs.joined([one, one]).ids
        tensor([3, 7, 3, 7])
    """

    features: Float[Tensor, "examples key_dim"]
    logits: Float[Tensor, "examples n_host"] | None
    ids: Int64[Tensor, " examples"]

    @classmethod
    def joined(cls, batches: Iterable["LabelledOutputs"]) -> "LabelledOutputs":
        """All batches as one, in tensors of their own.

        Raises:
            ValueError: there is none.
        """
        parts = list(batches)
        if not parts:
            raise ValueError("this needs labelled examples, and the loader yields none")
        features, logits, ids = zip(*parts, strict=True)
        return cls(
            torch.cat(features), None if logits[0] is None else torch.cat(logits), torch.cat(ids)
        )

    def some(self, rows: Tensor) -> "LabelledOutputs":
        """These examples."""
        logits = None if self.logits is None else self.logits[rows]
        return LabelledOutputs(self.features[rows], logits, self.ids[rows])

    def parted(self) -> tuple["LabelledOutputs", "LabelledOutputs"]:
        """The examples without every fifth one of each class, and these.

        Raises:
            ValueError: no class has five examples.
        """
        held = torch.zeros_like(self.ids, dtype=torch.bool)
        for number in self.ids.unique():
            held[(self.ids == number).nonzero().squeeze(1)[EVERY - 1 :: EVERY]] = True
        if not held.any():
            raise ValueError(f"no class has {EVERY} examples, so none is held out: give held_out=")
        return self.some(~held), self.some(held)
