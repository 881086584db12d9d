"""How close classes stand to each other, against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from rarememory import crowding
from rarememory.crowding import crowded
from tests import oracle


@given(
    seed=st.integers(0, 2**31),
    n_keys=st.integers(1, 40),
    n_classes=st.integers(1, 5),
    cells=st.sampled_from([1, 60, 2**24]),
)
def test_it_is_what_loops_over_all_keys_say(seed, n_keys, n_classes, cells):
    generator = torch.Generator().manual_seed(seed)
    keys = normalize(torch.randn(n_keys, 3, generator=generator), dim=1)
    drawn = torch.randint(0, n_classes, (n_keys,), generator=generator)
    values, classes = drawn.unique(return_inverse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crowding, "_CELLS", cells)
        found = crowded(keys, classes, len(values))
    expected = oracle.crowded(keys.tolist(), classes.tolist())
    assert found.tolist() == pytest.approx(list(expected.values()), abs=1e-5)


def test_a_class_alone_is_not_crowded_and_no_class_is_none():
    assert crowded(torch.eye(3), torch.zeros(3).long(), 1).tolist() == [0.0]
    assert crowded(torch.empty(0, 3), torch.empty(0).long(), 0).shape == (0,)


def test_keys_that_cancel_are_no_nearer_to_one_than_to_another():
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert crowded(keys, torch.tensor([0, 0, 1, 1]), 2)[0] == 0.0
