"""A search of one's own: the code of docs/extending/lookup.md, run as it stands there."""

import re

import pytest
import torch

from rarememory import EMPTY, Lookup, Memory
from rarememory.lookup import IndexedLookup
from tests.docs import pages
from tests.lookup.histories import change, clustered, exact
from tests.memories import holding

PAGE = "docs/extending/lookup.md"


@pytest.fixture
def documented(monkeypatch, tmp_path) -> dict[str, object]:
    """The names that the code of the page has defined, when all of it has run."""
    pages.stand_ins(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return pages.run(PAGE, tmp_path)


def test_the_code_of_the_docs_runs_and_answers(documented):
    memory = documented["memory"]
    assert isinstance(memory.lookup, documented["Usearch"])
    assert memory(memory.keys[:7]).prediction.tolist() == list(range(7))
    assert memory(memory.keys[5], k=1).prediction.tolist() == 5


@pytest.mark.parametrize("name", ["Usearch", "Cagra"])
def test_a_documented_search_follows_the_memory(documented, name):
    memory = holding(clustered(600), list(range(600)), memory_size=700, lookup=documented[name]())
    queries = torch.randn(7, 16)
    for seed in range(30):
        verb = ["write", "write recall", "forget", "load", "snapshot", "edit", "resize"][seed % 7]
        change(memory, verb, 5, seed)
        found, truth = memory(queries, k=5).slots, exact(memory, queries, 5)
        if name == "Usearch":
            assert found[-1, -1] == EMPTY
            found, truth = found[:-1], truth[:-1]
        assert torch.equal(found, truth)


def test_the_documented_searches_are_about_ten_lines():
    text = pages.python_of(PAGE)
    for name, most in (("Usearch", 15), ("Cagra", 9)):
        code = re.search(rf"class {name}\(.*?(?=\n\w|\Z)", text, re.DOTALL)[0]
        assert sum(bool(line.strip()) for line in code.splitlines()) <= most


def test_a_build_and_a_search_are_enough():
    class Small(IndexedLookup):
        name = "small"
        exact_below = 3
        built = 0

        def build(self, keys, slots):
            self.built += 1
            return slots.clone(), keys[slots].clone()

        def search(self, index, queries, keys, k):
            assert len(queries) and queries.isfinite().all()
            slots, stored = index
            return slots[(queries @ stored.T).topk(k).indices]

    memory = Memory(4, 9, k=2, lookup=Small())
    memory.write(torch.eye(4)[:2], torch.tensor([0, 1]))
    assert memory(torch.eye(4)).prediction.tolist()[:2] == [0, 1] and memory.lookup.built == 0
    memory.write(torch.eye(4)[2:], torch.tensor([2, 3]))
    for _ in range(2):
        assert memory(torch.eye(4)).prediction.tolist() == [0, 1, 2, 3]
    assert memory.lookup.built == 1
    for nothing in (torch.empty(0, 4), torch.full((2, 4), torch.nan)):
        found = memory.lookup.nearest(nothing, memory.keys, memory.values != EMPTY, 2)
        assert found.shape == (len(nothing), 2) and found.eq(EMPTY).all()
    memory.forget(labels=1)
    assert 1 not in memory(torch.eye(4)).values and memory.lookup.built == 2


def test_an_empty_slot_is_not_found_though_the_index_say_so():
    class Careless(IndexedLookup):
        name = "careless"
        exact_below = 1

        def build(self, keys, slots):
            return None

        def search(self, index, queries, keys, k):
            return torch.tensor([[1, 0]]).expand(len(queries), -1)

    memory = holding(torch.eye(3), [5, EMPTY, 7], memory_size=3, lookup=Careless())
    found = memory.lookup.nearest(torch.eye(3), memory.keys, memory.values != EMPTY, 3)
    assert found.tolist() == [[EMPTY, 0]] * 3


ALL = torch.arange(3).expand(2, 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ALL.numpy(), "returned ndarray, and not slots: a tensor of integers [2, at most 3]"),
        (ALL.tolist(), "returned list, and not slots"),
        (ALL.float().topk(3), "returned topk, and not slots"),
        (ALL.float(), "returned torch.float32 [2, 3], and not slots"),
        (ALL[:1], "returned torch.int64 [1, 3], and not slots"),
        (ALL[:, 0], "returned torch.int64 [2], and not slots"),
        (ALL.repeat(1, 2), "returned torch.int64 [2, 6], and not slots"),
        (ALL + 5, "names slot 7, and this memory has 0 to 4"),
    ],
)
def test_an_answer_that_is_no_slots_is_refused_in_a_sentence(found, said):
    class Wrong(Lookup):
        def nearest(self, queries, keys, occupied, k):
            return found

    memory = holding(torch.eye(3), [5, 6, 7], memory_size=5, k=3, lookup=Wrong())
    with pytest.raises(ValueError, match=re.escape(f"the lookup 'unnamed' {said}")):
        memory(torch.eye(3)[:2])


