"""Averaged weights of an encoder: steadier than the weights of any one step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged_weights(encoder: nn.Module, decay: float) -> AveragedModel:
    """A copy whose weights follow those of the encoder, at each `update_parameters(encoder)`.

    mean <- mean + (1 - min(decay, (1 + n) / (10 + n))) (now - mean) at the n-th update: an
    exponential average that forgets its beginning, for it decays faster while it is young. Buffers,
    such as a norm's, are averaged too; numbers that are not floating are copied.

    Example:
        >>> encoder = nn.Linear(1, 1)
        >>> averaged = averaged_weights(encoder, 0.999)
        >>> averaged.update_parameters(encoder)
        >>> torch.equal(averaged.module.weight, encoder.weight)
        True
    """
    return AveragedModel(encoder, multi_avg_fn=_running_average(decay), use_buffers=True)


def _running_average(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        done = float(count)
        part = 1 - min(decay, (1 + done) / (10 + done))
        for mean, now in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, part)
            else:
                mean.copy_(now)

    return update
