"""The task: a string of letters with one number in it; copy the letters, translate the number.

    A B 0 3 1 1 2 0 1 B     ->     A B 1234 B

The input is a string over {A, B} with one number of 7 digits to base 4 in it; the output has f of
the number in its place (Kaiser et al. 2017, section 4.2). f is random and fixed: nothing but having
seen a number tells its symbol, and of 16,384 numbers 40,000 examples show each 2.4 times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

PAD = END = 0
"""What follows an input, and what ends an output."""
FIRST_DIGIT = 3
"""An input's tokens are PAD, the letters 1 and 2, and the digits from here."""
N_SOURCE_TOKENS = FIRST_DIGIT + 4
FIRST_SYMBOL = 3
"""An output's tokens are END, the letters 1 and 2, and the symbols from here: the paper's + 1."""


class Examples(NamedTuple):
    """Inputs (letters and digits, then PAD), outputs (letters and a symbol, then END), numbers."""

    sources: Int64[Tensor, "examples length"]
    targets: Int64[Tensor, "examples time"]
    numbers: Int64[Tensor, " examples"]

    @property
    def lengths(self) -> Int64[Tensor, " examples"]:
        """Of the inputs."""
        return (self.sources != PAD).sum(dim=1)

    @property
    def mask(self) -> Bool[Tensor, "examples time"]:
        """The steps of each output, the first END among them."""
        ends = (self.targets == END).long()
        return ends.cumsum(dim=1) == ends

    @property
    def symbols(self) -> Bool[Tensor, "examples time"]:
        """The steps at which a symbol is right."""
        return self.targets >= FIRST_SYMBOL

    def at(self, rows: Int64[Tensor, " some"]) -> "Examples":
        """Some of them, cut to the longest."""
        sources, targets, numbers = (field[rows] for field in self)
        longest = int((sources != PAD).sum(dim=1).max())
        steps = int((targets != END).sum(dim=1).max()) + 1
        return Examples(sources[:, :longest], targets[:, :steps], numbers)

    def batches(self, size: int) -> Iterator["Examples"]:
        """All of them, the shortest first."""
        for rows in self.lengths.argsort(stable=True).split(size):
            yield self.at(rows)


@dataclass(frozen=True)
class Task:
    """How large the task is; the defaults are the paper's.

    Args:
        digits: of a number, to base 4.
        symbols: f takes values from 2 to this one.
        length: of the longest input.
        seed: of f, and of all examples.
    """

    digits: int = 7
    symbols: int = 16_000
    length: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        digits, length = self.digits, self.length
        if not 1 <= digits <= length:
            raise ValueError(f"a number of {digits} digits does not fit into a length of {length}")
        if self.symbols < 2:
            raise ValueError(f"symbols is {self.symbols}, and the first of them is 2")

    @property
    def n_tokens(self) -> int:
        """Size of the output's vocabulary."""
        return self.symbols + 2

    @property
    def function(self) -> Int64[Tensor, " numbers"]:
        """f: the symbol's token, number by number."""
        generator = Generator().manual_seed(self.seed)
        return torch.randint(FIRST_SYMBOL, self.n_tokens, (4**self.digits,), generator=generator)

    def draw(self, *counts: int) -> tuple[Examples, ...]:
        """So many examples of each part, one part after the other from one generator.

        The number, how many letters there are, which, and how many of them come before the number:
        all are uniform.
        """
        generator = Generator().manual_seed(self.seed + 1)
        return tuple(self._drawn(count, generator) for count in counts)

    def _drawn(self, count: int, generator: Generator) -> Examples:
        numbers = torch.randint(4**self.digits, (count,), generator=generator)
        letters = torch.randint(1, FIRST_DIGIT, (count, self.length + 1), generator=generator)
        room = self.length - self.digits
        n_letters = torch.randint(room + 1, (count, 1), generator=generator)
        place = (torch.rand(count, 1, generator=generator) * (n_letters + 1)).long()
        powers = 4 ** torch.arange(self.digits - 1, -1, -1)
        digits = numbers.unsqueeze(1) // powers % 4 + FIRST_DIGIT
        symbols = self.function[numbers].unsqueeze(1)
        return Examples(
            _inserted(digits, letters[:, : self.length], place, n_letters),
            _inserted(symbols, letters[:, : room + 2], place, n_letters),
            numbers,
        )


def _inserted(piece: Tensor, letters: Tensor, place: Tensor, n_letters: Tensor) -> Tensor:
    """So many of the letters, with the piece at its place among them, and zeros after them."""
    size, at = piece.shape[1], torch.arange(letters.shape[1])
    inside = piece.gather(1, (at - place).clamp(0, size - 1))
    after = letters.gather(1, (at - size).clamp(min=0).expand_as(letters))
    tokens = torch.where(at < place, letters, torch.where(at < place + size, inside, after))
    return tokens.masked_fill(at >= n_letters + size, PAD)


def known(test: Examples, train: Examples) -> Bool[Tensor, " test"]:
    """The test examples whose number some training example has; no method can know the others."""
    return torch.isin(test.numbers, train.numbers)
