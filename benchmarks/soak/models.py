"""Eight threads ask one wrapped model for features at once, while one of them learns and forgets.

The model stays in training mode, where batch normalisation and dropout would change an answer. A
call is right if it gives the features of the thread's own image to the bit; if what was learnt is
the learner's image; and if the modes of the model are what they were.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.soak.campaign import Campaign, Tries
from rarememory import MemoryClassifier, wrap

THREADS, CALLS = 8, 25
MODES = [True, True, False, True]


def _tries(folder: Path, seed: int) -> Tries:
    # Threads take turns after each few instructions, so that a race is met soon.
    sys.setswitchinterval(1e-5)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    for layer, training in zip(model, MODES, strict=True):
        layer.train(training)
    classifier = wrap(model, memory_size=8)
    images = torch.rand(THREADS, 1, 6)
    own = [(image, classifier.features(image)) for image in images]
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            for outcomes in pool.map(partial(_calls, classifier, own), range(THREADS)):
                yield from outcomes
            modes = [layer.training for layer in model]
            if modes != MODES:
                yield f"modes: {modes}"


def _calls(classifier: MemoryClassifier, own: list[tuple[Tensor, Tensor]], place: int) -> list[str]:
    one_call = _learn if place == 0 else _ask
    return [one_call(classifier, *own[place]) for _ in range(CALLS)]


def _ask(classifier: MemoryClassifier, image: Tensor, features: Tensor) -> str:
    return "right" if torch.equal(classifier.features(image), features) else "wrong: features"


def _learn(classifier: MemoryClassifier, image: Tensor, features: Tensor) -> str:
    classifier.learn(image[0], "kea")
    score = classifier.memory(features, k=1).scores.item()
    classifier.forget("kea")
    return "right" if score > 1 - 1e-6 else f"wrong: learnt at a cosine of {score:.4f}"


CAMPAIGN = Campaign("models", 10_000, frozenset({"right"}), _tries)
