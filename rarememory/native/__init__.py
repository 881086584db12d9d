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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SWITCH = "RAREMEMORY_NATIVE"
"""Environment variable: 0 switches the library off, and a name chooses that instruction set."""

_FILE = Path(__file__).with_name("librarememory.so")
_OPENMP = "libgomp.so.1"
# Made once: to read a device from a text takes a third of the time of a small tensor.
_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.int64, torch.bool)
_log = logging.getLogger("rarememory")

_pointer, _integer, _count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "nearest": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _integer, _integer),  # marks, stride, k
        *(ctypes.c_float, _count, _pointer),  # tolerance, threads, found
    ],
    "code": [
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _integer),  # coded_slots, count
        *(_pointer, _pointer, _pointer, _pointer, _count),  # bytes, steps, off, rows, threads
    ],
    "nearest_coded": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer, _pointer, _pointer),  # bytes, steps, off, rows
        *(_pointer, _integer),  # occupied, k
        *(ctypes.c_float, _count),  # tolerance, threads
        *(_pointer, _integer, _pointer),  # sampled, samples, found
    ],
    "nearest_pair": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer),  # values, labels
        *(ctypes.c_float, _count, _pointer, _pointer),  # tolerance, threads, positive, negative
    ],
    "nearest_pair_coded": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer, _pointer),  # codes, steps, off
        *(_pointer, _pointer),  # values, labels
        *(ctypes.c_float, _count),  # tolerance, threads
        *(_pointer, _integer),  # sampled, samples
        *(_pointer, _pointer),  # positive, negative
    ],
    "mark": [
        *(_pointer, _integer),  # values, slots
        *(_pointer, _integer, _pointer),  # labels, count, mask
        *(_count, _pointer),  # threads, marks
    ],
    "normalize": [
        *(_pointer, _integer, _integer, _pointer),  # queries, batch, key_dim, units
    ],
    "noise": [_integer, _integer, _pointer],  # state, count, noise
    "evict": [
        *(_pointer, _pointer, _integer, _integer),  # priorities, values, first, size
        *(_pointer, _integer),  # keep, kept
        *(_integer, _pointer, _pointer),  # count, chosen_priorities, chosen
    ],
    "evict_oldest": [
        *(_pointer, _pointer, _integer, _integer),  # values, written, clock, state
        *(ctypes.c_double, ctypes.c_double, _integer),  # age_weight, noise_weight, size
        *(_pointer, _integer, _integer, _pointer),  # keep, kept, count, chosen
    ],
    "write": [
        *(_pointer, _integer, _pointer, _pointer, _pointer),  # keys, dim, values, written, clock
        *(_pointer, _pointer, _integer),  # queries, labels, batch
        *(_pointer, _pointer, _pointer),  # nearest, averaged, inserted
        *(_pointer, _integer, ctypes.c_double),  # free, free_count, shortest
        *(_pointer, _pointer),  # slots, overwritten
    ],
    "write_at_once": [
        *(_pointer, _integer, _integer),  # keys, slots, dim
        *(_pointer, _pointer, _pointer, _pointer),  # values, written, clock, seed
        *(_pointer, _pointer, _integer),  # queries, labels, batch
        *(_pointer, _integer),  # nearest, step
        *(_count, ctypes.c_double, ctypes.c_double),  # averages, age_weight, noise_weight
        *(ctypes.c_double, _pointer, _pointer, _pointer),  # shortest, slots, hits, overwritten
    ],
    "rank": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer),  # keys, key_dim
        *(_pointer, _pointer, _integer),  # values, slots, k
        *(_count, _pointer, _pointer),  # threads, scores, found_values
    ],
    "read": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer, _pointer, _pointer),  # bytes, steps, off, rows; or none
        *(_pointer, _pointer, _integer),  # values, labels, count
        *(_pointer, _integer),  # mask, k
        *(ctypes.c_float, _count),  # tolerance, threads
        *(_pointer, _integer),  # sampled, samples
        *(_pointer, _pointer, _pointer, _pointer),  # units, found, scores, found_values
    ],
    "read_pair": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer, _pointer),  # codes, steps, off
        *(_pointer, _pointer),  # values, labels
        *(ctypes.c_float, ctypes.c_float, _count),  # margin, tolerance, threads
        *(_pointer, _integer),  # sampled, samples
        _pointer,  # units
        *(_pointer, _pointer, _pointer, _pointer),  # found, scores, found_values, found_keys
        *(_pointer, _pointer, _pointer),  # slopes, gradient, loss
    ],
    "read_each": [
        *(_integer, _pointer, _integer),  # memories, queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _integer),  # values, k
        *(ctypes.c_float, _count),  # tolerance, threads
        *(_pointer, _pointer, _pointer, _pointer),  # units, found, scores, found_values
    ],
    "read_pair_each": [
        *(_integer, _pointer, _integer),  # memories, queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer),  # values, labels
        *(ctypes.c_float, ctypes.c_float, _count),  # margin, tolerance, threads
        _pointer,  # units
        *(_pointer, _pointer, _pointer, _pointer),  # found, scores, found_values, found_keys
        *(_pointer, _pointer, _pointer),  # slopes, gradient, loss
    ],
    "write_each": [
        *(_integer, _pointer, _integer, _integer),  # memories, keys, slots, dim
        *(_pointer, _pointer, _pointer, _pointer),  # values, written, clock, seed
        *(_pointer, _pointer, _integer),  # queries, labels, batch
        *(_pointer, _integer),  # nearest, step
        *(_count, ctypes.c_double, ctypes.c_double),  # averages, age_weight, noise_weight
        *(ctypes.c_double, _count),  # shortest, threads
        *(_pointer, _pointer, _pointer),  # slots, hits, overwritten
    ],
    "discriminate": [
        *(_pointer, _integer, _integer),  # features, batch, dim
        *(_pointer, _pointer),  # mean, center
        *(_pointer, _integer, _pointer, ctypes.c_float),  # metric, axes, precision, outside
        *(_pointer, _pointer, _pointer, _pointer),  # weights, bias, change, more
        *(_pointer, _integer, _count, _pointer),  # offsets, classes, threads, logits
    ],
    "blend": [
        *(_pointer, _integer, _integer),  # scores, batch, k
        *(_pointer, _integer),  # columns, stride
        *(_pointer, _integer, _pointer),  # logits, n_host, host_columns
        *(_pointer, _pointer, ctypes.c_float),  # temperature, host_score, found
        *(_pointer, _pointer),  # host_weight, host_bias
        *(_integer, ctypes.c_float),  # classes, nothing
        *(_count, _pointer, _pointer),  # threads, z, likeliest
    ],
    "decide": [
        *(_pointer, _integer, _integer),  # features, batch, dim
        *(_pointer, _pointer),  # logits, blend
        *(_pointer, _pointer),  # mean, center
        *(_pointer, _integer, _pointer, ctypes.c_float),  # metric, axes, precision, outside
        *(_pointer, _pointer, _pointer, _pointer),  # weights, bias, change, more
        *(_pointer, _integer, _pointer),  # offsets, k, columns
        *(_integer, _pointer, ctypes.c_float),  # n_host, host_columns, found
        *(_integer, ctypes.c_float, _count, _pointer),  # classes, nothing, threads, likeliest
    ],
    "norms": [
        *(_pointer, _integer, _integer),  # features, batch, key_dim
        *(ctypes.c_float, ctypes.c_float),  # shortest, longest
        *(_count, _pointer),  # threads, norms
    ],
    "confidence": [
        *(_pointer, _integer, _integer, _pointer),  # logits, batch, n_host, host_ids
        *(_count, _pointer),  # threads, confidences
    ],
    "score": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer),  # keys, key_dim
        *(_pointer, _integer),  # slots, k
        *(_count, _pointer),  # threads, scores
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
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
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


class Library:
    """The kernels for one instruction set, each called as `rarememory_<kernel>`.

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
            setattr(self, f"rarememory_{name}", kernel)

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
