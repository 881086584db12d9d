"""Shapes and types of calls are checked while tests run."""

import jaxtyping
import pytest
import torch
from shapes import checked

from rarememory.classifier.roots import unit_roots


def test_a_call_with_a_wrong_shape_is_an_error():
    with pytest.raises(jaxtyping.TypeCheckError, match="unit_roots"):
        unit_roots(torch.ones(3))


def test_a_function_inside_of_another_is_left_as_it_is():
    def inner(number: int) -> int:
        return number

    assert checked(inner) is inner
