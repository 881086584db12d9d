import numpy as np
import pytest
import torch
from drawings import as_path
from hypothesis import given
from hypothesis import strategies as st

from rarememory.play.drawing import LONGEST, ink, is_drawing, strokes

points = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=9)


@given(st.lists(points, min_size=1, max_size=5))
def test_any_path_is_read_as_it_was_written_and_rendered(drawn):
    path = as_path([np.array(stroke) for stroke in drawn])
    assert [[tuple(point) for point in stroke] for stroke in strokes(path)] == drawn
    image = ink(path)
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32
    assert image.min() >= 0 and 0.5 < image.max() <= 1
    assert is_drawing(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the drawing is empty"),
        ("M", "'M' is no drawing"),
        ("M1 2L3", "is no drawing"),
        ("M1 2 L3 4", "is no drawing"),
        ("M256 2", "from 0 to 255"),
        ("M-1 2", "is no drawing"),
        ("L1 2M3 4", "is no drawing"),
        ('M1 2"/><script>alert(1)</script>', "is no drawing"),
        ("M1 2" + "L3 4" * LONGEST, f"{4 + 4 * LONGEST:,} characters, and {LONGEST:,} are"),
    ],
)
def test_a_path_that_is_no_drawing_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        strokes(path)
    assert not is_drawing(path)


def test_only_text_can_be_a_drawing():
    assert not is_drawing(7) and not is_drawing(None) and not is_drawing(("M1 2",))


def extent(image):
    rows, columns = (image[0] > 0.5).any(1).nonzero(), (image[0] > 0.5).any(0).nonzero()
    return [(each.min().item(), each.max().item()) for each in (rows, columns)]


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_position_and_size_do_not_matter(scale):
    square = np.array([(10, 10), (210, 10), (210, 210), (10, 210), (10, 10)]) * scale
    image = ink(as_path([square + 30]))
    # 18 pixels and the width of the pen, around the middle.
    assert extent(image) == [(4, 23), (4, 23)]
    torch.testing.assert_close(image, image.flip(1, 2), atol=0.1, rtol=0)


def test_a_dot_is_not_enlarged():
    assert ink("M99 99").sum() < 4 and ink("M99 99").argmax() in (13 * 28 + 13, 14 * 28 + 14)
    assert ink("M99 99L101 99").sum() < 6


def test_a_line_has_no_gaps_and_is_as_wide_as_in_omniglot():
    image = ink("M0 128L255 128")
    assert (image[0, :, 6:22].sum(0) - 1.44).abs().max() < 0.3
    assert image[0, :, 6:22].amax(0).min() > 0.5


def test_the_number_of_points_of_a_line_does_not_matter():
    dense = "M20 20" + "".join(f"L{i} {i}" for i in range(21, 221))
    torch.testing.assert_close(ink(dense), ink("M20 20L220 220"))
