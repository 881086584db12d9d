"""The inverted file of Faiss, and how an index follows its memory."""

import sys
import threading
import time
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, AverageOrReplace, FirstInFirstOut, Memory
from rarememory.lookup import FaissIVF, TorchLookup
from rarememory.lookup.changes import Changes
from tests.lookup.histories import STEPS, change, clustered, exact, near_keys, recall_of
from tests.lookup.histories import filled as memory_with
from tests.memories import bits, holding


def filled(slots: int = 800, lookup: FaissIVF | None = None, **options) -> Memory:
    return memory_with(slots, lookup=lookup or FaissIVF(exact_below=64), **options)


def in_index(memory: Memory) -> set[int]:
    """The slots that the lists hold, each found under the key it has now."""
    index = memory.lookup._cache.index
    there = (memory.values != EMPTY).nonzero().squeeze(1)
    stored = torch.from_numpy(index.reconstruct_batch(there.numpy()))
    assert torch.equal(stored, memory.keys[there].float())
    assert index.ntotal == len(there)
    return set(there.tolist())


@pytest.mark.parametrize("k", [1, 10])
def test_on_clustered_keys_the_recall_is_high(k):
    memory = filled(4000)
    assert recall_of(memory, near_keys(memory), k) > 0.95


def test_more_probes_find_more():
    memory, found = filled(4000), []
    queries = torch.randn(200, 16)
    for n_probe in (1, 4, 16, 1000):
        memory.lookup.n_probe = n_probe
        found.append(recall_of(memory, queries, 10))
    assert found == sorted(found) and found[0] < 0.8 and found[-1] == 1


@pytest.mark.parametrize(
    ("slots", "n_lists", "expected"),
    [(10, None, 1), (800, None, 20), (800, 99, 20), (800, 5, 5), (30_000, None, 692)],
)
def test_there_is_no_more_than_a_list_for_39_keys_and_four_times_their_root(
    slots, n_lists, expected
):
    lookup = FaissIVF(n_lists, exact_below=1)
    assert lookup.build(clustered(slots, 4), torch.arange(slots)).nlist == expected


@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_with_all_lists_probed_it_finds_what_the_exact_search_finds(k, dtype):
    memory = filled(lookup=FaissIVF(n_lists=20, n_probe=20)).to(dtype)
    memory.forget(slots=range(0, 800, 7))
    queries = torch.cat([near_keys(memory), torch.randn(50, 16).to(dtype)])
    assert torch.equal(memory(queries, k=k).slots, exact(memory, queries, k))


def test_there_are_no_more_columns_than_occupied_slots():
    memory = filled(200, memory_size=900)
    slots = memory(torch.randn(3, 16), k=256).slots
    assert slots.shape == (3, 256) and slots[:, 200:].eq(EMPTY).all()
    memory.lookup.n_probe = 1
    assert memory(torch.randn(3, 16), k=256).slots[:, -60:].eq(EMPTY).all()


@pytest.mark.parametrize("keys", [torch.ones(600, 16), torch.eye(16).repeat(50, 1)])
def test_a_few_keys_many_times_make_an_index_too(keys):
    memory = holding(keys, list(range(len(keys))), lookup=FaissIVF(exact_below=1))
    assert memory(keys[:3], k=2).scores.ge(0.999).all()


# The index is a cache


def test_a_small_memory_is_searched_exactly_and_builds_no_index():
    memory = filled(511, lookup=FaissIVF(n_probe=1), memory_size=600)
    queries = torch.randn(100, 16)
    assert torch.equal(memory(queries, k=9).slots, exact(memory, queries, 9))
    assert memory.lookup._cache is None
    memory.write(torch.randn(2, 16), torch.tensor([600, 601]))
    memory(queries)
    assert memory.lookup._cache is not None
    memory.clear()
    assert memory(queries).slots.eq(EMPTY).all()


def test_nothing_of_the_index_is_in_the_state_and_reading_changes_no_bit_of_it():
    memory = filled()
    before, names = bits(memory), set(memory.state_dict())
    memory(torch.randn(5, 16))
    assert bits(memory) == before and set(memory.state_dict()) == names


def test_a_read_only_memory_may_build_its_index():
    memory = filled()
    queries = torch.randn(5, 16)
    with memory.read_only():
        inside = memory(queries, k=5)
    assert memory.lookup._cache is not None
    assert torch.equal(memory(queries, k=5).slots, inside.slots)


