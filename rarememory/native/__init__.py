"""The library in C++: searches and writes on a CPU, compiled when the package is built.

It contains every kernel once for each instruction set of its kind of processor (CMakeLists.txt).
The best set that this processor has is used, and the answers are the same with each of them. Where
the package was built without a compiler there is no library, and torch is used.

Nothing else is loaded, and nothing is written: the library lies in the folder of this file, so who
may change it may change this file too.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarememory.base.state import in_transform

SWITCH = "RAREMEMORY_NATIVE"
"""Environment variable: 0 switches the library off, and a name chooses that instruction set."""

_FILE = Path(__file__).with_name("librarememory.so")
_OPENMP = "libgomp.so.1"
# Made once: to read a device from a text takes a third of the time of a small tensor.
_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.int64, torch.bool)
_log = logging.getLogger("rarememory")


def _pointer_to(dtype: torch.dtype) -> type[ctypes.c_void_p]:
    """A pointer to numbers of this dtype: what a kernel is given is compared with it in tests."""
    return type(f"pointer_to_{dtype}", (ctypes.c_void_p,), {"dtype": dtype})


_integer, _count, _flag = ctypes.c_int64, ctypes.c_int, ctypes.c_bool
_float, _double = ctypes.c_float, ctypes.c_double
_integers, _bytes, _bools = map(_pointer_to, (torch.int64, torch.uint8, torch.bool))
_floats, _doubles = map(_pointer_to, (torch.float32, torch.float64))
_SIGNATURES = {
    "nearest": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_bools, _integer, _integer),  # marks, stride, k
        *(_float, _count, _integers),  # tolerance, threads, found
    ],
    "code": [
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_integers, _integer),  # coded_slots, count
        *(_bytes, _floats, _floats, _bytes, _count),  # bytes, steps, off, rows, threads
    ],
    "nearest_coded": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_bytes, _floats, _floats, _bytes),  # bytes, steps, off, rows
        *(_bools, _integer),  # occupied, k
        *(_float, _count),  # tolerance, threads
        *(_integers, _integer, _integers),  # sampled, samples, found
    ],
    "nearest_pair": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_integers, _integers),  # values, labels
        *(_float, _count, _integers, _integers),  # tolerance, threads, positive, negative
    ],
    "nearest_pair_coded": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_bytes, _floats, _floats),  # codes, steps, off
        *(_integers, _integers),  # values, labels
        *(_float, _count),  # tolerance, threads
        *(_integers, _integer),  # sampled, samples
        *(_integers, _integers),  # positive, negative
    ],
    "mark": [
        *(_integers, _integer),  # values, slots
        *(_integers, _integer, _bools),  # labels, count, mask
        *(_count, _bools),  # threads, marks
    ],
    "normalize": [
        *(_floats, _integer, _integer, _floats),  # queries, batch, key_dim, units
    ],
    "noise": [_integer, _integer, _doubles],  # state, count, noise
    "evict": [
        *(_doubles, _integers, _integer, _integer),  # priorities, values, first, size
        *(_integers, _integer),  # keep, kept
        *(_integer, _doubles, _integers),  # count, chosen_priorities, chosen
    ],
    "evict_oldest": [
        *(_integers, _integers, _integer, _integer),  # values, written, clock, state
        *(_double, _double, _integer),  # age_weight, noise_weight, size
        *(_integers, _integer, _integer, _integers),  # keep, kept, count, chosen
    ],
    "write": [
        *(_floats, _integer, _integers, _integers, _integers),  # keys, dim, values, written, clock
        *(_floats, _integers, _integer),  # queries, labels, batch
        *(_integers, _bools, _bools),  # nearest, averaged, inserted
        *(_integers, _integer, _double),  # free, free_count, shortest
        *(_integers, _integers),  # slots, overwritten
    ],
    "write_at_once": [
        *(_floats, _integer, _integer),  # keys, slots, dim
        *(_integers, _integers, _integers, _integers),  # values, written, clock, seed
        *(_floats, _integers, _integer),  # queries, labels, batch
        *(_integers, _integer),  # nearest, step
        *(_count, _double, _double),  # averages, age_weight, noise_weight
        *(_double, _integers, _bools, _integers),  # shortest, slots, hits, overwritten
    ],
    "rank": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer),  # keys, key_dim
        *(_integers, _integers, _integer),  # values, slots, k
        *(_count, _floats, _integers),  # threads, scores, found_values
    ],
    "read": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_bytes, _floats, _floats, _bytes),  # bytes, steps, off, rows; or none
        *(_integers, _integers, _integer),  # values, labels, count
        *(_bools, _integer),  # mask, k
        *(_float, _count),  # tolerance, threads
        *(_integers, _integer),  # sampled, samples
        *(_floats, _integers, _floats, _integers),  # units, found, scores, found_values
    ],
    "read_pair": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_bytes, _floats, _floats),  # codes, steps, off
        *(_integers, _integers),  # values, labels
        *(_float, _float, _count),  # margin, tolerance, threads
        *(_integers, _integer),  # sampled, samples
        _floats,  # units
        *(_integers, _floats, _integers, _floats),  # found, scores, found_values, found_keys
        *(_floats, _floats, _floats),  # slopes, gradient, loss
    ],
    "read_each": [
        *(_integer, _floats, _integer),  # memories, queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_integers, _integer),  # values, k
        *(_float, _count),  # tolerance, threads
        *(_floats, _integers, _floats, _integers),  # units, found, scores, found_values
    ],
    "read_pair_each": [
        *(_integer, _floats, _integer),  # memories, queries, batch
        *(_floats, _integer, _integer),  # keys, slots, key_dim
        *(_integers, _integers),  # values, labels
        *(_float, _float, _count),  # margin, tolerance, threads
        _floats,  # units
        *(_integers, _floats, _integers, _floats),  # found, scores, found_values, found_keys
        *(_floats, _floats, _floats),  # slopes, gradient, loss
    ],
    "write_each": [
        *(_integer, _floats, _integer, _integer),  # memories, keys, slots, dim
        *(_integers, _integers, _integers, _integers),  # values, written, clock, seed
        *(_floats, _integers, _integer),  # queries, labels, batch
        *(_integers, _integer),  # nearest, step
        *(_count, _double, _double),  # averages, age_weight, noise_weight
        *(_double, _count),  # shortest, threads
        *(_integers, _bools, _integers),  # slots, hits, overwritten
    ],
    "discriminate": [
        *(_floats, _integer, _integer),  # features, batch, dim
        *(_flag, _floats, _floats),  # by_roots, mean, center
        *(_floats, _integer, _floats, _float),  # metric, axes, precision, outside
        *(_floats, _floats, _floats, _floats),  # weights, bias, change, more
        *(_floats, _integer, _count, _floats),  # offsets, classes, threads, logits
    ],
    "blend": [
        *(_floats, _integer, _integer),  # scores, batch, k
        *(_integers, _integer),  # columns, stride
        *(_floats, _integer, _integers),  # logits, n_host, host_columns
        *(_floats, _floats, _float),  # temperature, host_score, found
        *(_floats, _floats, _floats),  # host_weight, host_bias, host_terms
        *(_integer, _float),  # classes, nothing
        *(_count, _floats, _integers),  # threads, z, likeliest
    ],
    "decide": [
        *(_floats, _integer, _integer),  # features, batch, dim
        *(_floats, _floats),  # logits, blend
        *(_flag, _floats, _floats),  # by_roots, mean, center
        *(_floats, _integer, _floats, _float),  # metric, axes, precision, outside
        *(_floats, _floats, _floats, _floats),  # weights, bias, change, more
        *(_floats, _integer, _integers),  # offsets, k, columns
        *(_integer, _integers, _float),  # n_host, host_columns, found
        *(_float, _float),  # max_logit_weight, max_logit_mean
        *(_integer, _float, _count, _integers),  # classes, nothing, threads, likeliest
    ],
    "norms": [
        *(_floats, _integer, _integer),  # features, batch, key_dim
        *(_float, _float),  # shortest, longest
        *(_count, _floats),  # threads, norms
    ],
    "certainty": [
        *(_floats, _integer, _integer, _integers),  # logits, batch, n_host, host_ids
        *(_count, _floats),  # threads, certainty
    ],
    "score": [
        *(_floats, _integer),  # queries, batch
        *(_floats, _integer),  # keys, key_dim
        *(_integers, _integer),  # slots, k
        *(_count, _floats),  # threads, scores
    ],
}
_RETURNS = dict.fromkeys(
    (
        *("nearest_coded", "nearest_pair_coded", "normalize", "discriminate", "decide"),
        *("read", "read_pair", "write_at_once", "read_each", "read_pair_each", "write_each"),
    ),
    _integer,
)


def is_supported(*tensors: Tensor) -> bool:
    """Whether the library can read these tensors: contiguous, on a CPU, of a supported dtype.

    False while torch compiles, traces or exports: a program has to consist of torch's operators.
    False in a transform of torch.func, whose tensors have no storage to read.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if in_transform():
        return False
    if isinstance(_made(), str):
        return False
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.dtype in _DTYPES and tensor.is_contiguous()):
            return False
    return True


