"""The library in C++, compiled for this processor at its first use.

The search needs the vector instructions of the processor, which a wheel for all processors could
not use. So the package contains the sources, and the machine's C++ compiler compiles them once, in
some seconds. The library is kept in the user's cache folder. Without a compiler, torch is used.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "RAREMEMORY_NATIVE"
"""Environment variable: 0 switches these searches off."""
CACHE = "RAREMEMORY_CACHE"
"""Environment variable: the folder that compiled libraries are kept in."""

_SOURCES = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in {".cpp", ".h"})
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared")
_SECONDS = 120
_DTYPES = (torch.float32, torch.int64, torch.bool)

_pointer, _integer, _count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "rarememory_nearest": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _integer),  # occupied, k
        *(ctypes.c_float, _count, _pointer),  # tolerance, threads, found
    ],
    "rarememory_code": [
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _integer),  # coded_slots, count
        *(_pointer, _pointer, _pointer, _count),  # bytes, steps, off, threads
    ],
    "rarememory_nearest_coded": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer, _pointer),  # bytes, steps, off
        *(_pointer, _integer),  # occupied, k
        *(ctypes.c_float, _count, _pointer),  # tolerance, threads, found
    ],
    "rarememory_nearest_pair": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer, _integer),  # keys, slots, key_dim
        *(_pointer, _pointer),  # values, labels
        *(ctypes.c_float, _count, _pointer, _pointer),  # tolerance, threads, positive, negative
    ],
    "rarememory_noise": [_integer, _integer, _pointer],  # state, count, noise
    "rarememory_evict": [
        *(_pointer, _pointer, _integer, _integer),  # priorities, values, first, size
        *(_pointer, _integer),  # keep, kept
        *(_integer, _pointer, _pointer),  # count, chosen_priorities, chosen
    ],
    "rarememory_evict_oldest": [
        *(_pointer, _pointer, _integer, _integer),  # values, written, clock, state
        *(ctypes.c_double, ctypes.c_double, _integer),  # age_weight, noise_weight, size
        *(_pointer, _integer, _integer, _pointer),  # keep, kept, count, chosen
    ],
    "rarememory_write": [
        *(_pointer, _integer, _pointer, _pointer, _pointer),  # keys, dim, values, written, clock
        *(_pointer, _pointer, _integer),  # queries, labels, batch
        *(_pointer, _pointer, _pointer),  # nearest, averaged, inserted
        *(_pointer, _integer, ctypes.c_double),  # free, free_count, shortest
        *(_pointer, _pointer),  # slots, overwritten
    ],
    "rarememory_score": [
        *(_pointer, _integer),  # queries, batch
        *(_pointer, _integer),  # keys, key_dim
        *(_pointer, _integer),  # slots, k
        *(_count, _pointer),  # threads, scores
    ],
}
_RETURNS = {"rarememory_nearest_coded": _integer}


def is_supported(*tensors: Tensor) -> bool:
    """Whether the library can read these tensors: contiguous, on a CPU, of a supported dtype.

    False while torch compiles, traces or exports: a program has to consist of torch's operators.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if isinstance(_made(), str):
        return False
    return all(
        tensor.device.type == "cpu" and tensor.dtype in _DTYPES and tensor.is_contiguous()
        for tensor in tensors
    )


def empty_output(*shape: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def library() -> ctypes.CDLL:
    """The compiled library.

    Raises:
        ImportError: why there is none.
    """
    made = _made()
    if isinstance(made, str):
        raise ImportError(made)
    return made


@functools.cache
def _made() -> ctypes.CDLL | str:
    """The library, or the reason why there is none; decided once in a process."""
    if os.environ.get(SWITCH) == "0":
        return f"the native searches are switched off by {SWITCH}=0"
    compiler = _compiler()
    if compiler is None:
        return "the native searches need a C++ compiler, and neither c++, g++ nor clang++ was found"
    try:
        return compiled(compiler)
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        said = f"{getattr(error, 'stderr', None) or error}".strip() or "no message"
        return f"{compiler} could not make the native searches: {said.splitlines()[0]}"


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def compiled(compiler: str, target: str = "native") -> ctypes.CDLL:
    """The library for a processor (as -march names it), compiled unless it already was.

    Raises:
        subprocess.SubprocessError: the compiler failed.
        OSError: the library cannot be loaded.
    """
    flags = (*_FLAGS, f"-march={target}")
    macros = _run(compiler, f"-march={target}", "-dM", "-E", "-x", "c++", os.devnull)
    sources = [source.read_text(encoding="utf-8") for source in _SOURCES]
    name = hashlib.sha256("\0".join([macros, *flags, *sources]).encode()).hexdigest()[:16]
    path = _cache() / f"{name}.so"
    if not path.exists():
        _compile(compiler, flags, path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # The file is damaged, for example by a crash: compile again.
        _compile(compiler, flags, path)
        loaded = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, _RETURNS.get(name)
    return loaded


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    """Compile in a temporary folder beside `path`, so that no process loads half a library."""
    code = [str(source) for source in _SOURCES if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        try:
            _run(compiler, *flags, "-fopenmp", *code, "-o", str(fresh))
        except subprocess.CalledProcessError:
            # Without OpenMP, as with some installations of clang: one thread.
            _run(compiler, *flags, *code, "-o", str(fresh))
        with fresh.open("rb") as file:
            # On the disk before the rename: loading half a library would crash.
            os.fsync(file.fileno())
        fresh.replace(path)


def _cache() -> Path:
    """The user's cache folder, or a temporary one if that cannot be written."""
    try:
        own = os.environ.get(CACHE)
        base = os.environ.get("XDG_CACHE_HOME")
        folder = Path(own) if own else Path(base or Path.home() / ".cache") / "rarememory"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        # There is no home folder, or it is full or read-only.
        return Path(tempfile.mkdtemp(prefix="rarememory-"))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=True, timeout=_SECONDS
    )
    return done.stdout
