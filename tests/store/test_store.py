"""Workers of one store agree to the bit, and with one memory that is fed the log in order."""

import multiprocessing
import random
from contextlib import ExitStack, closing

import pytest
import torch
from torch import nn

from benchmarks.soak.stores import fault, outcome, work
from benchmarks.store.history import POLICIES, act, digest, opened, plain, rows
from rarememory.classifier import beside_keys
from rarememory.store import StoredClassifier, wrap
from rarememory.store import classifier as store_classifier
from rarememory.store.changes import text_of


@pytest.mark.parametrize("update", POLICIES, ids=str)
def test_workers_in_turn_are_one_memory(url, update):
    alone = plain(update)
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(opened(url, update))) for _ in range(3)]
        for seed in range(24):
            assert act(workers[seed % 3], seed) == act(alone, seed)
        late = stack.enter_context(closing(opened(url, update)))
        assert {worker.catch_up() for worker in [*workers, late]} == {late.version}
        assert {digest(worker) for worker in [*workers, late]} == {digest(alone)}
        assert workers[0].predict(rows(5)) == alone.predict(rows(5))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_workers_that_are_killed_lose_nothing_that_was_acknowledged(kind, request, tmp_path):
    """The short form of `python -m benchmarks.soak --campaigns store_sqlite store_postgresql`."""
    server = request.getfixturevalue("server") if kind == "postgresql" else None
    url = server.database() if server else f"sqlite:///{tmp_path}/birds.db"
    (notes := tmp_path / "notes").mkdir()
    assert outcome(url, notes, random.Random(1), 2, 12, server) == "agreed"


def test_a_note_that_was_written_in_part_is_written_again(tmp_path):
    url, note = f"sqlite:///{tmp_path}/birds.db", tmp_path / "0"
    for acts, rest in ((2, "0-2/0 3 ab"), (4, "")):
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(url, note, 0, acts, 0)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        note.write_text(note.read_text() + rest)
    assert fault(url, tmp_path, workers=1, policy=0) is None


def test_what_the_log_does_not_say_is_seen(tmp_path):
    url = f"sqlite:///{tmp_path}/birds.db"
    work_alone = {"workers": 1, "policy": 0}
    with closing(opened(url)) as one:
        assert all(act(one, turn, once=f"0-{turn}") for turn in range(3))
        noted, note = digest(one), tmp_path / "0"
    note.write_text(f"0-1/0 2 {digest(plain())} True\n")
    assert "other_bits: worker 0 at version 2" in fault(url, tmp_path, **work_alone)
    note.write_text(f"0-9/0 3 {noted} True\n")
    assert "lost: 0-9/0 was acknowledged at 3" in fault(url, tmp_path, **work_alone)
    note.write_text(f"0-2/0 3 {noted} True\n")
    assert fault(url, tmp_path, **work_alone) is None


def test_keys_keep_the_dtype_of_the_store(url):
    one = wrap(nn.Linear(4, 3), store=url, poll=None, memory_size=8)
    with closing(one):
        one.learn(torch.eye(4), ["kea", "weka", "kiwi", "tui"])
        with pytest.raises(ValueError, match=r"keys in torch.float32, .* make them torch.float16"):
            one.half()
        assert one.memory.keys.dtype == torch.float32 and one.to("cpu") is one
        one.learn(torch.eye(4)[:1], ["moa"])
        with closing(wrap(one.model, store=url, poll=None, memory_size=8)) as other:
            assert other.predict(torch.eye(4)) == one.predict(torch.eye(4))


@pytest.mark.parametrize(
    ("buffers", "named"),
    [(["norms"], False), (["norms"], True), (["norms", "confidences"], True)],
)
def test_a_store_of_before_has_what_was_remembered_then(url, buffers, named, monkeypatch):
    """Of format 1, whose slots have no room for what a host said; and so named in format 2."""
    with monkeypatch.context() as patch:
        known = {name: beside_keys.BUFFERS[name] for name in buffers}
        patch.setattr(beside_keys, "BUFFERS", known)
        if not named:
            patch.setattr(store_classifier, "text_of", lambda facts: text_without_buffers(facts))
        with closing(hosted(url)) as old:
            old.learn(torch.eye(4)[:2], ["kea", "weka"])
    with closing(hosted(url)) as new:
        assert sorted(new.classes[-2:]) == ["kea", "weka"]
        new.learn(torch.eye(4)[2:3], ["tui"])
        assert beside_keys.buffers_of(new.memory) == buffers
        with closing(hosted(url)) as other:
            assert other.predict(torch.eye(4)[:3]) == new.predict(torch.eye(4)[:3])


def hosted(url: str) -> StoredClassifier:
    torch.manual_seed(0)
    return wrap(nn.Linear(4, 3), store=url, memory_size=8, poll=None)


def text_without_buffers(facts):
    return text_of({name: part for name, part in facts.items() if name != "buffers"})
