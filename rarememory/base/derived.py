"""What is derived from small tensors, and derived again only when their numbers have changed."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rarememory.base.state import in_transform

Made = TypeVar("Made")


class Derived(Generic[Made]):
    """The latest result of a function of tensors, for as long as they hold the same numbers.

    To compare all numbers takes less time than most functions of them, and sees every change, also
    those that torch does not count. A result belongs to all who ask: nobody may change it. A copy
    or pickle holds none, and a compiled program keeps none, nor does a transform of torch.func.

    Example:
        >>> negative, numbers = Derived(), torch.ones(2)
        >>> negative.of(torch.neg, numbers) is negative.of(torch.neg, numbers.clone())
        True
        >>> negative.of(torch.neg, numbers.add_(1))
        tensor([-2., -2.])
    """

    def __init__(self) -> None:
        self._latest: tuple[list[Tensor], Made] | None = None

    def of(self, make: Callable[..., Made], *tensors: Tensor) -> Made:
        """What the function makes of these tensors; it must be the same function each time."""
        if torch.compiler.is_compiling() or in_transform():
            return make(*tensors)
        latest = self._latest
        if latest is not None and all(map(_same, latest[0], tensors)):
            return latest[1]
        # Outside inference mode, because the next to ask may want a gradient.
        with torch.inference_mode(False), torch.no_grad():
            copies = [tensor.clone() for tensor in tensors]
            made = make(*copies)
        # In one step, because other threads may ask at the same time.
        self._latest = copies, made
        return made

    def __reduce__(self) -> tuple[type["Derived[Any]"], tuple[()]]:
        return type(self), ()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
