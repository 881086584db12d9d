"""How close classes stand to keys of others, against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from rarememory.variants import hubness
from rarememory.variants.hubness import class_hubness
from tests import oracle


@given(
    seed=st.integers(0, 2**31),
    n_keys=st.integers(1, 40),
    n_classes=st.integers(1, 5),
    neighbors=st.integers(1, 12),
    cells=st.sampled_from([1, 60, 2**24]),
)
def test_it_is_what_loops_over_all_keys_say(seed, n_keys, n_classes, neighbors, cells):
    generator = torch.Generator().manual_seed(seed)
    keys = normalize(torch.randn(n_keys, 3, generator=generator), dim=1)
    drawn = torch.randint(0, n_classes, (n_keys,), generator=generator)
    places = drawn.unique(return_inverse=True)[1]
    counts = places.bincount()
    means = torch.stack([keys[places == place].mean(0) for place in range(len(counts))])
    k = min(neighbors, n_keys - int(counts.max()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hubness, "SCORES_AT_ONCE", cells)
        found = class_hubness(normalize(means, dim=1), keys, places, k)
    expected = oracle.hubness(keys.tolist(), places.tolist(), neighbors)
    assert found.tolist() == pytest.approx(list(expected.values()), abs=1e-5)


def test_one_large_class_can_be_all_the_neighbors():
    keys = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]), dim=1)
    found = class_hubness(keys[:2], keys, torch.tensor([0, 1, 1, 1]), 1)
    assert found[0] == keys[0] @ keys[1]
