"""Classes that look alike meet in an episode, and copies of one character never do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from rarememory.training.hard_classes import HardClassSampler
from tests.memories import bits


def on_a_circle(angles):
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def sampler_of(families, angles):
    sampler = HardClassSampler(torch.tensor(families), key_dim=2)
    sampler.write(on_a_circle(torch.tensor(angles)), torch.arange(len(families)))
    return sampler


def pairs(sampler, n_seeds):
    """Which two classes meet, by any of the seeds."""
    chosen = (
        sampler.choose(2, group=2, generator=Generator().manual_seed(seed))
        for seed in range(n_seeds)
    )
    return {frozenset(classes.tolist()) for classes in chosen}


@given(
    n_families=st.integers(1, 9),
    copies=st.integers(1, 4),
    n_known=st.integers(0, 36),
    group=st.integers(1, 6),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_as_many_classes_as_asked_for_and_no_family_twice(
    n_families, copies, n_known, group, seed, data
):
    n_way = data.draw(st.integers(1, n_families))
    families = torch.arange(n_families).repeat(copies) * 5 + 3
    sampler = HardClassSampler(families, key_dim=2)
    known = torch.arange(len(families))[:n_known]
    sampler.write(on_a_circle(torch.linspace(0, 6, len(known))), known)
    chosen = sampler.choose(n_way, group=group, generator=Generator().manual_seed(seed))
    assert chosen.shape == (n_way,)
    assert families[chosen].unique().numel() == n_way


def test_a_class_meets_those_that_its_key_is_nearest_to():
    angles = [0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 3.0, 3.1, 3.2]
    sampler = sampler_of(range(9), angles)
    for seed in range(20):
        chosen = sampler.choose(3, group=3, generator=Generator().manual_seed(seed))
        assert len((chosen // 3).unique()) == 1


def test_a_class_without_a_key_begins_no_group_and_is_not_looked_up():
    # Only two of six have keys, far from each other: each begins a group, and is in no other.
    sampler = HardClassSampler(torch.arange(6), key_dim=2)
    sampler.write(on_a_circle(torch.tensor([0.0, 3.0])), torch.tensor([1, 4]))
    for seed in range(10):
        order = torch.randperm(6, generator=Generator().manual_seed(seed))
        groups = sampler._groups(order, 2, 2)
        assert sorted(groups[:, 0].tolist()) == [1, 4]
        # A third group has nothing to begin with, and no key to ask by.
        begun = sampler._groups(order, 3, 2)
        assert begun[2, 0] not in (1, 4) and begun[2, 1:].eq(-1).all()


def test_a_group_is_no_larger_than_asked_for():
    sampler = sampler_of(range(30), [0.01 * n for n in range(30)])
    for group in (2, 3, 5):
        groups = sampler._groups(torch.randperm(30), 4, group)
        assert ((groups != -1).sum(dim=1) == group).all()


def test_without_groups_every_class_comes_as_often_as_any_other():
    sampler = sampler_of(range(8), [0.1 * n for n in range(8)])
    generator = Generator().manual_seed(0)
    drawn = torch.cat([sampler.choose(2, generator=generator) for _ in range(800)])
    assert (drawn.bincount(minlength=8) - 200).abs().max() < 60


def test_a_family_stays_away_though_it_is_nearest():
    # 0 and 1 are one character, drawn alike; 2 is the nearest of another.
    sampler = sampler_of([0, 0, 1, 2], [0.0, 0.01, 0.3, 2.0])
    met = pairs(sampler, 40)
    assert {0, 1} not in met
    assert {0, 2} in met and {1, 2} in met
    # Nothing is near to 3 but it is never alone.
    assert all(len(pair) == 2 for pair in met)


def test_what_was_written_last_is_what_it_chooses_by():
    sampler = sampler_of(range(4), [0.0, 0.1, 2.0, 2.1])
    for _ in range(40):
        sampler.write(on_a_circle(torch.tensor([0.0, 2.0, 0.1, 2.1])), torch.arange(4))
    assert pairs(sampler, 20) == {frozenset({0, 2}), frozenset({1, 3})}


def test_choosing_changes_neither_the_memory_nor_torchs_own_generator():
    sampler = sampler_of(range(6), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    before, state = bits(sampler.memory), torch.get_rng_state()
    one = sampler.choose(4, group=2, generator=Generator().manual_seed(3))
    other = sampler.choose(4, group=2, generator=Generator().manual_seed(3))
    assert torch.equal(one, other)
    assert bits(sampler.memory) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_more_classes_than_families_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="n_way is 3, but there are 2 families of classes"):
        HardClassSampler(torch.tensor([4, 4, 9]), 2).choose(3, generator=Generator())
