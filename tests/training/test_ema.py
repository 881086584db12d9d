"""Averaged weights, against the numbers of the equation."""

import pytest
import torch
from torch import nn

from rarememory.training.ema import AveragedWeights


def test_the_first_update_copies_and_later_ones_forget_it():
    encoder = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(encoder, decay=0.15)
    expected = None
    for done, now in enumerate([5.0, 1.0, -2.0, 4.0]):
        nn.init.constant_(encoder.weight, now)
        averaged.update_parameters(encoder)
        decay = min(0.15, (1 + done) / (10 + done))
        expected = now if expected is None else decay * expected + (1 - decay) * now
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert averaged.n_averaged.item() == 4 and averaged.module.weight.requires_grad


def test_buffers_are_averaged_and_counts_are_copied():
    norm = nn.BatchNorm1d(2)
    averaged = AveragedWeights(norm, decay=0.9)
    for rows in (torch.zeros(4, 2), torch.ones(4, 2)):
        norm(rows)
        averaged.update_parameters(norm)
    decay = 2 / 11
    torch.testing.assert_close(averaged.module.running_mean, torch.full((2,), (1 - decay) * 0.1))
    assert averaged.module.num_batches_tracked.item() == 2


def test_what_was_averaged_is_saved_and_goes_on():
    encoder = nn.Linear(2, 2)
    whole, stored = AveragedWeights(encoder, 0.9), AveragedWeights(encoder, 0.9)
    for step in range(4):
        nn.init.constant_(encoder.weight, float(step))
        for each in (whole, stored):
            each.update_parameters(encoder)
        again = AveragedWeights(nn.Linear(2, 2), 0.9)
        again.load_state_dict(stored.state_dict())
        stored = again
    for mine, theirs in zip(whole.state_dict().values(), stored.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
