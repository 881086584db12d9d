"""Which policies of writing a sharded memory can follow: those that look at each slot by itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from rarememory.memory.budgets import layers_of
from rarememory.memory.updates import ByUsage, Update


def check_per_slot(update: Update) -> None:
    """Refuse a policy whose answer for a slot depends on which others it is asked about.

    Raises:
        ValueError: it does, for some ages, noise and usage, or by classes.

    Example:
        >>> from rarememory import AverageOrReplace
        >>> check_per_slot(AverageOrReplace())
    """
    layers = layers_of(update)
    if layers.budget is not None or layers.protected:
        raise ValueError(
            f"{type(update).__name__} looks at all slots of a class, and each process of a sharded "
            "memory has some of them: take a policy of single slots, such as FirstInFirstOut()"
        )
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randint(99, (_SLOTS,), generator=generator).double() for _ in range(3)]
    noise = 2 * torch.rand(_SLOTS, generator=generator, dtype=torch.float64) - 1
    _compare(update, update.eviction, numbers[0], noise)
    if isinstance(update, ByUsage):
        _compare(update, update.eviction_by_usage, *numbers)


def _compare(update: Update, priority: Callable[..., Tensor], *numbers: Tensor) -> None:
    parts = zip(*(part.split(_AT_ONCE) for part in numbers), strict=True)
    if not torch.equal(priority(*numbers), torch.cat([priority(*some) for some in parts])):
        raise ValueError(
            f"{type(update).__name__}.eviction looks at several slots at once, and each process "
            "of a sharded memory has some of them: give each slot a priority by itself"
        )


_SLOTS, _AT_ONCE = 12, 5
