"""A memory of the few slots that were found, which answers the same rows as the whole one would."""

from functools import cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rarememory.base.state import EMPTY
from rarememory.distributed.candidates import Candidates
from rarememory.lookup import AutoLookup, Lookup, NativeLookup, TorchLookup
from rarememory.memory import Memory


@torch.no_grad()
def winners(
    memory: Memory, best: Candidates, keys: Float[Tensor, "found key_dim"], looked: int
) -> tuple[Memory, Int64[Tensor, " slots"]]:
    """The memory, and which slot of the whole one each of its slots is.

    The gradients of a memory of few slots are summed in another order than those of one of many:
    this one has as many slots as it takes for the order of the whole.

    Args:
        memory: with the options of the whole one.
        best: what was found, some of it perhaps for several rows.
        keys: of all that was found, row by row.
        looked: neighbours looked up.
    """
    size, flat = memory.memory_size, best.slots.view(-1)
    most = max(2, looked) * min(len(best.slots), keys.shape[1])
    there = flat != EMPTY
    whole = size <= most
    numbers = torch.arange(size, device=flat.device) if whole else flat[there].unique()
    found = Memory(
        keys.shape[1],
        max(len(numbers), min(size, most + 1), looked),
        k=memory.k,
        margin=memory.margin,
        temperature=memory.temperature,
        lookup=_exact(isinstance(memory.lookup, AutoLookup | NativeLookup)),
        key_dtype=keys.dtype,
        subtract_margin=memory.subtract_margin,
        validate=memory.validate,
        device=keys.device,
    )
    found.projection = memory.projection
    places = torch.searchsorted(numbers, flat[there])
    found.keys[places] = keys[there]
    found.values[places] = best.values.view(-1)[there]
    return found, nn.functional.pad(numbers, (0, found.memory_size - len(numbers)))


@cache
def _exact(native: bool) -> Lookup:
    return AutoLookup().uncached() if native else TorchLookup()
