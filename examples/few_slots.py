"""Few slots for many classes: how many each may have, which examples stay, who is never given up.

python examples/few_slots.py
"""

import torch
from torch import nn

from rarememory import FirstInFirstOut, Herding, Memory, MemoryClassifier, PerClass

torch.manual_seed(0)
centres = torch.randn(30, 32)


def seen(label: int, count: int) -> torch.Tensor:
    """So many examples of a class, some of them far from its centre."""
    return centres[label] + torch.rand(count, 1) * 3 * torch.randn(count, 32)


def right(model: MemoryClassifier) -> float:
    """The share of new examples of all classes that are known."""
    labels = list(range(30)) * 20
    found = model.predict(torch.cat([seen(label, 1) for label in labels]))
    return sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)


# Thirty classes come one after the other, in sixty slots.
for name, update in (
    ("first in, first out", FirstInFirstOut()),
    ("two a class, the oldest go", PerClass(2)),
    ("two a class, by herding", PerClass(Herding(2))),
):
    model = MemoryClassifier(nn.Identity(), host=False, memory=Memory(32, 60, update=update))
    for label in range(30):
        for image in seen(label, 20):
            model.learn(image, label)
    print(f"{name}: {len(model.classes)} classes are known, {right(model):.0%} right")

# The same choice, once, when all examples of a class are there.
model = MemoryClassifier(nn.Identity(), host=False, memory_size=3)
model.learn(seen(0, 20), [0] * 20, refs=list(range(20)), select=Herding(2))
print(f"kept of class 0: {[ref for one in model.examples() for ref in one.refs]}")
model.protect(0)
for label in range(1, 9):
    model.learn(seen(label, 1)[0], label)
print(f"protected {model.protected}, known {model.classes}")
