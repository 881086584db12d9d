"""Threads share one classifier: labels, refs, memory and fitted reader are of one moment."""

import copy
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from threading import Barrier

import pytest
import torch
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap
from rarememory.base import locks
from rarememory.classifier import locked_module
from tests.memories import assert_waits

SECONDS = 0.5
THREADS = 4

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(autouse=True)
def often_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def bare(memory_size: int = 64, **options: object) -> MemoryClassifier:
    return wrap(nn.Identity(), host=False, memory=Memory(8, memory_size), **options)


def together(*tasks):
    """What each task gives, each in a thread of its own; all begin at once."""
    barrier = Barrier(len(tasks))

    def run(task):
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def until_the_end(*tasks):
    end = time.monotonic() + SECONDS

    def repeated(task):
        while time.monotonic() < end:
            task()

    together(*(partial(repeated, task) for task in tasks))


def test_classes_that_threads_learn_at_once_get_numbers_of_their_own():
    images, names = torch.eye(8), ["kea", "weka", "takahe", "kakapo"]
    for _ in range(20):
        classifier = bare()
        together(
            *(partial(classifier.learn, images[i], name, name) for i, name in enumerate(names))
        )
        assert sorted(classifier.classes) == sorted(names)
        assert classifier.predict(images[:4]) == names
        assert {(one.label, *one.refs) for one in classifier.examples()} == {(n, n) for n in names}


@pytest.mark.parametrize("reader", ["fitted", "nearest"])
def test_answers_beside_learning_and_forgetting_are_of_known_classes(reader, tmp_path):
    classifier = bare(reader=reader)
    images = torch.eye(8)
    fixed = ["kea", "weka"]
    classifier.learn(images[:2], fixed, ["0.png", "1.png"])
    allowed = {*fixed, "takahe", "unknown"}

    def change():
        classifier.learn(images[2], "takahe", "2.png")
        classifier.resize(48)
        classifier.forget("takahe")
        classifier.resize(64)

    def read():
        assert classifier.predict(images[:2]) == fixed
        assert classifier.predict(images[2]) in allowed
        found = classifier.predict_proba(images[:3])
        assert found.values.shape == (3, len(found.classes))
        for row in classifier.explain(images[:3], k=3):
            assert {(one.label, one.ref) for one in row} <= {
                ("kea", "0.png"),
                ("weka", "1.png"),
                ("takahe", "2.png"),
            }
        assert {one.label for one in classifier.examples()} >= set(fixed)
        assert classifier.familiarity(images).shape == (8,)

    def save():
        path = tmp_path / "birds.safetensors"
        classifier.save(path)
        for other in (
            MemoryClassifier.load(path, nn.Identity()),
            copy.deepcopy(classifier),
            pickle.loads(pickle.dumps(classifier)),
        ):
            assert other.predict(images[:2]) == fixed
            known = [(one.label, *one.refs) for one in other.examples()]
            assert known in (
                [("kea", "0.png"), ("weka", "1.png")],
                [("kea", "0.png"), ("weka", "1.png"), ("takahe", "2.png")],
            )

    def load_state():
        other = bare(reader=reader)
        other.load_state_dict(classifier.state_dict())
        assert other.predict(images[:2]) == fixed

    until_the_end(change, read, read, save, load_state)


def test_a_refresh_beside_forgetting_puts_no_key_into_an_emptied_slot():
    images = torch.nn.functional.normalize(torch.randn(32, 8))
    classifier = bare()
    refs = [f"{i}.png" for i in range(32)]
    labels = [f"class {i % 8}" for i in range(32)]
    classifier.learn(images, labels, refs)

    def refresh():
        classifier.refresh([(images, refs)])

    def forget_and_learn():
        classifier.forget("class 3")
        some = slice(3, 32, 8)
        classifier.learn(images[some], labels[some], refs[some])

    until_the_end(refresh, refresh, forget_and_learn)
    memory = classifier.memory
    assert torch.equal(memory.keys.any(1), memory.values >= 0)


