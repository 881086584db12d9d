"""Eight threads use one classifier at once: no answer may be wrong, and nothing may crash.

Each thread has classes of its own, whose features are directions of their own, and knows what it
has taught: a dictionary of labels and refs. What the classifier says of them must be that, whatever
the others do meanwhile. They learn, forget, ask, list, resize, save, load, copy, pickle, refresh.

A try is a round of 50 operations of each thread; 200 rounds are one history, of one seed and one
search. The goal is 20 histories of each of the three searches.
"""

import copy
import itertools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.soak.campaign import Campaign, Tries
from rarememory import Memory, MemoryClassifier

LOOKUPS = ("native", "torch", "faiss")
THREADS, OWN_CLASSES = 8, 4
OPERATIONS, ROUNDS, SEEDS = 50, 200, 20
PATIENCE = 300.0
KEY_DIM, SLOTS = THREADS * OWN_CLASSES, 2 * THREADS * OWN_CLASSES


class Wrong(Exception):
    """An answer was not what the thread had taught."""


class Owner:
    """A thread's classes: what it taught, in a dictionary, and operations that compare with it."""

    def __init__(self, classifier: MemoryClassifier, place: int, seed: int, folder: Path) -> None:
        self.classifier = classifier
        self.place = place
        self.random = random.Random(seed * THREADS + place)
        self.path = folder / f"{place}.safetensors"
        first = place * OWN_CLASSES
        rows = torch.eye(KEY_DIM)[first : first + OWN_CLASSES]
        self.features = {f"{place}.{i}": row for i, row in enumerate(rows)}
        self.taught: dict[str, list[str]] = {}
        self.count = 0

    def round(self) -> None:
        """So many operations, drawn at random."""
        for _ in range(OPERATIONS):
            operation = self.random.choices(_OPERATIONS, _WEIGHTS)[0]
            getattr(self, operation)()

    # Changes

    def learn(self) -> None:
        label = self.random.choice([*self.features])
        ref = f"{label}/{self.count}"
        self.count += 1
        self.classifier.learn(self.features[label], label, ref)
        self.taught[label] = [*self.taught.get(label, []), ref][-32:]

    def forget(self) -> None:
        label = self._some()
        if label:
            slots = self.classifier.forget(label)
            self._same("slots that were forgotten", slots, 1)
            del self.taught[label]

    def forget_refs(self) -> None:
        label = self._some()
        if label:
            ref = self.random.choice(self.taught[label])
            beside = map(str, self.classifier.forget_refs(ref).beside)
            others = [other for other in self.taught.pop(label) if other != ref]
            self._same("refs beside", sorted(beside), sorted(others))

    def resize(self) -> None:
        self.classifier.resize(SLOTS + self.random.randrange(1, SLOTS))

    def refresh(self) -> None:
        label = self._some()
        if label:
            row = self.features[label][None]
            drift = self.classifier.refresh([(row, self.taught[label][-1:])])
            self._same("slots that were refreshed", drift.slots, 1)

    # Questions

    def predict(self) -> None:
        label = self._some()
        if label:
            self._same("prediction", self.classifier.predict(self.features[label]), label)

    def predict_proba(self) -> None:
        label = self._some()
        if label:
            found = self.classifier.predict_proba(self.features[label][None])
            best = found.classes[int(found.values.argmax())]
            self._same("likeliest class", best, label)

    def explain(self) -> None:
        label = self._some()
        if label:
            best = self.classifier.explain(self.features[label], k=1)[0]
            self._same("explanation", (best.label, list(best.refs)), (label, self.taught[label]))

    def read(self) -> None:
        label = self._some()
        if label:
            recall = self.classifier.memory(self.features[label], k=1)
            self._same("score", round(recall.scores.item(), 5), 1.0)

    def list_examples(self) -> None:
        self._compare("examples", self.classifier)

    # Copies

    def save(self) -> None:
        self.classifier.save(self.path)
        self._compare("file", MemoryClassifier.load(self.path, nn.Identity()))

    def copy(self) -> None:
        self._compare("copy", copy.deepcopy(self.classifier))

    def pickle(self) -> None:
        self._compare("pickle", pickle.loads(pickle.dumps(self.classifier)))

    def state(self) -> None:
        other = classifier_of("torch")
        other.load_state_dict(self.classifier.state_dict())
        self._compare("state", other)

    def _some(self) -> str | None:
        """One of the labels that it taught, if there is any."""
        return self.random.choice([*self.taught]) if self.taught else None

    def _compare(self, what: str, classifier: MemoryClassifier) -> None:
        stored = [(str(one.label), list(one.refs)) for one in classifier.examples()]
        mine = {label: refs for label, refs in stored if label in self.features}
        self._same(what, mine, self.taught)
        self._same(f"slots of the {what}", len(stored), len({label for label, _ in stored}))

    def _same(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Wrong(f"{what} of thread {self.place}: {found!r}, not {expected!r}")


_WEIGHT = {
    "learn": 20, "forget": 8, "forget_refs": 3, "resize": 2, "refresh": 2, "predict": 20,
    "predict_proba": 8, "explain": 10, "read": 20, "list_examples": 5, "save": 0.5, "copy": 0.5,
    "pickle": 0.5, "state": 0.5,
}  # fmt: skip
_OPERATIONS, _WEIGHTS = [*_WEIGHT], [*_WEIGHT.values()]


def classifier_of(lookup: str) -> MemoryClassifier:
    """An empty one, whose answers are the nearest examples."""
    memory = Memory(KEY_DIM, SLOTS, k=4, lookup=lookup)
    return MemoryClassifier(nn.Identity(), host=False, memory=memory, reader="nearest")


def owners_of(lookup: str, seed: int, folder: Path) -> list[Owner]:
    """The threads of a history."""
    classifier = classifier_of(lookup)
    return [Owner(classifier, place, seed, folder) for place in range(THREADS)]


def one_round(pool: ThreadPoolExecutor, owners: list[Owner]) -> None:
    """A round of all threads at once.

    Raises:
        Wrong: an answer was wrong.
    """
    for done in [pool.submit(owner.round) for owner in owners]:
        done.result()


def _history(lookup: str, number: int, folder: Path, seed: int) -> Tries:
    """The rounds of the history of this number; after a fault with a new classifier."""
    seed += number
    with ThreadPoolExecutor(THREADS) as pool:
        owners = owners_of(lookup, seed, folder)
        for _ in range(ROUNDS):
            try:
                one_round(pool, owners)
            except Exception as error:
                kind = "wrong" if isinstance(error, Wrong) else "exception"
                yield f"{kind}: {lookup}, seed {seed}: {type(error).__name__}: {error}"
                owners = owners_of(lookup, seed, folder)
            else:
                yield lookup


def _tries(folder: Path, seed: int) -> Tries:
    for number in itertools.count():
        for lookup in LOOKUPS:
            yield from _history(lookup, number, folder, seed)


def _part(lookup: str, number: int) -> Campaign:
    tries = partial(_history, lookup, number)
    return Campaign(f"{lookup}_{number}", ROUNDS, frozenset({lookup}), tries, PATIENCE)


CAMPAIGN = Campaign(
    "threads",
    len(LOOKUPS) * SEEDS * ROUNDS,
    frozenset(LOOKUPS),
    _tries,
    PATIENCE,
    tuple(_part(lookup, number) for number in range(SEEDS) for lookup in LOOKUPS),
)
