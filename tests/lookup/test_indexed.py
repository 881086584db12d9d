"""What both approximate searches of the package have in common."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, Memory
from rarememory.lookup import LOOKUPS, AutoLookup, FaissIVF, IndexedLookup, LocalitySensitiveHashing
from tests.lookup.histories import filled, near_keys

SETTINGS = {
    FaissIVF: {"n_lists": 30, "n_probe": 3},
    LocalitySensitiveHashing: {"n_bits": 6, "n_tables": 2, "radius": 0},
}


@pytest.fixture(params=SETTINGS, ids=lambda search: search.__name__)
def search(request) -> type[IndexedLookup]:
    return request.param


class NamesAll(IndexedLookup):
    """An index that knows nothing of what is empty."""

    name, exact_below = "names all", 0

    def build(self, keys, slots):
        return len(keys)

    def search(self, index, queries, keys, k):
        return torch.arange(index).expand(len(queries), -1)[:, :k]


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 10**6))
def test_an_empty_slot_is_not_found_even_if_the_index_names_it(slots, seed):
    torch.manual_seed(seed)
    keys, occupied = torch.eye(slots), torch.rand(slots) < 0.7
    found = NamesAll().nearest(keys[:2], keys, occupied, slots)
    count = int(occupied.sum())
    for row in found.tolist():
        assert row[:count] == [slot if occupied[slot] else EMPTY for slot in range(count)]
        assert set(row[count:]) <= {EMPTY}


def test_of_equal_keys_the_lower_slots_are_found(search):
    memory = filled(800, lookup=search())
    memory.keys[40:52] = memory.keys[700:712] = memory.keys[7]
    assert memory(memory.keys[7], k=7).slots.tolist() == [7, 40, 41, 42, 43, 44, 45]
    assert memory(memory.keys[7], k=14).slots.tolist() == [7, *range(40, 52), 700]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_query_that_is_not_finite_finds_nothing_and_changes_no_other(search, bad):
    memory, occupied = filled(800, lookup=search()), torch.ones(800, dtype=bool)
    queries = near_keys(memory, 9)
    expected = memory.lookup.nearest(queries, memory.keys, occupied, 5)
    queries[2], queries[4, 1] = bad, bad
    expected[[2, 4]] = EMPTY
    for rows in (range(9), [2, 4], []):
        found = memory.lookup.nearest(queries[list(rows)], memory.keys, occupied, 5)
        assert torch.equal(found, expected[list(rows)])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_the_settings_and_not_the_index_and_answers_the_same(search, copied):
    options = {**SETTINGS[search], "rebuild_after": 0.7, "exact_below": 64}
    memory, queries = filled(800, lookup=search(**options)), torch.randn(50, 16)
    before = memory(queries, k=5)
    twin = copied(memory)
    assert memory.lookup._cache is not None and twin.lookup._cache is None
    assert options.items() <= vars(twin.lookup).items()
    for mine, theirs in zip(twin(queries, k=5)[:4], before[:4], strict=True):
        assert torch.equal(mine, theirs)
    assert twin.lookup._cache is not memory.lookup._cache


def test_auto_never_chooses_it_and_no_name_does(search):
    assert search not in LOOKUPS.values()
    assert all(not isinstance(one, IndexedLookup) for one in AutoLookup().lookups)
    for name in (search.name, search.__name__):
        with pytest.raises(ValueError, match="no lookup is called"):
            Memory(3, 4, lookup=name)


@pytest.mark.parametrize(
    ("search", "options", "sentence"),
    [
        (FaissIVF, {"n_lists": 0}, "n_lists must be an integer of at least 1, not 0"),
        (FaissIVF, {"n_probe": -2}, "n_probe must be an integer of at least 1, not -2"),
        (FaissIVF, {"rebuild_after": -1.0}, "rebuild_after must be 0 or a positive number, not -1"),
        (FaissIVF, {"exact_below": -1}, "exact_below must be 0 or a positive number, not -1"),
        *(
            (LocalitySensitiveHashing, options, sentence)
            for options, sentence in [
                ({"n_bits": 0}, "n_bits must be an integer of at least 1, not 0"),
                ({"n_bits": 63}, "n_bits must be at most 62, to fit into an integer, not 63"),
                ({"n_tables": 0}, "n_tables must be an integer of at least 1, not 0"),
                ({"n_bits": 4, "radius": 5}, "radius must be 0 to 4, the bits of a bucket, not 5"),
                ({"radius": -1}, "radius must be 0 to 62, the bits of a bucket, not -1"),
                ({"n_bits": 40, "radius": 5}, "radius 5 of 40 bits looks into 760099 buckets"),
                ({"radius": 4}, "radius 4 of 62 bits looks into 597619 buckets of each table"),
                ({"seed": 2**64}, "seed must be an integer of 64 bits"),
                ({"rebuild_after": -0.5}, "rebuild_after must be 0 or a positive number, not -0.5"),
                ({"exact_below": -1}, "exact_below must be 0 or a positive number, not -1"),
            ]
        ),
    ],
)
def test_a_number_out_of_range_is_refused(search, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        search(**options)
