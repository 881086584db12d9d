"""Jitter moves ink a little, differently in every image, and by its own generator only."""

from dataclasses import replace

import pytest
import torch
from torch import Generator
from torch.nn.functional import interpolate

from rarememory.data import Jitter, draw_glyphs

STILL = Jitter(degrees=0.0, scale=0.0, shear=0.0, shift=0.0)
IMAGES = draw_glyphs(3, 2).images.flatten(0, 1).unsqueeze(1) / 255


@pytest.mark.parametrize("jitter", [STILL, Jitter(bend=0.5).scaled(0.0)], ids=["still", "scaled"])
def test_no_jitter_changes_nothing(jitter):
    torch.testing.assert_close(jitter(IMAGES, Generator()), IMAGES, atol=1e-5, rtol=0)


def test_half_a_jitter_has_half_of_every_number():
    jitter = Jitter(degrees=10.0, scale=0.2, shear=0.3, shift=0.4, bend=0.5)
    assert jitter.scaled(0.5) == Jitter(degrees=5.0, scale=0.1, shear=0.15, shift=0.2, bend=0.25)


def test_every_image_is_moved_in_a_way_of_its_own():
    same = IMAGES[:1].expand(5, -1, -1, -1)
    moved = Jitter()(same, Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in moved}) == 5
    # The ink stays: it is moved and stretched, not lost.
    assert torch.all((moved.sum((1, 2, 3)) / same[0].sum() - 1).abs() < 0.5)


def test_a_shift_is_at_most_the_part_of_the_width_it_says():
    point = torch.zeros(200, 1, 29, 29)
    point[:, :, 14, 14] = 1
    moved = replace(STILL, shift=0.1)(point, Generator().manual_seed(0))
    weights = moved.squeeze(1)
    place = torch.arange(29.0) - 14
    across = (weights.sum(1) * place).sum(1) / weights.sum((1, 2))
    assert 2.0 < across.abs().max() <= 2.91
    assert -1 < across.mean() < 1


def test_a_turn_is_at_most_the_degrees_it_says():
    bar = torch.zeros(200, 1, 41, 41)
    bar[:, :, 20, 5:36] = 1
    moved = replace(STILL, degrees=10.0)(bar, Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    weights = moved.squeeze(1)
    slope = (weights * rows * columns).sum((1, 2)) / (weights * columns**2).sum((1, 2))
    angles = slope.atan().rad2deg()
    assert 8 < angles.abs().max() < 10.5


def test_bending_moves_places_by_what_it_says_and_neighbours_together():
    across = torch.linspace(0, 1, 41).expand(300, 1, 41, 41)
    moved = replace(STILL, bend=0.05)(across, Generator().manual_seed(0))
    # A ramp shows how far each place was moved; the border, where ink comes from outside, is not.
    move = (moved - across)[:, 0, 10:31, 10:31] * 40 / 41
    assert 0.035 < move.std() < 0.05
    assert abs(move.mean()) < 0.005
    apart = move.diff(dim=2).std()
    assert 0 < apart < 0.2 * move.std()
    # One image is bent here and there, not shifted as a whole.
    assert (move - move.mean((1, 2), keepdim=True)).std() > 0.015


def test_the_bending_field_is_what_bicubic_interpolation_makes_of_its_draws():
    images = torch.zeros(3, 1, 20, 31)
    field = Jitter(bend=0.05)._field(images, Generator().manual_seed(5))
    draws = torch.randn(3, 2, 4, 4, generator=Generator().manual_seed(5))
    fine = interpolate(draws, size=(20, 31), mode="bicubic", align_corners=True)
    torch.testing.assert_close(field, 0.1 * fine.permute(0, 2, 3, 1), atol=1e-6, rtol=1e-4)


def test_the_same_generator_jitters_the_same_and_torchs_own_is_left_alone():
    before = torch.get_rng_state()
    one = Jitter(bend=0.03)(IMAGES, Generator().manual_seed(7))
    other = Jitter(bend=0.03)(IMAGES, Generator().manual_seed(7))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
