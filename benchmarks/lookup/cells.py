"""A cell of the grid, its name in the results, and its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MILLION = 2**20
CLASSES = 1000


@dataclass(frozen=True)
class Cell:
    """`batch` queries among `slots` keys; k = 0 asks for the nearest pair."""

    batch: int
    slots: int
    key_dim: int
    k: int
    data: str = "random"

    @property
    def pair(self) -> bool:
        """Whether it asks for the nearest slot of the label and the nearest of another."""
        return self.k == 0

    @property
    def name(self) -> str:
        """Such as b16_m1M_k256; the width is named unless it is 128, and the data unless random."""
        whole = self.slots % MILLION == 0
        parts = [f"b{self.batch}", f"m{self.slots // MILLION}M" if whole else f"m{self.slots}"]
        parts += [f"k{self.k}"] if self.k else []
        parts += [f"d{self.key_dim}"] if self.key_dim != 128 else []
        return "_".join(parts + ([self.data] if self.data != "random" else []))

    @property
    def products(self) -> int:
        """Multiplications and additions of all its dot products."""
        return 2 * self.batch * self.slots * self.key_dim


@dataclass(frozen=True)
class Inputs:
    """The tensors of a search, and copies of the keys in half precision."""

    queries: Tensor
    keys: Tensor
    occupied: Tensor
    values: Tensor
    labels: Tensor

    @cached_property
    def half_keys(self) -> Tensor:
        """The keys in float16."""
        return self.keys.half()

    @cached_property
    def bfloat16(self) -> Tensor:
        """The keys in bfloat16."""
        return self.keys.bfloat16()


def make_inputs(cell: Cell, seed: int, device: str, keys: Tensor | None = None) -> Inputs:
    """The tensors of a cell, the same for the same seed; `keys` are used if they are given."""
    draw = torch.Generator(device).manual_seed(seed)
    # One query whatever the batch, so that the keys may be sorted by it.
    first = _units(1, cell.key_dim, draw)
    if keys is None:
        keys = DATA[cell.data](cell.slots, first, draw)
    draw.manual_seed(seed + 1)
    queries = torch.cat([first, _units(cell.batch - 1, cell.key_dim, draw)])
    if cell.data == "clustered":
        # A query is near to a cluster, as it is in a trained memory.
        near = torch.randint(cell.slots, (cell.batch,), generator=draw, device=device)
        queries = _unit(0.5 * queries + keys[near])
    occupied = torch.ones(cell.slots, dtype=torch.bool, device=device)
    values = torch.randint(CLASSES, (cell.slots,), generator=draw, device=device)
    labels = torch.randint(CLASSES, (cell.batch,), generator=draw, device=device)
    return Inputs(queries, keys, occupied, values, labels)


def _clustered(slots: int, first: Tensor, draw: torch.Generator) -> Tensor:
    """Consecutive slots, 64 at a time, lie close together."""
    centres = _units(slots // 64 + 1, first.shape[1], draw).repeat_interleave(64, dim=0)[:slots]
    return _unit(centres + 0.3 * _units(slots, first.shape[1], draw))


def _sorted(slots: int, first: Tensor, draw: torch.Generator) -> Tensor:
    """Every next slot is nearer to the first query: the worst order for running maxima."""
    keys = _units(slots, first.shape[1], draw)
    return keys[(keys @ first[0]).argsort()]


def _duplicates(slots: int, first: Tensor, draw: torch.Generator) -> Tensor:
    """The nearest key of the first query lies in half of the slots, far more of them than k."""
    keys = _units(slots, first.shape[1], draw)
    keys[::2] = _unit(first + 0.1 * keys[:1])
    return keys


DATA: dict[str, Callable[[int, Tensor, torch.Generator], Tensor]] = {
    "random": lambda slots, first, draw: _units(slots, first.shape[1], draw),
    "clustered": _clustered,
    "sorted": _sorted,
    "duplicates": _duplicates,
    "equal": lambda slots, first, draw: _units(1, first.shape[1], draw).repeat(slots, 1),
}
"""Keys by how they lie, each from the number of slots, the first query and a generator."""


def _units(rows: int, key_dim: int, draw: torch.Generator) -> Tensor:
    return _unit(torch.randn(rows, key_dim, generator=draw, device=draw.device))


def _unit(rows: Tensor) -> Tensor:
    # In place: a million keys need no second copy.
    return rows.div_(rows.norm(dim=1, keepdim=True))
