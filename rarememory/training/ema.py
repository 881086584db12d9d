"""An exponential moving average of an encoder's weights, less noisy than those of any step."""

from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class AveragedWeights(AveragedModel):
    """A copy of an encoder, averaged with it at each `update_parameters(encoder)`.

    mean <- mean + (1 - min(decay, (1 + n) / (10 + n))) (current - mean)

    at update n = 1, 2, ...; update 0 copies. The decay is smaller at first, so that the early
    weights are forgotten. Buffers, such as those of batch norm, are averaged too; integers are
    copied. Unlike torch's own update, this one does not make the host wait for a GPU.

    Args:
        encoder: is copied, to `module`.
        decay: part of the mean that stays at each update, below 1.

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
        """Average with the encoder's current weights."""
        # The count is on the CPU, unless it was moved.
        done = int(self.n_averaged)
        part = 1 - min(self.decay, (1 + done) / (10 + done))
        averaged = chain(self.module.parameters(), self.module.buffers())
        current = chain(model.parameters(), model.buffers())
        for mean, value in zip(averaged, current, strict=True):
            if done and mean.is_floating_point():
                mean.lerp_(value.to(mean.device), part)
            else:
                mean.copy_(value)
        self.n_averaged += 1
