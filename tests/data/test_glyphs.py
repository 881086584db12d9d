"""Drawn glyphs: classes that differ, drawings that vary, bytes that a seed decides."""

import numpy as np
import pytest
import torch

import rarememory.data.glyphs as module
from rarememory.data import draw_glyphs, support_query_episode


def pixel_accuracy(characters, episodes=60):
    """Nearest neighbour of raw pixels, 20-way 1-shot."""
    pixels = torch.nn.functional.normalize(characters.images.flatten(2).double(), dim=2)
    rng = torch.Generator().manual_seed(0)
    correct = 0
    for _ in range(episodes):
        episode = support_query_episode(
            *pixels.shape[:2], n_way=20, n_shot=1, n_query=1, generator=rng
        )
        support, query = (pixels[part.classes, part.drawings].flatten(0, 1) for part in episode)
        correct += ((query @ support.T).argmax(dim=1) == torch.arange(20)).sum().item()
    return correct / (20 * episodes)


@pytest.mark.parametrize(
    ("n_classes", "n_drawings", "size"), [(1, 1, 1), (7, 3, 9), (2, 33, 28), (3, 1, 65)]
)
def test_glyphs_come_in_the_number_and_size_asked(n_classes, n_drawings, size):
    glyphs = draw_glyphs(n_classes, n_drawings, size)
    assert glyphs.images.shape == (n_classes, n_drawings, size, size)
    assert glyphs.images.dtype == torch.uint8
    assert len(set(glyphs.names)) == n_classes


def test_the_seed_and_the_numbers_of_a_drawing_decide_its_bytes():
    few, many, other = draw_glyphs(3, 4), draw_glyphs(11, 7), draw_glyphs(3, 4, seed=1)
    assert few.names == many.names[:3]
    assert torch.equal(few.images, many.images[:3, :4])
    assert not any(torch.equal(a, b) for a, b in zip(few.images, other.images, strict=True))


def test_the_global_random_states_are_neither_used_nor_changed():
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = draw_glyphs(2)
    assert torch.equal(torch.get_rng_state(), before_torch)
    assert np.array_equal(np.random.get_state()[1], before_numpy)
    torch.manual_seed(99)
    assert torch.equal(first.images, draw_glyphs(2).images)


def test_no_two_drawings_are_equal():
    flat = draw_glyphs(20).images.flatten(2).flatten(0, 1)
    assert len(flat.unique(dim=0)) == 20 * 20


def test_ink_is_white_on_an_empty_page_and_soft_at_its_edge():
    images = draw_glyphs(33, n_drawings=5).images
    assert (images.flatten(2).max(dim=2).values > 200).all()
    assert (images == 0).float().mean() > 0.8
    assert ((images > 0) & (images < 255)).any()


def test_the_same_drawing_at_four_times_the_size_looks_the_same():
    small = draw_glyphs(7, 3, size=28).images.float() / 255
    large = draw_glyphs(7, 3, size=112).images.float() / 255
    shrunk = torch.nn.functional.avg_pool2d(large.flatten(0, 1), 4).unflatten(0, (7, 3))
    assert (shrunk - small).abs().mean() < 0.02
    # A stroke has no gaps: it leaves as much ink on the page at either size.
    ink = [images.mean(dim=(2, 3)) for images in (small, shrunk)]
    torch.testing.assert_close(ink[1], ink[0], rtol=0.1, atol=0.0)


def test_a_drawing_moves_every_point_by_itself():
    glyph = module._random_glyph(np.random.default_rng(0))
    moved = module._perturbed(glyph, np.random.default_rng(1)) - glyph
    assert len(np.unique(moved)) == glyph.size
    assert 0.01 < moved.std() < 0.2


def test_raw_pixels_tell_most_glyphs_apart_and_not_all():
    assert 0.6 < pixel_accuracy(draw_glyphs(100)) < 0.85


@pytest.mark.parametrize(
    "wrong", [{"n_classes": 0}, {"n_drawings": 0}, {"size": -2}, {"seed": -1}], ids=str
)
def test_numbers_that_cannot_be_are_refused(wrong):
    [(name, number)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .* not {number}"):
        draw_glyphs(**{"n_classes": 1, **wrong})
