"""A stream that never ends: answer first, then learn, with room for so many examples and no more.

    python examples/stream.py

The classes drift away one after another; the memory gives up what was not written for longest.
"""

import torch
from torch import nn

from rarememory import Memory, MemoryClassifier

torch.manual_seed(0)
directions = torch.randn(50, 16)
# A memory that changes before every question is read by its nearest examples.
model = MemoryClassifier(nn.Identity(), host=False, memory=Memory(16, 24), reader="nearest")

right: list[bool] = []
for day in range(600):
    label = day // 15 + int(torch.randint(0, 10, ()))  # ten classes are about on any day
    seen = directions[label] + 0.4 * torch.randn(16)
    known = label in model.classes
    if known:
        right.append(model.predict(seen) == label)
    model.learn(seen, label, refs=f"day {day}")

print(f"of what had been met before, {sum(right) / len(right):.0%} was known again")
print(f"{len(model.memory)} slots hold {len(model.classes)} classes: {model.classes}")
nearest = model.explain(directions[model.classes[-1]], k=1)[0]
print(f"class {nearest.label} rests on {nearest.refs}")

# Yesterday's examples of one class are to go, by name.
forgotten = model.forget_refs(nearest.refs[-1])
print(f"forgotten: {forgotten.slots} slot, and with it {len(forgotten.beside)} other examples")
