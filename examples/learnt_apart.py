"""Parts of a data set learnt apart: joined, asked about some classes only, and kept as a table.

python examples/learnt_apart.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rarememory import FirstInFirstOut, Memory, MemoryClassifier
from rarememory.integrations.tables import read_table, write_table

torch.manual_seed(0)
BIRDS = ["kea", "weka", "tui", "moa", "ruru", "kakapo"]
centres = torch.randn(6, 16)
encoder = torch.nn.Identity()  # in earnest a network without its head


def seen(birds: list[str]) -> torch.Tensor:
    """One new example of each."""
    return torch.stack([centres[BIRDS.index(bird)] + 0.6 * torch.randn(16) for bird in birds])


def classifier() -> MemoryClassifier:
    """One that has a slot for each example, and counts which of them answer."""
    memory = Memory(16, 60, update=FirstInFirstOut(), count_usage=True)
    return MemoryClassifier(encoder, host=False, memory=memory)


# Each part knows four of the birds; two of them are in both.
north, south = classifier(), classifier()
for part, birds, name in ((north, BIRDS[:4], "n"), (south, BIRDS[2:], "s")):
    for n in range(5):
        part.learn(seen(birds), birds, refs=[f"{name}{n}-{bird}.png" for bird in birds])
taken = north.merge(south)
print(f"{taken} examples taken over: {len(north.memory)} of {len(north.classes)} birds")

# Asked about all of them, and which of two it is.
queries = seen(BIRDS * 20)
print(
    "right:", sum(a == b for a, b in zip(north.predict(queries), BIRDS * 20, strict=True)), "of 120"
)
print("a tui or a ruru?", north.predict(queries[2:5:2], among=["tui", "ruru"]))

# What answered, and what never did.
north.memory.record(north.memory(north.features(queries)))
numbers = north.memory.stats()
print(f"{numbers['answered']:.0%} of the examples answered, {numbers['reads']:.0f} read recorded")

with TemporaryDirectory() as folder:
    table = Path(folder, "birds.npz")  # or .parquet; to_frame() gives a frame of pandas
    write_table(north, table)
    again = classifier()
    read_table(again, table)
print("the same from a table:", again.predict(queries) == north.predict(queries))
print("usage too:", int(again.memory.usage.uses.sum()), "answers")
