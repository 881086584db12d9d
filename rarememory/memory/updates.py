"""Policies of writing: what a write stores, and where.

A policy is a frozen dataclass with two answers: which rows are averaged into the key that answered
them, and which slots are given up first for the rest. `writing` carries them out.

The noise is that of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), which gives its n-th number without the ones before. So it is a function of (seed,
clock, slot): the same on every device, exact on resuming, and no use of torch's generators.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from rarememory import native
from rarememory.base.validation import check_finite


@runtime_checkable
class Update(Protocol):
    """A policy of writing: what is averaged, and which slots are given up first.

    A write asks it twice and does the rest (Kaiser et al. 2017, section 2, has one policy,
    `AverageOrReplace`). It holds no state: whatever it decides by is passed to it.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from rarememory import Memory
        >>> @dataclass(frozen=True)
        ... class KeepTheOldest:
        ...     def averages(self, hits):
        ...         return hits
        ...     def eviction(self, ages, noise):
        ...         return -ages
        >>> memory = Memory(key_dim=2, memory_size=2, update=KeepTheOldest())
        >>> [int(memory.write(row, torch.tensor(n)).slots) for n, row in enumerate(torch.eye(2))]
        [0, 1]
        >>> memory.write(-torch.ones(2), torch.tensor(2)).slots
        tensor(1)
    """

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Rows that are averaged into their nearest key; only rows that hit can be."""
        ...

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        """The eviction priority of each occupied slot: highest first, then the lower slot.

        `noise` is uniform in [-1, 1), new for each write. Empty slots go before all others, however
        glad the policy is, and a slot of -inf goes last: every row is written somewhere. A large
        memory asks about some of its slots at a time.
        """
        ...


@dataclass(frozen=True)
class ByUsage:
    """Policies that give up slots by how they were used, which the memory has to count for them.

    Args:
        average: average into the key that answered rightly, as in `AverageOrReplace`; else every
            row gets a slot of its own.
    """

    average: bool = True

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """All that hit, or none."""
        return hits if self.average else torch.zeros_like(hits)

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        """By age, where nothing is known of the use."""
        return ages

    def eviction_by_usage(
        self,
        ages: Float64[Tensor, " slots"],
        uses: Float64[Tensor, " slots"],
        idle: Float64[Tensor, " slots"],
    ) -> Float64[Tensor, " slots"]:
        """The eviction priority of each occupied slot, as `Update.eviction`."""
        raise NotImplementedError


@dataclass(frozen=True)
class LeastRecentlyUsed(ByUsage):
    """Give up the slot that has not answered for the longest; of several the oldest.

    What counts as an answer is what `memory.record(recall)` is told; a slot that has just been
    filled counts as used.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=2, update=LeastRecentlyUsed())
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> memory.record(memory(torch.eye(2)[0]))
        >>> memory.write(-torch.eye(2)[0], torch.tensor(8)).overwritten
        tensor(9)
    """

    def eviction_by_usage(
        self,
        ages: Float64[Tensor, " slots"],
        uses: Float64[Tensor, " slots"],
        idle: Float64[Tensor, " slots"],
    ) -> Float64[Tensor, " slots"]:
        """Reads since the last answer, then age."""
        return idle + ages / (ages + 1)


@dataclass(frozen=True)
class LeastUsed(ByUsage):
    """Give up the slot that has answered the fewest times; of several the oldest.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=2, update=LeastUsed())
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> memory.record(memory(torch.eye(2)[1]))
        >>> memory.write(-torch.eye(2)[0], torch.tensor(8)).overwritten
        tensor(7)
    """

    def eviction_by_usage(
        self,
        ages: Float64[Tensor, " slots"],
        uses: Float64[Tensor, " slots"],
        idle: Float64[Tensor, " slots"],
    ) -> Float64[Tensor, " slots"]:
        """The fewest answers, then age."""
        return ages / (ages + 1) - uses


@dataclass(frozen=True)
class ByAgeAndNoise:
    """Policies that give up slots by a weighted sum of age and noise, which one pass can find.

    Unless they say otherwise they give up the oldest slot, and average nothing.
    """

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """None."""
        return torch.zeros_like(hits)

    @property
    def weights(self) -> tuple[float, float]:
        """Of the age, and of the noise."""
        return 1.0, 0.0

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        """age_weight * age + noise_weight * noise."""
        age_weight, noise_weight = self.weights
        return age_weight * ages + noise_weight * noise


