"""A memory for each of many users, all of them asked and taught in one call.

    python examples/many_users.py

Every user gives the same things names of their own. What one says changes nothing for the others.
"""

import torch
from torch.nn.functional import normalize

from rarememory import BatchedMemory, Memory

torch.manual_seed(0)
USERS, THINGS, WIDTH = 64, 20, 32
things = normalize(torch.randn(THINGS, WIDTH), dim=1)  # what an encoder makes of each thing
names = torch.stack([torch.randperm(THINGS) for _ in range(USERS)])  # of each thing, by each user

users = BatchedMemory([Memory(WIDTH, memory_size=128, seed=n) for n in range(USERS)])


def seen(thing: torch.Tensor) -> torch.Tensor:
    """What the encoder makes of a thing that each user sees, a little different each time."""
    return things[thing] + 0.05 * torch.randn(*thing.shape, WIDTH)


def right(answers: torch.Tensor, thing: torch.Tensor) -> float:
    """The share of answers that are the name that this user gave the thing."""
    return (answers == names.gather(1, thing)).float().mean().item()


# Each user sees three things at a time, and says what they are called.
for _ in range(20):
    shown = torch.randint(THINGS, (USERS, 3))
    users.write(seen(shown), names.gather(1, shown))

everything = torch.arange(THINGS).expand(USERS, THINGS)
asked = seen(everything)
answers = users(asked, k=1).prediction
print(f"after 20 times three things: {right(answers, everything):.0%} are called as the user does")

# One user goes: their memory is emptied, and no other one is changed.
gone = torch.arange(USERS) == 5
print(f"forgotten: {int(users.forget(gone).sum())} slots of one user")
after = users(asked, k=1).prediction
print(f"that user's memory answers {after[5].unique().tolist()}, EMPTY; ", end="")
print(f"the others' answers are the same: {torch.equal(after[~gone], answers[~gone])}")

# A user's memory by itself, to be stored or to move elsewhere.
alone = users.unbind()[7]
print(f"user 7 alone: {alone}")
