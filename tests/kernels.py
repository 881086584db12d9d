"""What the kernels in C++ are given: they check nothing, so the tests do, at every call.

A tensor that is not contiguous or of another dtype, or one that is gone, would be read or written
past its end.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from rarememory import native

_taking_tensors, _with_pointers = native._taking_tensors, native._with_pointers


class Pointer(int):
    """A prepared pointer that still knows its tensor, and does not keep it."""

    tensor: weakref.ref[Tensor]

    @classmethod
    def to(cls, tensor: Tensor, address: int) -> "Pointer":
        pointer = cls(address)
        pointer.tensor = weakref.ref(tensor)
        return pointer

    def __add__(self, offset: int) -> "Pointer":
        return Pointer.to(self.tensor(), int(self) + offset)


@contextmanager
def all_checked() -> Iterator[None]:
    """Within the block every kernel is `checked`, and pointers know their tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_taking_tensors", checked)
        patch.setattr(native, "_with_pointers", with_tensors)
        # What was made before, while tests were collected, is not checked.
        native._made.cache_clear()
        yield
    native._made.cache_clear()


def with_tensors(arguments: Iterable[Any]) -> list[Any]:
    given = [*arguments]
    pairs = zip(given, _with_pointers(given), strict=True)
    return [Pointer.to(one, made) if isinstance(one, Tensor) else made for one, made in pairs]


def checked(kernel: Any) -> Callable[..., Any]:
    """The kernel, for arguments that are what it reads and writes."""
    call, places = _taking_tensors(kernel), [*enumerate(kernel.argtypes)]
    numbers = [place for place, kind in places if not issubclass(kind, ctypes.c_void_p)]
    pointers = [(place, kind.dtype) for place, kind in places if issubclass(kind, ctypes.c_void_p)]

    def checking(*arguments: Any) -> Any:
        if len(arguments) != len(places):
            raise ValueError(f"the kernel takes {len(places)} arguments, not {len(arguments)}")
        for place in numbers:
            _assert_good(kernel, place, _fault_of_number(arguments[place]))
        for place, dtype in pointers:
            given = arguments[place]
            # Most are such, and this is quick.
            if type(given) is Tensor and given.dtype is dtype and _is_plain(given):
                continue
            after = arguments[place + 1] if place + 1 < len(arguments) else None
            _assert_good(kernel, place, _fault_of_pointer(dtype, given, after))
        return call(*arguments)

    return checking


def _assert_good(kernel: Any, place: int, fault: str | None) -> None:
    assert not fault, f"argument {place} of {kernel.__name__} {fault}"


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous()


def _fault_of_number(number: Any) -> str | None:
    return "is a tensor, not a number" if isinstance(number, Tensor | Pointer) else None


def _fault_of_pointer(dtype: torch.dtype, given: Any, after: Any) -> str | None:
    tensor = given.tensor() if isinstance(given, Pointer) else given
    if isinstance(given, ctypes.Array) or given is None:
        return None
    if not isinstance(tensor, Tensor):
        return "is of a tensor that is gone" if tensor is None else "is a number, not a tensor"
    if tensor.dtype != dtype or not tensor.is_cpu:
        return f"is {tensor.dtype} on {tensor.device}, not {dtype} on the cpu"
    if tensor.is_contiguous():
        return None
    # A row may stand for all of them: then its stride, 0, is the next argument.
    is_one_row = tensor.stride(0) == 0 and type(after) is int and after == 0
    if is_one_row and tensor[:1].is_contiguous():
        return None
    return f"has strides {tensor.stride()}"
