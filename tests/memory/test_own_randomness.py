"""The memory's own randomness: whose it is, what it decides, and whom it leaves alone."""

import random

import numpy as np
import torch

from rarememory import (
    AverageOrReplace,
    Memory,
)
from rarememory.memory.updates import slot_noise


def full(seed: int, age_noise: float = 8.0, memory_size: int = 33) -> Memory:
    memory = Memory(64, memory_size, seed=seed, update=AverageOrReplace(age_noise))
    memory.write(torch.randn(memory_size, 64), torch.arange(memory_size))
    return memory


def test_writing_leaves_every_global_generator_alone(unchecked):
    memory = full(seed=3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    rows, labels = torch.ones(5, 64).cumsum(0).cos(), torch.arange(100, 105)
    memory.write(rows, labels)
    memory.write(memory(rows), labels + 9)
    memory.forget(labels=100)
    memory.resize(7)
    memory.clear()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def victims(seed: int, global_seed: int) -> list[int]:
    torch.manual_seed(1)
    memory = full(seed)
    rows = torch.randn(40, 64)
    torch.manual_seed(global_seed)
    return [
        int(memory.write(row, torch.tensor(100 + i)).slots) for i, row in enumerate(rows.split(1))
        for row in [row[0]]
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_memory_whatever_the_global_one():
    assert victims(seed=5, global_seed=1) == victims(seed=5, global_seed=2)


def test_another_seed_gives_up_other_slots():
    assert len({tuple(victims(seed, global_seed=0)) for seed in range(8)}) == 8


def test_the_noise_of_the_ages_is_uniform_in_minus_8_to_8():
    noises = []

    class Listens(AverageOrReplace):
        def eviction(self, ages, noise):
            noises.append(super().eviction(ages, noise) - ages)
            return ages

    memory = full(seed=1, memory_size=129)
    memory.update = Listens()
    for label in range(100):
        memory.write(torch.randn(64), torch.tensor(1000 + label))
    noise = torch.cat(noises)
    assert -8 <= noise.min() < -7.99 and 7.99 < noise.max() < 8
    assert abs(noise.mean()) < 0.16 and abs(noise.var() / (16**2 / 12) - 1) < 0.03
    assert len(set(noise.tolist())) == len(noise) == 12900
    counts = noise.histc(16, -8, 8) / len(noise)
    assert (counts - 1 / 16).abs().max() < 0.01


def test_the_noise_decides_between_slots_8_writes_apart_and_no_further():
    update = AverageOrReplace()
    memory = Memory(64, 100, update=update)
    for label, row in enumerate(torch.randn(100, 64)):
        memory.write(row, torch.tensor(label))
    slots = [
        int(memory.write(row, torch.tensor(1000 + i)).slots)
        for i, row in enumerate(torch.randn(60, 64))
    ]
    late = [slot - i for i, slot in enumerate(slots)]
    assert max(late) <= 16 and min(late) >= -16 and len(set(late)) > 5


def test_the_noise_of_a_write_is_that_of_its_seed_and_clock():
    memory = full(seed=11)
    clock = memory.clock.clone()
    noise = slot_noise(memory.seed, clock, 33)
    done = memory.write(torch.randn(64), torch.tensor(77))
    assert int(done.slots) == int(noise.argmax())  # all ages were 0
