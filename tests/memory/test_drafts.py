"""A draft undoes what is written in it; its search may be made before, and used again later."""

import pytest
import torch
from memories import alike_rows, bits

from rarememory import AverageOrReplace, FirstInFirstOut, Memory
from rarememory.base.state import EMPTY
from rarememory.memory import drafts, writing
from rarememory.memory.drafts import Searched


def filled(size=400, key_dim=6, update=None, rows=300):
    memory = Memory(key_dim, size, update=update or FirstInFirstOut())
    memory.write(alike_rows(rows, key_dim, 0), torch.arange(rows) % 7)
    return memory


def searched(memory, rows, labels):
    """The search of a draft that ends with it."""
    with pytest.raises(Searched), memory.draft(only_search=True) as draft:
        memory.write(rows, labels)
    return draft.search


def test_a_draft_that_only_searches_ends_before_anything_changes():
    memory, labels = filled(), torch.arange(5)
    before, rows = bits(memory), alike_rows(5, 6, 1)
    search = searched(memory, rows, labels)
    assert bits(memory) == before
    assert torch.equal(search.slots, memory(rows, k=1).slots[:, 0])
    with memory.draft(only_search=True) as draft:
        assert memory.forget(slots=[0]) == 1
    assert bits(memory) == before and draft.slots.tolist() == [0]


@pytest.mark.parametrize("update", [FirstInFirstOut(), AverageOrReplace()], ids=str)
@pytest.mark.parametrize("key_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_an_earlier_search_and_what_has_changed_are_a_new_search(update, key_dtype, count):
    for seed in range(12):
        memory = Memory(6, 60, update=update, key_dtype=key_dtype)
        memory.write(alike_rows(50, 6, 100 + seed), torch.arange(50) % 7)
        rows, labels = alike_rows(count, 6, seed), torch.arange(count) % 3
        search = searched(memory, rows, labels)
        # Slots are averaged into, replaced, filled and emptied.
        others = memory.write(alike_rows(15, 6, 200 + seed), torch.arange(15) % 7).slots
        memory.forget(slots=[*search.slots[:1].tolist(), 3])
        changed = torch.cat([others, search.slots[:1], torch.tensor([3])]).unique()
        with memory.draft(search, changed) as draft:
            found = memory.write(rows, labels)
        with memory.draft() as new:
            expected = memory.write(rows, labels)
        assert torch.equal(draft.search.slots, new.search.slots)
        assert all(map(torch.equal, found, expected))
        assert {name: part.tolist() for name, part in draft.rows.items()} == {
            name: part.tolist() for name, part in new.rows.items()
        }


def test_only_rows_whose_nearest_slot_has_changed_are_searched_again(monkeypatch):
    memory, rows, labels = filled(), alike_rows(40, 6, 1), torch.arange(40) % 3
    search, asked, nearest = searched(memory, rows, labels), [], memory._nearest
    gone = search.slots[7:8]
    memory.forget(slots=gone.tolist())
    monkeypatch.setattr(memory, "_nearest", lambda some, k: asked.append(some) or nearest(some, k))
    with memory.draft(search, gone):
        memory.write(rows, labels)
    (again,) = asked
    assert len(again.queries) == (search.slots == gone).sum()


def test_rows_of_the_earlier_search_are_checked_again_for_their_labels_alone():
    memory, rows = filled(), alike_rows(4, 6, 1)
    search = searched(memory, rows, torch.arange(4))
    with memory.draft(search, memory.values[:0]):
        assert memory.write(rows, torch.tensor([6, 7, 8, 9])).slots.tolist() == [300, 301, 302, 303]
        with pytest.raises(ValueError, match="labels must be integers >= 0"):
            memory.write(rows, torch.tensor([0, 1, EMPTY, 3]))


def test_many_slots_are_kept_and_put_back_to_the_bit():
    memory = filled(size=300)
    before = bits(memory)
    with memory.draft() as draft:
        memory.write(alike_rows(290, 6, 5), torch.arange(290))
        memory.write(alike_rows(3, 6, 6), torch.arange(3))
        assert memory.forget(slots=[0, 299]) == 2
    assert bits(memory) == before
    assert len(draft.slots) == len(draft.slots.unique()) and {0, 299} <= {*draft.slots.tolist()}


BY_AGE = [FirstInFirstOut(), AverageOrReplace(age_noise=0.0)]


@pytest.mark.parametrize("update", [*BY_AGE, AverageOrReplace()], ids=str)
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("spare", [4, 30])
def test_the_order_of_giving_up_is_followed_through_changes(monkeypatch, update, count, spare):
    monkeypatch.setattr(drafts, "_MANY", 0)
    monkeypatch.setattr(drafts, "_MOST", spare)
    asked, found = [], writing.eviction_order
    for seed in range(8):
        memory = filled(size=60, update=update, rows=50 + seed % 3 * 10)
        rows, labels = alike_rows(count, 6, seed), torch.arange(count) % 3
        search = searched(memory, rows, labels)
        assert (search.oldest is not None) == (update in BY_AGE)
        for turn in range(4):
            others = memory.write(alike_rows(1 + turn, 6, 50 * seed + turn), torch.arange(1 + turn))
            gone = [] if turn % 2 else [(7 * seed + turn) % 60, int(others.slots[0])]
            memory.forget(slots=gone)
            changed = torch.cat([others.slots, torch.tensor(gone, dtype=torch.int64)]).unique()
            with monkeypatch.context() as watched:
                watched.setattr(writing, "eviction_order", lambda *a: asked.append(a) or found(*a))
                with memory.draft(search, changed) as draft:
                    done = memory.write(rows, labels)
                    # A second write sees the first: its order is another one.
                    again = memory.write(rows, labels)
            with memory.snapshot():
                assert all(map(torch.equal, done, memory.write(rows, labels)))
                assert all(map(torch.equal, again, memory.write(rows, labels)))
            search = draft.search
    # A look at all slots is for the second write, and for an order that has run out.
    assert len(asked) < 64 or update not in BY_AGE


def test_an_order_is_kept_only_where_it_is_worth_it():
    assert searched(filled(), alike_rows(2, 6, 1), torch.arange(2)).oldest is None


class Youngest(FirstInFirstOut):
    """Gives up what was written last."""

    def eviction(self, ages, noise):
        return -ages


def test_the_order_of_a_policy_of_ones_own_is_its_own(monkeypatch):
    monkeypatch.setattr(drafts, "_MANY", 0)
    monkeypatch.setattr(drafts, "_MOST", 4)
    memory = filled(size=60, update=Youngest(), rows=60)
    assert searched(memory, alike_rows(2, 6, 1), torch.arange(2)).oldest is None
