"""Streams: every drawing once, in the order that was asked for."""

import pytest
import torch
from torch import Generator

from rarememory.data import alphabet_stream, classes_by_alphabet, random_stream

NAMES = [f"{alphabet}/character{n:02}" for n in range(3) for alphabet in ("Greek", "Keble", "a/b")]


def seeded(seed=0):
    return Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "stream",
    [random_stream(9, 4, generator=seeded()), alphabet_stream(NAMES, 4, generator=seeded())],
    ids=["random", "alphabet"],
)
def test_every_drawing_of_every_class_comes_once(stream):
    shown = stream.classes * 4 + stream.drawings
    assert shown.sort().values.tolist() == list(range(36))
    assert shown.tolist() != list(range(36))


def test_an_alphabet_that_is_over_never_comes_again_and_is_shuffled_inside():
    alphabets = classes_by_alphabet(NAMES)
    assert {name: places.tolist() for name, places in alphabets.items()} == {
        "Greek": [0, 3, 6],
        "Keble": [1, 4, 7],
        "a/b": [2, 5, 8],
    }
    orders = set()
    for seed in range(9):
        classes = alphabet_stream(NAMES, 4, generator=seeded(seed)).classes
        orders.add(tuple((classes % 3).unique_consecutive().tolist()))
        assert all(len(block.unique_consecutive()) > 3 for block in classes.split(12))
    assert len(orders) > 1 and all(sorted(order) == [0, 1, 2] for order in orders)


def test_a_turned_character_is_of_the_alphabet_of_its_upright_one():
    places = classes_by_alphabet(["Greek/character01/rot090", "Greek/character02/rot000/mirror"])
    assert places.keys() == {"Greek"}


def test_a_stream_is_the_same_for_the_same_seed_and_leaves_torchs_own_randomness_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (random_stream(9, 4, generator=seeded(s)).classes for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
