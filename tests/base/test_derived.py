"""What is derived from tensors follows them, however they are changed."""

import copy

import pytest
import torch

from rarememory.base.derived import Derived


@pytest.mark.parametrize("counted", [True, False])
def test_it_is_made_once_and_again_after_any_change(counted):
    made, calls = Derived(), []
    one, other = torch.arange(3), torch.arange(2)

    def total(*tensors):
        calls.append(tensors)
        return sum(int(tensor.sum()) for tensor in tensors)

    assert [made.of(total, one, other) for _ in range(3)] == [4, 4, 4]
    assert len(calls) == 1
    (other if counted else other.numpy())[1] = 7
    assert [made.of(total, one, other) for _ in range(2)] == [10, 10]
    assert made.of(total, one[:2], other) == 8
    assert made.of(total, one[:2].double(), other) == 8
    assert len(calls) == 4


def test_what_is_made_in_inference_mode_serves_a_gradient():
    made, x = Derived(), torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        made.of(torch.neg, torch.ones(2))
    (made.of(torch.neg, torch.ones(2)) * x).sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]


def test_a_copy_makes_its_own():
    made = Derived()
    first = made.of(torch.neg, torch.ones(2))
    assert made.of(torch.neg, torch.ones(2)) is first
    assert copy.deepcopy(made).of(torch.neg, torch.ones(2)) is not first
