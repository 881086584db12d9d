"""A drawing becomes what the encoder was trained to see, or is refused."""

import numpy as np
import pytest
import torch
from hands import LETTERS, as_path, letter
from hypothesis import given
from hypothesis import strategies as st

from rarememory.play.drawing import LONGEST, ink, is_drawing, strokes

points = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=9)


@given(st.lists(points, min_size=1, max_size=5))
def test_any_path_is_read_as_it_was_written_and_gives_ink(drawn):
    path = as_path([np.array(stroke) for stroke in drawn])
    assert [[tuple(point) for point in stroke] for stroke in strokes(path)] == drawn
    image = ink(path)
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32
    assert image.min() >= 0 and 0.5 < image.max() <= 1
    assert is_drawing(path)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "nothing on the paper yet"),
        ("M", "'M' is no drawing"),
        ("M1 2L3", "is no drawing"),
        ("M1 2 L3 4", "is no drawing"),
        ("M256 2", "from 0 to 255"),
        ("M-1 2", "is no drawing"),
        ("L1 2M3 4", "is no drawing"),
        ('M1 2"/><script>alert(1)</script>', "is no drawing"),
        ("M1 2" + "L3 4" * LONGEST, f"{4 + 4 * LONGEST:,} characters where {LONGEST:,} are"),
    ],
)
def test_what_is_no_drawing_is_refused_in_a_sentence(path, sentence):
    with pytest.raises(ValueError, match=sentence):
        strokes(path)
    assert not is_drawing(path)


def test_what_is_no_text_is_no_drawing():
    assert not is_drawing(7) and not is_drawing(None) and not is_drawing(("M1 2",))


def extent(image):
    rows, columns = (image[0] > 0.5).any(1).nonzero(), (image[0] > 0.5).any(0).nonzero()
    return [(each.min().item(), each.max().item()) for each in (rows, columns)]


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_where_and_how_large_it_is_drawn_does_not_matter(scale):
    square = np.array([(10, 10), (210, 10), (210, 210), (10, 210), (10, 10)]) * scale
    image = ink(as_path([square + 30]))
    # 18 pixels and the pen, around the middle.
    assert extent(image) == [(4, 23), (4, 23)]
    torch.testing.assert_close(image, image.flip(1, 2), atol=0.1, rtol=0)


def test_a_dot_stays_a_dot():
    assert ink("M99 99").sum() < 4 and ink("M99 99").argmax() in (13 * 28 + 13, 14 * 28 + 14)
    assert ink("M99 99L101 99").sum() < 6


def test_a_line_has_no_gaps_and_the_width_of_omniglots():
    image = ink("M0 128L255 128")
    assert (image[0, :, 6:22].sum(0) - 1.44).abs().max() < 0.3
    assert image[0, :, 6:22].amax(0).min() > 0.5


def test_how_fast_it_was_drawn_does_not_matter():
    slow = "M20 20" + "".join(f"L{i} {i}" for i in range(21, 221))
    torch.testing.assert_close(ink(slow), ink("M20 20L220 220"))


def test_every_letter_of_the_tests_is_one():
    assert all(is_drawing(as_path(letter(name, seed))) for name in LETTERS for seed in range(5))
