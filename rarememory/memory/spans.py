"""Which slots of a memory a state holds, where other processes hold the others."""

from typing import NamedTuple

from jaxtyping import Float64, Int64
from torch import Tensor

from rarememory.base.state import MemoryState
from rarememory.memory.updates import noise_at, slot_noise


class Span(NamedTuple):
    """The slots of a state in the whole memory: a range, or those of a list.

    Attributes:
        memory_size: slots of the whole memory.
        first: of a range.
        slots: in rising order, in place of a range.

    Example:
        >>> from rarememory import Memory
        >>> state = Memory(key_dim=2, memory_size=5).state
        >>> whole, part = (Span(5, first).noise(state, 0, 2) for first in (0, 3))
        >>> part.equal(Span(5).noise(state, 3, 2)), part.equal(whole)
        (True, False)
    """

    memory_size: int
    first: int = 0
    slots: Int64[Tensor, " slots"] | None = None

    def noise(
        self, state: MemoryState, first: int, count: int
    ) -> Float64[Tensor, "*memories count"]:
        """The noise of so many slots of the state from the `first` on, for its next write."""
        numbers = (state.seed, state.clock, self.memory_size)
        if self.slots is not None:
            return noise_at(*numbers, self.slots[first : first + count])
        return slot_noise(*numbers, self.first + first, count)
