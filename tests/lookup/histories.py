"""Memories whose searches keep an index, and random changes that the index has to follow."""

import torch
from hypothesis import strategies as st

from rarememory import EMPTY, Memory
from tests.memories import holding


def clustered(slots: int, key_dim: int = 16, size: int = 20) -> torch.Tensor:
    """Keys of unit length, `size` of them around each centre, in no order."""
    centres = torch.randn(slots // size + 1, key_dim)
    near = centres[torch.randint(len(centres), (slots,))] + 0.2 * torch.randn(slots, key_dim)
    return torch.nn.functional.normalize(near, dim=1)


def filled(slots: int = 1500, **options: object) -> Memory:
    return holding(clustered(slots), list(range(slots)), **options)


def exact(memory: Memory, queries: torch.Tensor, k: int) -> torch.Tensor:
    twin = Memory(*memory.keys.T.shape, lookup="torch").to(memory.keys.dtype)
    twin.load_state_dict(memory.state_dict())
    return twin(queries, k=k).slots


def recall_of(memory: Memory, queries: torch.Tensor, k: int) -> float:
    """Share of the true neighbours that were found."""
    truth, found = exact(memory, queries, k), memory(queries, k=k).slots
    return (truth.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean().item()


def near_keys(memory: Memory, count: int = 100) -> torch.Tensor:
    """Queries close to random keys of the memory."""
    there = (memory.values != EMPTY).nonzero().squeeze(1)
    slots = there[torch.randint(len(there), (count,))]
    return memory.keys[slots] + 0.05 * torch.randn(count, memory.keys.shape[1])


VERBS = ["write", "write", "write recall", "forget", "resize", "load", "snapshot", "edit", "clear"]
STEPS = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(1, 60), st.integers(0, 9999), st.booleans()),
    max_size=10,
)
"""Verb, rows, seed, and whether a read follows."""


def change(memory: Memory, verb: str, count: int, seed: int) -> None:
    """One step of a history; `seed` decides what a verb leaves open."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, memory.keys.shape[1], generator=generator)
    labels = torch.randint(0, 9999, (count,), generator=generator)
    some = torch.randperm(len(memory.keys), generator=generator)[:count]
    if verb == "write":
        memory.write(rows, labels, mask=labels % 5 > 0 if seed % 2 else None)
    elif verb == "write recall":
        memory.write(memory(rows), labels)
    elif verb == "forget":
        memory.forget(slots=some)
    elif verb == "resize":
        memory.resize(max(1, len(memory.keys) + (seed % 3 - 1) * count))
    elif verb == "load":
        state = memory.state_dict()
        for name in ("keys", "values", "written"):
            state[name] = state[name].flip(0)
        memory.load_state_dict(state)
    elif verb == "snapshot":
        with memory.snapshot():
            memory.write(rows, labels)
            memory.forget(slots=some)
            memory(rows)
    elif verb == "edit":
        memory.keys[some] = torch.nn.functional.normalize(rows, dim=1)
        memory.values[some] = labels
    elif seed % 4 == 0:
        memory.clear()
