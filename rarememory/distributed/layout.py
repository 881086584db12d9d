"""Rows of several tensors as words of 64 bits, in which everything travels as it is."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


class Layout(NamedTuple):
    """What a row holds: entries of these types and shapes, one after the other.

    Example:
        >>> keys, values = torch.randn(2, 3).half(), torch.tensor([7, 9])
        >>> layout = Layout.of(keys, values)
        >>> words = layout.pack(keys, values)
        >>> words.shape, layout.words, [part.equal(keys) for part in layout.unpack(words)[:1]]
        (torch.Size([2, 2]), 2, [True])
    """

    entries: tuple[tuple[torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, *like: Shaped[Tensor, "rows ..."]) -> "Layout":
        """The layout of rows of such tensors."""
        return cls(tuple((part.dtype, part.shape[1:]) for part in like))

    @property
    def words(self) -> int:
        """Of a row."""
        return -(-sum(self._sizes()) // _BYTES)

    def pack(self, *parts: Shaped[Tensor, "rows ..."]) -> Int64[Tensor, "rows words"]:
        """The rows of all of these."""
        # A copy has the strides of its shape, also where torch takes any for contiguous.
        copies = [part.clone(memory_format=torch.contiguous_format) for part in parts]
        found = [copy.view(len(copy), math.prod(copy.shape[1:])) for copy in copies]
        rows = torch.cat([part.view(torch.uint8) for part in found], dim=1)
        padding = self.words * _BYTES - rows.shape[1]
        return torch.nn.functional.pad(rows, (0, padding)).view(torch.int64)

    def unpack(self, rows: Int64[Tensor, "rows words"]) -> list[Shaped[Tensor, "rows ..."]]:
        """The tensors that were packed into these rows."""
        rows = rows.clone(memory_format=torch.contiguous_format)
        parts = rows.view(torch.uint8)[:, : sum(self._sizes())].split(self._sizes(), 1)
        return [
            part.clone(memory_format=torch.contiguous_format).view(dtype).view(len(rows), *shape)
            for part, (dtype, shape) in zip(parts, self.entries, strict=True)
        ]

    def _sizes(self) -> list[int]:
        return [dtype.itemsize * math.prod(shape) for dtype, shape in self.entries]


_BYTES = 8