def test_the_first_batches_of_threads_agree_on_what_was_guessed():
    for _ in range(5):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        classifier = wrap(model)
        images = torch.randn(THREADS, 4)
        together(*(partial(classifier.learn, images[i], f"new {i}") for i in range(THREADS)))
        assert len(classifier.memory) == THREADS
        assert classifier.classes[:3] == [0, 1, 2] and len(classifier.classes) == 3 + THREADS


IMAGES, NAMES, REFS = torch.eye(8), ["kea", "weka", "kakapo"] * 2, [f"{i}.png" for i in range(6)]


def taught() -> MemoryClassifier:
    birds = bare(8)
    birds.learn(IMAGES[:6], NAMES, REFS)
    return birds


READS = {
    "classes": lambda birds: birds.classes,
    "blend_weights": lambda birds: birds.blend_weights,
    "forward": lambda birds: birds(IMAGES),
    "predict": lambda birds: birds.predict(IMAGES),
    "predict_proba": lambda birds: birds.predict_proba(IMAGES),
    "explain": lambda birds: birds.explain(IMAGES),
    "familiarity": lambda birds: birds.familiarity(IMAGES),
    "loss": lambda birds: birds.loss(IMAGES[:1], ["kea"]),
    "drift": lambda birds: birds.drift([(IMAGES[:6], REFS)]),
    "protected": lambda birds: birds.protected,
    "examples": MemoryClassifier.examples,
    "doctor": MemoryClassifier.doctor,
    "state_dict": MemoryClassifier.state_dict,
    "a copy": copy.deepcopy,
    "a pickle": pickle.dumps,
    "a merge into another": lambda birds: bare().merge(birds),
}
WRITES = {
    "learn": lambda birds: birds.learn(IMAGES[6], "takahe"),
    "forget": lambda birds: birds.forget("kea"),
    "forget_refs": lambda birds: birds.forget_refs("1.png"),
    "merge": lambda birds: birds.merge(bare()),
    "resize": lambda birds: birds.resize(7),
    "refresh": lambda birds: birds.refresh([(IMAGES[:6], REFS)]),
    "protect": lambda birds: birds.protect("kea"),
    "unprotect": lambda birds: birds.unprotect("kea"),
    "calibrate": lambda birds: birds.calibrate(IMAGES[:6], NAMES),
    "fit_threshold": MemoryClassifier.fit_threshold,
    "snapshot": MemoryClassifier.snapshot,
    "read_only": lambda birds: birds.memory.read_only(),
    "load_state_dict": lambda birds: birds.load_state_dict(bare(8).state_dict()),
}


@pytest.mark.parametrize(
    ("held", "verbs"), [("writing", READS | WRITES), ("reading", WRITES)], ids=["write", "read"]
)
def test_each_verb_waits_for_what_it_must_not_run_beside(held, verbs, tmp_path):
    path = tmp_path / "birds.safetensors"
    if held == "writing":
        verbs = {**verbs, "save": lambda birds: birds.save(path)}
    assert_waits(verbs, taught, held)


class Watched(MemoryClassifier):
    """Its labels may be looked at, changed and copied inside its lock only."""

    watched = False

    def check(self) -> None:
        lock = self.memory.lock
        assert not self.watched or locks._is_held(lock._mine.lock) or locks._is_held(lock._mutex)

    def __getattribute__(self, name):
        if name == "_book":
            self.check()
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        if name == "_book" and self.watched:
            self.check()
        super().__setattr__(name, value)


@pytest.mark.parametrize("verb", (ALL := READS | WRITES).values(), ids=ALL)
def test_labels_and_memory_are_of_one_block_of_the_lock(verb, monkeypatch):
    birds = Watched(nn.Identity(), host=False, memory=Memory(8, 8))
    birds.learn(IMAGES[:6], NAMES, REFS)
    copied = locked_module.deepcopy
    monkeypatch.setattr(locked_module, "deepcopy", lambda part: birds.check() or copied(part))
    birds.watched = True
    done = verb(birds)
    if isinstance(done, AbstractContextManager):
        with done:
            pass


def test_a_file_is_of_one_block_of_the_lock(tmp_path):
    birds = Watched(nn.Identity(), host=False, memory=Memory(8, 8))
    birds.learn(IMAGES[:6], NAMES, REFS)
    birds.watched = True
    birds.save(tmp_path / "birds.safetensors")
