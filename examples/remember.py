"""Remember vectors by example: write, ask, explain, forget.

    python examples/remember.py

Any encoder will do for the vectors; here they are made up.
"""

import torch

from rarememory import EMPTY, Memory

torch.manual_seed(0)
KEA, KAKAPO, WEKA = range(3)
birds = torch.randn(3, 64)  # what an encoder would make of a kea, a kakapo and a weka


def seen_again(bird: int) -> torch.Tensor:
    """Another picture of the same bird: nearly the same vector."""
    return birds[bird] + 0.3 * torch.randn(64)


memory = Memory(key_dim=64, memory_size=100, k=3)
print("an empty memory answers nothing:", memory(birds).prediction.tolist())

# One example of each is enough, and nothing is trained.
memory.write(birds[[KEA, KAKAPO]], torch.tensor([KEA, KAKAPO]))
recall = memory(seen_again(KAKAPO))
print("a kakapo seen again:", recall.prediction.item(), f"({recall.confidence:.0%} sure)")

# Which remembered examples answered, and how near they are.
for slot, value, score in zip(recall.slots, recall.values, recall.scores, strict=True):
    if slot != EMPTY:
        print(f"  slot {slot}: bird {value}, cosine {score:.2f}")

# A right answer is averaged into its key; a wrong one takes a slot of its own.
write = memory.write(torch.stack([seen_again(KEA), birds[WEKA]]), torch.tensor([KEA, WEKA]))
print("hits:", write.hits.tolist(), "in slots", write.slots.tolist())

# Try something, and have everything undone.
with memory.snapshot():
    memory.forget(labels=KEA)
    print("without keas, a kea is taken for bird", memory(birds[KEA]).prediction.item())
print("and known again:", memory(birds[KEA]).prediction.item() == KEA)