def is_floats(*tensors: Tensor) -> bool:
    """Whether the library can read these as floats: of float32, and `is_supported`."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            return False
    return is_supported(*tensors)


def empty_output(*shape: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device=_CPU)


def prepared(*arguments: Any) -> list[Any]:
    """Arguments that a kernel is given many times, with pointers in the place of tensors.

    Whoever keeps them has to keep the tensors as well.
    """
    return _with_pointers(arguments)


def _with_pointers(arguments: Iterable[Any]) -> list[Any]:
    return [_address_of(one) if isinstance(one, Tensor) else one for one in arguments]


def _address_of(tensor: Tensor) -> int:
    """The address of its first number.

    Raises:
        TypeError: it has none, as a tensor that only wraps others.
    """
    found: int = tensor.data_ptr()
    if not found and tensor.numel():
        raise TypeError(f"a {type(tensor).__name__} has no numbers of its own: give a plain tensor")
    return found


def _taking_tensors(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, with tensors in the place of pointers.

    Nothing is checked, as that would take longer than the call: a tensor has to be contiguous, on
    the CPU and of the dtype in the signature, and none may stand in the place of a number. Tests
    check it at every call.
    """

    def call(*arguments: Any) -> Any:
        try:
            # `isinstance` takes ten times as long for a number.
            return kernel(*[one.data_ptr() if type(one) is Tensor else one for one in arguments])
        except ctypes.ArgumentError:
            # There is one of a subclass, such as a parameter, so the kernel was not called.
            return kernel(*_with_pointers(arguments))

    return call


