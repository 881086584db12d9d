"""What learning does is foreseen under the lock, and is what a memory without a store does."""

import random
import time
from contextlib import closing

import pytest
import torch
from torch import nn

from benchmarks.store.history import digest, opened, plain, rows
from rarememory import FirstInFirstOut, Herding, Memory, MemoryClassifier
from rarememory.memory import writing
from rarememory.store import classifier as store_classifier
from rarememory.store import foreseeing, log, wrap
from rarememory.store.session import Conflict


@pytest.fixture
def counted(monkeypatch):
    """How often each function was called, and gave something."""
    counts = dict.fromkeys(("foreseen", "foreseen_again", "write"), 0)

    def count(owner, name):
        function = getattr(owner, name)

        def counting(*args, **kwargs):
            found = function(*args, **kwargs)
            counts[name] += found is not None
            return found

        monkeypatch.setattr(owner, name, counting)

    count(store_classifier, "foreseen")
    count(store_classifier, "foreseen_again")
    count(writing, "write")
    return counts


def test_who_learns_beside_others_writes_nothing_to_see_what_that_does(url, counted):
    alone = plain()
    with closing(opened(url)) as one, closing(opened(url)) as other:
        for turn in range(30):
            learn = (rows(3, turn), ["kea", "weka", 7], [f"{turn}.png", None, "c"])
            expected = alone.learn(*learn)
            learnt = (one, other)[turn % 2].learn(*learn)
            assert torch.equal(learnt.slots, expected.slots)
            assert torch.equal(learnt.hits, expected.hits) and learnt.lost == expected.lost
            if turn == 1:
                counted.update(dict.fromkeys(counted, 0))
        # Those of the memory without a store.
        assert counted == {"foreseen": 28, "foreseen_again": 28, "write": 0}
        assert one.catch_up() == other.catch_up() == 30
        assert digest(one) == digest(other) == digest(alone)
        assert one.examples() == other.examples() == alone.examples()


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_come_and_go_are_those_of_one_memory(tmp_path, counted, seed):
    draw, alone, labels = random.Random(seed), plain(), [*range(12), "kea", True, 1.0]
    address = f"sqlite:///{tmp_path}/birds.db"
    with closing(opened(address)) as one, closing(opened(address)) as other:
        for turn in range(60):
            chosen = draw.choices(labels, k=draw.choice([1, 3, 8]))
            given = (rows(len(chosen), turn), chosen)
            learnt = draw.choice([one, other]).learn(*given)
            assert learnt.lost == alone.learn(*given).lost
            if draw.random() < 0.1:
                label = draw.choice(alone.classes)
                one.forget(label), alone.forget(label)
            one.catch_up(), other.catch_up()
            assert digest(one) == digest(other) == digest(alone)
            assert one.classes == other.classes == alone.classes
    assert counted["foreseen"] > 10


def test_the_host_and_the_lengths_of_features_are_remembered_too(url, counted):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(9, 3, 4)
    alone = MemoryClassifier(model, memory_size=8)
    stores = [wrap(model, store=url, memory_size=8, poll=None) for _ in range(2)]
    with closing(stores[0]) as one, closing(stores[1]) as other:
        for turn, batch in enumerate(images):
            alone.learn(batch, [0, 1, "kea"])
            stores[turn % 2].learn(batch, [0, 1, "kea"])
        one.catch_up(), other.catch_up()
        assert counted["foreseen_again"] > 5
        assert digest(one) == digest(other) == digest(alone)


@pytest.mark.parametrize("given", [{"average": True}, {"select": Herding(1)}])
def test_rows_that_are_not_one_for_each_example_are_not_foreseen(url, counted, given):
    alone = plain()
    with closing(opened(url)) as one, closing(opened(url)) as other:
        for turn in range(4):
            learn = (rows(3, turn), ["kea", "weka", "kea"])
            expected = alone.learn(*learn, **given)
            learnt = (one, other)[turn % 2].learn(*learn, **given)
            assert torch.equal(learnt.slots, expected.slots)
        one.catch_up()
        assert counted["foreseen"] == 0 and digest(one) == digest(alone)


@pytest.mark.parametrize("act", ["about", "forget", "new label", "fit"])
def test_what_another_has_done_beside_the_slots_is_decided_upon(url, counted, act):
    alone, late = plain(), (rows(2, 9), ["kea", "tui"])
    acts = {
        "about": lambda who: (who.about.update(place="a hill"), who.learn(rows(1, 5), ["kea"])),
        "forget": lambda who: who.forget("tui"),
        "new label": lambda who: who.learn(rows(1, 5), ["moa"]),
        "fit": lambda who: who.fit_threshold(false_accept_rate=0.5),
    }
    with closing(opened(url)) as one, closing(opened(url)) as other:
        for who in (one, alone):
            who.learn(rows(4), ["kea", "tui"] * 2)
        other.catch_up()
        for who in (one, alone):
            acts[act](who)
        counted.update(dict.fromkeys(counted, 0))
        other.learn(*late)
        assert (counted["foreseen"], counted["foreseen_again"]) == (1, 0)
        alone.learn(*late)
        one.catch_up()
        assert digest(one) == digest(other) == digest(alone)
        assert one.about == other.about == alone.about


def test_of_many_slots_some_tell_that_a_label_has_others(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(foreseeing, "_LOOKED_AT", (5, 9))
    address, memories = f"sqlite:///{tmp_path}/birds.db", []
    for _ in range(2):
        memories.append(Memory(8, 24, update=FirstInFirstOut(), seed=3))
    alone = MemoryClassifier(nn.Identity(), host=False, memory=memories[0])
    with closing(wrap(nn.Identity(), host=False, memory=memories[1], store=address)) as one:
        for turn in range(40):
            learn = (rows(2, turn), [turn % 3, 5 if turn % 9 == 0 else turn % 4])
            assert one.learn(*learn).lost == alone.learn(*learn).lost
            assert digest(one) == digest(alone) and one.classes == alone.classes
    assert counted["foreseen"] > 10


def test_a_conflict_is_tried_again_on_what_has_come_meanwhile(url, counted, monkeypatch):
    alone, write, refused = plain(), log._write, []

    def refuse(*args):
        write(*args)
        if not refused:
            refused.append(1)
            raise Conflict("could not serialize access")

    with closing(opened(url)) as one, closing(opened(url)) as other:
        for who in (one, alone):
            who.learn(rows(4), ["kea", "tui"] * 2)
        other.catch_up()
        for who in (one, alone):
            who.learn(rows(2, 1), ["kea", "tui"])
        monkeypatch.setattr(log, "_write", refuse)
        monkeypatch.setattr(time, "sleep", lambda _: one.learn(rows(3, 2), ["tui"] * 3))
        learnt = other.learn(rows(2, 3), ["kea", "tui"])
        monkeypatch.undo()
        alone.learn(rows(3, 2), ["tui"] * 3)
        assert torch.equal(learnt.slots, alone.learn(rows(2, 3), ["kea", "tui"]).slots)
        one.catch_up()
        assert refused and digest(one) == digest(other) == digest(alone)
    assert counted["foreseen_again"] == 2
