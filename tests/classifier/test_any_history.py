"""Any history of a classifier leaves what a dictionary of labels and refs would remember."""

import copy
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from rarememory import Memory, MemoryClassifier

LABELS = ["kea", 1, True, ("weka", 2), 0.5, "kakapo"]
KEY_DIM = len(LABELS)
SIZES = st.integers(len(LABELS), 40)
ANY = st.integers(0, len(LABELS) - 1)
SOME = st.lists(ANY, min_size=1, max_size=4, unique=True)
MAX_REFS = 32
# The example of each label, of no other's direction: whatever is remembered of it is in one slot.
IMAGES = torch.eye(KEY_DIM)


class History(RuleBasedStateMachine):
    """The classifier, and beside it the labels (by their place) and the refs of each."""

    def __init__(self):
        super().__init__()
        self.refs: dict[int, list[str]] = {}
        self.count = 0

    @initialize(reader=st.sampled_from(["nearest", "fitted"]), size=SIZES)
    def begin(self, reader, size):
        memory = Memory(KEY_DIM, size, lookup="torch")
        self.birds = MemoryClassifier(nn.Identity(), host=False, memory=memory, reader=reader)

    def new_refs(self, places):
        """A ref for each, noted in the dictionary."""
        made = [f"{self.count + i}.png" for i in range(len(places))]
        self.count += len(places)
        for place, ref in zip(places, made, strict=True):
            self.refs[place] = [*self.refs.get(place, []), ref][-MAX_REFS:]
        return made

    @rule(places=SOME, average=st.booleans())
    def learn(self, places, average):
        labels = [LABELS[place] for place in places]
        refs = self.new_refs(places)
        learnt = self.birds.learn(IMAGES[places], labels, refs, average=average)
        assert not learnt.lost

    @rule(place=ANY)
    def learn_one_without_a_ref(self, place):
        self.birds.learn(IMAGES[place], LABELS[place])
        self.refs.setdefault(place, [])

    @rule(place=ANY)
    def forget(self, place):
        if place in self.refs:
            assert self.birds.forget(LABELS[place]) == 1
            del self.refs[place]
        else:
            with pytest.raises(ValueError, match="is not known here"):
                self.birds.forget(LABELS[place])

    @precondition(lambda self: any(self.refs.values()))
    @rule(data=st.data())
    def forget_a_ref(self, data):
        place = data.draw(st.sampled_from([place for place, refs in self.refs.items() if refs]))
        ref = data.draw(st.sampled_from(self.refs[place]))
        forgotten = self.birds.forget_refs(ref)
        others = [other for other in self.refs.pop(place) if other != ref]
        assert forgotten.slots == 1 and sorted(forgotten.beside) == sorted(others)

    @rule(size=SIZES)
    def resize(self, size):
        self.birds.resize(size)
        assert len(self.birds.memory.values) == size

    @rule(places=SOME, place=ANY, size=SIZES)
    def try_in_a_snapshot(self, places, place, size):
        with self.birds.snapshot():
            self.birds.learn(IMAGES[places], [LABELS[place] for place in places])
            if place in self.refs:
                self.birds.forget(LABELS[place])

    @precondition(lambda self: any(self.refs.values()))
    @rule()
    def refresh(self):
        known = [(place, refs[-1]) for place, refs in self.refs.items() if refs]
        places, refs = [place for place, _ in known], [ref for _, ref in known]
        drift = self.birds.refresh([(IMAGES[places], refs)])
        assert drift.slots == len(known) and drift.unmet == len(self.refs) - len(known)
        assert drift.cosine == pytest.approx(1)

    @rule(how=st.sampled_from(["save", "copy", "pickle", "state"]))
    def go_on_with_another(self, how):
        if how == "save":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "birds.safetensors"
                self.birds.save(path)
                self.birds = MemoryClassifier.load(path, nn.Identity(), lookup="torch")
        elif how == "copy":
            self.birds = copy.deepcopy(self.birds)
        elif how == "pickle":
            self.birds = pickle.loads(pickle.dumps(self.birds))
        else:
            memory = Memory(KEY_DIM, len(self.birds.memory.values), lookup="torch")
            other = MemoryClassifier(nn.Identity(), host=False, memory=memory)
            other.load_state_dict(self.birds.state_dict())
            self.birds = other

    @rule(places=SOME)
    def learn_in_threads(self, places):
        refs = self.new_refs(places)
        tasks = [
            partial(self.birds.learn, IMAGES[place], LABELS[place], ref)
            for place, ref in zip(places, refs, strict=True)
        ]
        tasks += [partial(self.birds.predict, IMAGES), self.birds.examples]
        with ThreadPoolExecutor(len(tasks)) as pool:
            for done in [pool.submit(task) for task in tasks]:
                done.result()

    @invariant()
    def it_remembers_what_the_dictionary_does(self):
        known = {_typed(LABELS[place]): refs for place, refs in self.refs.items()}
        stored = self.birds.examples()
        assert len(stored) == len(known) == len(self.birds.memory)
        assert {_typed(one.label): list(one.refs) for one in stored} == known
        assert {*map(_typed, self.birds.classes)} == known.keys()

    @invariant()
    def it_answers_what_it_was_taught(self):
        answers = self.birds.predict(IMAGES)
        for place in self.refs:
            assert _typed(answers[place]) == _typed(LABELS[place])
            best = self.birds.explain(IMAGES[place], k=1)[0]
            assert _typed(best.label) == _typed(LABELS[place])
            assert list(best.refs) == self.refs[place] and best.score == pytest.approx(1)
        if not self.refs:
            assert set(answers) == {"unknown"}


def _typed(label):
    """Labels of different types are different labels, and to Python 1 is True."""
    return type(label).__name__, label


@pytest.mark.usefixtures("unchecked")
class TestHistory(History.TestCase):
    settings = settings(max_examples=16, stateful_step_count=20, deadline=None, derandomize=True)