@dataclass(frozen=True)
class AverageOrReplace(ByAgeAndNoise):
    """The paper's policy: average into the key that answered rightly, or replace the oldest slot.

    V[n1] = v:  K[n1] <- (q + K[n1]) / |q + K[n1]|;  otherwise n' = argmax A[i] + r_i,  K[n'] <- q,
    V[n'] <- v, with r_i uniform in [-age_noise, age_noise] (Kaiser et al. 2017, section 2; the
    default 8 is from the authors' code).

    Args:
        age_noise: 0 replaces the oldest slot exactly; of equal ages the lower slot goes.

    Raises:
        ValueError: `age_noise` is negative or not finite.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=4, update=AverageOrReplace())
        >>> [int(memory.write(row, torch.tensor(7)).slots) for row in torch.eye(2)]
        [0, 0]
        >>> memory.keys[0]
        tensor([0.7071, 0.7071])
    """

    age_noise: float = 8.0

    def __post_init__(self) -> None:
        check_finite("age_noise", self.age_noise)

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """All that hit."""
        return hits

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, float(self.age_noise)


@dataclass(frozen=True)
class FirstInFirstOut(ByAgeAndNoise):
    """Every row gets a slot of its own, that of the row written longest ago.

    A queue, as the memories of metric learning are (Wang et al. 2020, "Cross-Batch Memory", section
    3): it holds the last `memory_size` rows as they were.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=2, update=FirstInFirstOut())
        >>> [int(memory.write(row, torch.tensor(7)).slots) for row in torch.ones(5, 2)]
        [0, 1, 0, 1, 0]
    """


@dataclass(frozen=True)
class AverageOrReplaceRandom(ByAgeAndNoise):
    """As the paper's, but a slot drawn at random is replaced, however young: the usual ablation.

    The draw is the memory's own, by its seed and the number of writes. Empty slots go first.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=3, update=AverageOrReplaceRandom())
        >>> [int(memory.write(torch.ones(2), torch.tensor(n)).slots) for n in range(9)]
        [0, 1, 2, 0, 2, 2, 2, 1, 0]
    """

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """All that hit."""
        return hits

    @property
    def weights(self) -> tuple[float, float]:
        return 0.0, 1.0


def slot_noise(
    seed: Int64[Tensor, "*memories"],
    clock: Int64[Tensor, "*memories"],
    memory_size: int,
    first: int = 0,
    count: int | None = None,
) -> Float64[Tensor, "*memories slots"]:
    """Uniform numbers in [-1, 1), one a slot, for the write that follows `clock` writes.

    They are the numbers clock * memory_size, ... of the SplitMix64 sequence of `seed`; those of
    `count` slots from the `first` on, if not of all.

    Example:
        >>> slot_noise(torch.tensor(0), torch.tensor(3), 5).abs().max() < 1
        tensor(True)
    """
    count = memory_size - first if count is None else count
    if clock.dim() == 0 and native.is_supported(seed, clock):
        noise = native.empty_output(count, dtype=torch.float64)
        begin = sequence_of(seed, clock, memory_size, first)
        native.library().noise(begin, count, noise)
        return noise
    return noise_at(seed, clock, memory_size, torch.arange(count, device=clock.device) + first)


def noise_at(
    seed: Int64[Tensor, "*memories"],
    clock: Int64[Tensor, "*memories"],
    memory_size: int,
    slots: Int64[Tensor, " n"],
) -> Float64[Tensor, "*memories n"]:
    """The numbers of `slot_noise` of these slots.

    Example:
        >>> seed, clock, slots = torch.tensor(0), torch.tensor(3), torch.tensor([4, 1])
        >>> torch.equal(noise_at(seed, clock, 5, slots), slot_noise(seed, clock, 5)[slots])
        True
    """
    # The place is added before the product: of arange * constant, inductor (torch 2.15) makes an
    # index that overflows, and its program then writes where it must not.
    z = (slots + (clock.unsqueeze(-1) * memory_size + 1)) * _GAMMA + seed.unsqueeze(-1)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() * 2.0**-52 - 1.0


def sequence_of(
    seed: Int64[Tensor, ""], clock: Int64[Tensor, ""], memory_size: int, first: int = 0
) -> int:
    """The state of SplitMix64 before the number of slot `first`; on a GPU the host waits for it."""
    return (seed + (clock * memory_size + first + 1) * _GAMMA).item()  # type: ignore[return-value]


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right that brings in zeros, which torch has for no signed type."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """The same 64 bits as torch's int64 has them, in which products wrap around."""
    return constant - 2**64 if constant >= 2**63 else constant


_GAMMA = _signed(0x9E3779B97F4A7C15)