class Library:
    """The kernels for one instruction set, each a method that takes tensors for pointers.

    Example:
        >>> rows, units = torch.tensor([[3.0, 4.0]]), torch.empty(1, 2)
        >>> library().normalize(rows, 1, 2, units), units
        (0, tensor([[0.6000, 0.8000]]))

    Raises:
        ImportError: the file has no such instruction set, or this processor has not.
    """

    def __init__(self, file: ctypes.CDLL, instruction_set: str | None = None) -> None:
        self.found = instruction_sets(file)
        self.instruction_set = instruction_set or self.found[0]
        if self.instruction_set not in self.found:
            raise ImportError(
                f"{SWITCH} names the instruction set {instruction_set!r}, and this processor and "
                f"the library have {', '.join(self.found)}"
            )
        for name, arguments in _SIGNATURES.items():
            kernel = getattr(file, f"rarememory_{self.instruction_set}_{name}")
            kernel.argtypes, kernel.restype = arguments, _RETURNS.get(name)
            setattr(self, name, _taking_tensors(kernel))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the library has no kernel called {name}")


def is_built() -> bool:
    """Whether the package contains the library."""
    return _FILE.exists()


def library() -> Library:
    """The library, for the instruction set in use.

    Raises:
        ImportError: why there is none.
    """
    made = _made()
    if isinstance(made, str):
        raise ImportError(made)
    return made


def opened() -> ctypes.CDLL:
    """The file that the package was built with.

    Raises:
        OSError: it cannot be loaded.
    """
    try:
        return ctypes.CDLL(str(_FILE))
    except OSError as error:
        # It uses the OpenMP library of torch, which not every build of torch shows to others.
        if "undefined symbol" not in str(error):
            raise
        ctypes.CDLL(_OPENMP, mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(_FILE))


def instruction_sets(file: ctypes.CDLL) -> list[str]:
    """Instruction sets that the file and this processor have, the best first."""
    file.rarememory_instruction_sets.restype = ctypes.c_char_p
    names: bytes = file.rarememory_instruction_sets()
    return names.decode().split()


@functools.cache
def _made() -> Library | str:
    """The library, or the reason why there is none; decided once in a process."""
    chosen = os.environ.get(SWITCH, "")
    if chosen == "0":
        return f"the native searches are switched off by {SWITCH}=0"
    reason = "the package was built without a C++ compiler, so it has no native searches"
    try:
        if is_built():
            return Library(opened(), None if chosen in ("", "1") else chosen)
    except (OSError, AttributeError, ImportError) as error:
        reason = f"the native searches cannot be loaded: {error}"
    _log.warning("%s; torch searches instead, which takes longer on a CPU", reason)
    return reason