def test_readers_in_threads_take_turns_and_find_what_one_reader_finds(monkeypatch):
    memory = filled(lookup=FaissIVF(exact_below=64, rebuild_after=9.0))
    queries, found, inside, most = torch.randn(20, 16), [], [], []
    memory(queries)
    real = FaissIVF.search

    def slowly(self, *given):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        slots = real(self, *given)
        inside.pop()
        return slots

    monkeypatch.setattr(FaissIVF, "search", slowly)
    # Every reader finds an index that is behind.
    memory.keys[:400] = memory.keys[:400].flip(0).clone()
    with memory.read_only():
        readers = [
            threading.Thread(target=lambda: found.append(memory(queries, k=5).slots))
            for _ in range(6)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert most == [1] * 6
    assert len(found) == 6 and all(torch.equal(slots, found[0]) for slots in found)
    in_index(memory)


def test_an_index_that_failed_half_way_is_thrown_away(monkeypatch):
    memory = filled()
    memory(torch.randn(5, 16))
    memory.write(torch.randn(3, 16), torch.tensor([1, 2, 3]))
    with monkeypatch.context() as broken:
        broken.setattr(FaissIVF, "add", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            memory(torch.randn(5, 16))
    memory(torch.randn(5, 16))
    in_index(memory)


# Following the memory


@settings(max_examples=20)
@given(
    policy=st.sampled_from([AverageOrReplace(), FirstInFirstOut()]),
    rebuild_after=st.sampled_from([0.0, 0.1, 0.5, float("inf")]),
    start=st.integers(0, 10**6),
    history=STEPS,
)
def test_after_any_history_the_index_holds_the_memory(policy, rebuild_after, start, history):
    torch.manual_seed(start)
    lookup = FaissIVF(exact_below=64, rebuild_after=rebuild_after)
    memory = filled(300, lookup=lookup, memory_size=330, update=policy)
    queries = torch.randn(7, 16)
    for verb, count, seed, read in history:
        change(memory, verb, count, seed)
        if read or verb == history[-1][0]:
            slots = memory(queries, k=9).slots
            assert memory.values[slots[slots != EMPTY]].ne(EMPTY).all()
            if len(memory) >= 64:
                in_index(memory)
    memory.lookup.n_probe = 1000
    assert torch.equal(memory(queries, k=9).slots, exact(memory, queries, 9))


def watched(monkeypatch) -> list[str]:
    """What happens to the index from now on."""
    seen = []
    for name in ("build", "add", "remove"):
        real = getattr(FaissIVF, name)
        monkeypatch.setattr(
            FaissIVF,
            name,
            lambda self, *given, real=real, name=name: (seen.append(name), real(self, *given))[1],
        )
    return seen


def compared(monkeypatch) -> list[int]:
    """How many keys are compared with those of the index, time by time, from now on.

    Without the one key that each search looks at, in case torch did not count a change.
    """
    counts, real = [], Changes._fingerprints

    def fingerprints(self, keys):
        if len(keys) > 1:
            counts.append(len(keys))
        return real(self, keys)

    monkeypatch.setattr(Changes, "_fingerprints", fingerprints)
    return counts


def test_only_what_a_write_changed_goes_to_the_index(monkeypatch):
    memory = filled()
    memory(torch.randn(5, 16))
    seen, counts = watched(monkeypatch), compared(monkeypatch)
    for _ in range(3):
        memory.write(memory(torch.randn(5, 16)), torch.arange(5))
        memory.forget(labels=3)
    assert seen[:2] == ["remove", "add"] and "build" not in seen
    assert sum(counts) <= 3 * 6
    memory(torch.randn(5, 16))
    in_index(memory)
    seen.clear()
    memory(torch.randn(5, 16))
    assert seen == []


def test_an_edit_is_compared_once_and_an_index_in_step_is_asked_nothing(monkeypatch):
    memory = filled()
    memory(torch.randn(5, 16))
    seen, counts = watched(monkeypatch), compared(monkeypatch)
    memory(torch.randn(5, 16))
    assert seen == counts == []
    memory.keys[7] = memory.keys[8]
    for _ in range(3):
        memory(torch.randn(5, 16))
    assert seen == ["remove", "add"] and counts == [800]
    memory.keys[7] = memory.keys[8]
    for _ in range(3):
        memory(torch.randn(5, 16))
    assert seen == ["remove", "add"] and counts == [800, 800]


def test_too_many_changes_train_anew_and_as_many_changes_of_one_slot_do_not(monkeypatch):
    memory = filled(300, lookup=FaissIVF(exact_below=64, rebuild_after=0.1))
    memory(torch.randn(1, 16))
    seen = watched(monkeypatch)
    for _ in range(40):
        memory.keys[3] = torch.randn(16)
        memory(torch.randn(1, 16))
    assert "build" not in seen
    memory.keys[100:129] = torch.randn(29, 16)
    memory(torch.randn(1, 16))
    assert "build" not in seen
    memory.keys[129] = torch.randn(16)
    memory(torch.randn(1, 16))
    assert seen.count("build") == 1
    memory.keys[130] = torch.randn(16)
    memory(torch.randn(1, 16))
    assert seen.count("build") == 1


def test_another_tensor_or_type_is_compared_and_another_shape_built_anew(monkeypatch):
    memory = filled()
    memory(torch.randn(5, 16))
    seen = watched(monkeypatch)
    memory.load_state_dict(memory.state_dict(), assign=True)
    memory.keys = memory.keys.clone()
    memory.keys[5] = memory.keys[6]
    memory(torch.randn(5, 16))
    assert seen == ["remove", "add"]
    in_index(memory)
    # Every number has other bits now, and so every slot has changed.
    memory.double()(torch.randn(5, 16).double())
    assert seen == ["remove", "add", "build", "add"]
    memory.resize(1600)
    memory(torch.randn(5, 16))
    assert seen.count("build") == 2
    in_index(memory)
    assert not memory.lookup._cache.changes.fits(torch.empty(1600, 16, device="meta"))


def test_a_memory_copied_in_inference_mode_is_followed_too():
    with torch.inference_mode():
        # Its tensors count no versions; those of a memory that is no copy do.
        memory = deepcopy(filled())
        assert memory.keys.is_inference()
        memory(torch.randn(5, 16))
        memory.keys[5] = memory.keys[6]
        memory.write(torch.randn(3, 16), torch.tensor([1, 2, 3]))
        memory(torch.randn(5, 16))
        in_index(memory)


def test_an_edit_before_an_empty_write_is_not_taken_for_the_write():
    memory = filled()
    memory(torch.randn(5, 16))
    memory.keys[5] = memory.keys[6]
    memory.write(torch.randn(0, 16), torch.zeros(0, dtype=torch.int64))
    memory.write(torch.randn(2, 16), torch.tensor([1, 2]), mask=torch.zeros(2, dtype=bool))
    memory.forget(labels=10**6)
    memory(torch.randn(5, 16))
    in_index(memory)


def test_a_slot_emptied_or_filled_by_hand_is_seen_though_its_key_stays():
    memory = filled(300)
    memory(torch.randn(5, 16))
    memory.values[7] = EMPTY
    assert (memory(memory.keys[7], k=3).slots != 7).all()
    in_index(memory)
    memory.values[7] = 7
    assert memory(memory.keys[7], k=3).slots[0] == 7
    in_index(memory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_change_of_the_last_bit_of_a_key_is_seen(dtype):
    keys = clustered(50).to(dtype)
    changes = Changes(keys, torch.ones(50, dtype=bool))
    keys[7, 3] = torch.nextafter(keys[7, 3].double(), torch.tensor(9.0).double()).to(dtype)
    keys.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[keys.element_size()])[9, 15] ^= 1
    seen = changes.since(keys, torch.ones(50, dtype=bool)).nonzero().squeeze(1).tolist()
    assert 9 in seen and set(seen) <= {7, 9}


def test_another_tensor_in_the_same_place_is_compared_too():
    keys, occupied = clustered(50).clone(), torch.ones(50, dtype=bool)
    changes, alias = Changes(keys, occupied), keys.data
    assert alias._version == keys._version == 0
    keys[3] = keys[4]
    assert changes.since(alias, occupied).nonzero().tolist() == [[3]]


def test_the_same_numbers_in_another_order_or_another_place_are_another_key():
    keys, occupied = clustered(50), torch.ones(50, dtype=bool)
    changes = Changes(keys, occupied)
    keys[3] = keys[3].flip(0)
    assert changes.since(keys, occupied).nonzero().tolist() == [[3]]
    version = keys._version
    keys.data = keys.roll(1, dims=0)
    assert keys._version == version and changes.since(keys, occupied).all()


# Choosing


def test_the_loss_is_exact(monkeypatch):
    memory = filled(lookup=FaissIVF(n_probe=1, exact_below=64))
    monkeypatch.setattr(FaissIVF, "search", lambda *arguments: 1 / 0)
    queries, labels = torch.randn(9, 16), torch.randint(0, 800, (9,))
    recall = memory(queries, labels)
    twin = Memory(*memory.keys.T.shape, lookup=TorchLookup())
    twin.load_state_dict(memory.state_dict())
    assert torch.equal(recall.slots, twin(queries, labels).slots)


def test_where_it_cannot_search_it_says_why(monkeypatch):
    memory = filled()
    keys = torch.empty(3, 4, device="meta")
    sentence = "faiss ivf searches on the cpu, and the keys are on meta"
    assert memory.lookup.why_not(keys, keys, 1) == sentence
    assert memory.lookup.why_not(memory.keys, memory.keys, 1) is None
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="faiss is not installed; run: pip install"):
        memory(torch.randn(1, 16))
    with pytest.raises(ImportError, match="faiss is not installed; run: pip install"):
        FaissIVF()
