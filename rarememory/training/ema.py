"""Averaged weights of an encoder: steadier than the weights of any one step."""

from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class AveragedWeights(AveragedModel):
    """A copy whose weights follow those of the encoder, at each `update_parameters(encoder)`.

    mean <- mean + (1 - min(decay, (1 + n) / (10 + n))) (now - mean) at the n-th update after the
    first, which copies: an exponential average that forgets its beginning, for it decays faster
    while it is young. Buffers, such as a norm's, are averaged too; numbers that are not floating
    are copied. Unlike torch's own update, this does not make the host wait for a GPU.

    Args:
        encoder: is copied, to `module`.
        decay: how slowly the copy follows, below 1.

    Example:
        >>> encoder = nn.Linear(1, 1)
        >>> averaged = AveragedWeights(encoder, 0.999)
        >>> averaged.update_parameters(encoder)
        >>> torch.equal(averaged.module.weight, encoder.weight)
        True
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        super().__init__(encoder, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the encoder by one update."""
        # The count was made on the host, and stays there unless it is moved.
        done = int(self.n_averaged)
        part = 1 - min(self.decay, (1 + done) / (10 + done))
        averaged = chain(self.module.parameters(), self.module.buffers())
        current = chain(model.parameters(), model.buffers())
        for mean, now in zip(averaged, current, strict=True):
            if done and mean.is_floating_point():
                mean.lerp_(now.to(mean.device), part)
            else:
                mean.copy_(now)
        self.n_averaged += 1