@pytest.mark.usefixtures("unchecked")
def test_empty_slots_in_an_answer_are_none():
    class Blind(Lookup):
        def nearest(self, queries, keys, occupied, k):
            return torch.tensor([[3, 1, 4]], dtype=torch.int32).expand(len(queries), -1)

        def nearest_pair(self, queries, keys, values, labels):
            return torch.full_like(labels, 4), torch.ones_like(labels)

    memory = holding(torch.eye(3), [5, 6, 7], memory_size=5, k=3, lookup=Blind())
    assert memory(torch.eye(3)[:1]).slots.tolist() == [[1, EMPTY, EMPTY]]
    assert memory(torch.eye(3)[:1], torch.tensor([5])).slots.tolist() == [[1, EMPTY]]
    memory.lookup.nearest_pair = lambda *given: (torch.zeros(1, dtype=torch.int64), [1])
    with pytest.raises(ValueError, match=r"returned list, .* of integers \[1\], for 1 queries"):
        memory(torch.eye(3)[:1], torch.tensor([5]))


def test_an_index_that_should_follow_but_cannot_says_what_is_missing():
    class Half(IndexedLookup):
        name = "half"
        exact_below = 1
        rebuild_after = 0.5

        def build(self, keys, slots):
            return None

        def search(self, index, queries, keys, k):
            return torch.full((len(queries), k), EMPTY)

    memory = holding(torch.eye(8), list(range(8)), memory_size=9, lookup=Half())
    memory(torch.eye(8))
    memory.write(-torch.ones(8), torch.tensor(9))
    with pytest.raises(NotImplementedError, match="half has rebuild_after > 0, and no add"):
        memory(torch.eye(8))
    memory(torch.eye(8))
    memory.forget(labels=9)
    with pytest.raises(NotImplementedError, match="half has rebuild_after > 0, and no remove"):
        memory(torch.eye(8))


def test_a_lookup_is_told_of_what_a_write_and_a_forgetting_change_and_of_nothing_else():
    before, told = [], []

    class Listening(Lookup):
        name = "listening"

        def nearest(self, queries, keys, occupied, k):
            return occupied.nonzero()[:k].T.expand(len(queries), -1)

        def before_write(self, keys):
            before.append(keys.clone())

        def after_write(self, keys, slots):
            assert keys is memory.keys
            said = set(slots.tolist()) - {EMPTY}
            assert said == set((keys != before.pop()).any(1).nonzero().squeeze(1).tolist())
            told.append(len(said))

    memory = Memory(3, 4, lookup=Listening())
    memory.write(torch.eye(3), torch.arange(3), mask=torch.tensor([True, False, True]))
    memory.write(torch.randn(9, 3), torch.arange(100, 109))
    memory.forget(slots=[1, 2])
    memory(torch.eye(3), torch.arange(3))
    with memory.snapshot():
        memory.clear()
    memory.resize(6)
    assert told == [2, 4, 4, 1, 2] and before == []
