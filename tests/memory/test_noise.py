"""The memory's own randomness, against SplitMix64 in Python's integers."""

import pytest
import torch

from rarememory.memory.updates import slot_noise

ALL = 2**64 - 1

pytestmark = pytest.mark.usefixtures("engine")


def split_mix(seed: int, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & ALL
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & ALL
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
        numbers.append(z ^ (z >> 31))
    return numbers


def noise(seed: int, clock: int, memory_size: int) -> list[float]:
    return slot_noise(torch.tensor(seed), torch.tensor(clock), memory_size).tolist()


def test_the_judge_gives_the_published_numbers_of_split_mix_64():
    assert split_mix(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert split_mix(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("memory_size", [1, 7, 33, 129])
@pytest.mark.parametrize("seed", [0, 1234567, 2**63 - 1, -1, -(2**63)])
def test_the_noise_is_split_mix_64_mapped_to_minus_1_to_1(memory_size, seed):
    truth = [(z >> 11) * 2.0**-52 - 1 for z in split_mix(seed & ALL, 5 * memory_size)]
    for clock in range(5):
        part = truth[clock * memory_size : (clock + 1) * memory_size]
        assert noise(seed, clock, memory_size) == part


def test_the_noise_of_a_far_clock_does_not_overflow():
    clock, memory_size = 10**15, 8192
    seed = (3 + clock * memory_size * 0x9E3779B97F4A7C15) & ALL
    truth = [(z >> 11) * 2.0**-52 - 1 for z in split_mix(seed, 3)]
    assert noise(3, clock, memory_size)[:3] == truth


def test_the_noise_is_uniform_and_new_for_each_slot_write_and_seed():
    numbers = torch.tensor([noise(seed, clock, 333) for seed in range(6) for clock in range(5)])
    assert numbers.min() >= -1 and numbers.max() < 1
    assert len(numbers.flatten().unique()) > 0.999 * numbers.numel()
    assert abs(numbers.mean()) < 0.02 and abs(numbers.var() * 3 - 1) < 0.03
    assert (numbers.flatten().histc(20, -1, 1) / numbers.numel() - 0.05).abs().max() < 0.008
    assert (numbers.corrcoef() - torch.eye(30)).abs().max() < 0.25
    assert numbers.T[:40].corrcoef().sub(torch.eye(40)).abs().mean() < 0.25


def test_the_noise_is_float64_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    numbers = slot_noise(torch.tensor(0), torch.tensor(0), 9)
    assert numbers.dtype == torch.float64 and numbers.shape == (9,)
    assert torch.equal(torch.get_rng_state(), before)
