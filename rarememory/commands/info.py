"""`rarememory info`: what runs here and with what, as a report of a fault needs it.

It needs no optional package, for it has to run where the other commands do not.
"""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from rarememory import native
from rarememory.lookup import LOOKUPS

PACKAGES = (
    *("torch", "numpy", "safetensors", "jaxtyping"),
    *("faiss-cpu", "triton", "torchvision", "lightning", "scikit-learn", "huggingface-hub"),
)
READY = "ready"


def print_facts(as_json: bool = False) -> None:
    """Print what runs here, as lines or in JSON."""
    about = facts()
    if as_json:
        print(json.dumps(about))
        return
    for name, fact in about.items():
        if isinstance(fact, dict):
            print(f"{name}:")
            for key, value in fact.items():
                print(f"  {key}: {value}")
        else:
            print(f"{name}: {', '.join(fact) if isinstance(fact, list) else fact}")


def facts() -> dict[str, Any]:
    """What `info` prints, by name."""
    return {
        "rarememory": _version("rarememory"),
        "folder": str(Path(__file__).parents[1]),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "lookups on the CPU": _lookups("cpu"),
        "lookups on CUDA": _lookups("cuda") if torch.cuda.is_available() else "no GPU",
        **_native(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("RAREMEMORY_", "OMP_", "MKL_", "TRITON_", "CUDA_VISIBLE"))
        },
        # Last, for the searches above may load one.
        "OpenMP libraries loaded": _openmp_libraries(),
        "CUDA": _cuda(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _lookups(device: str) -> dict[str, str]:
    """Of each exact search, whether it serves float32 keys there, and else why not."""
    keys = torch.eye(4, device=device)
    occupied = torch.ones(4, dtype=torch.bool, device=device)
    found = {}
    for name, make in LOOKUPS.items():
        try:
            lookup = make()
            found[name] = lookup.why_not(keys, keys, 1) or READY
            if found[name] == READY:
                lookup.nearest(keys, keys, occupied, 1)
        except Exception as error:
            # Of whatever kind: that a search fails here is what the report is for.
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _native() -> dict[str, Any]:
    """The instruction sets of the library in C++: those found, and the one in use."""
    try:
        library = native.library()
    except ImportError as error:
        return {"instruction sets": [], "instruction set in use": str(error)}
    return {
        "instruction sets": library.found,
        "instruction set in use": library.instruction_set,
    }


def _openmp_libraries() -> list[str] | str:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return "not known on this system"
    paths = re.findall(r"/\S*/lib(?:gomp|iomp|omp)[^/\s]*\.so\S*", maps.read_text())
    return sorted(set(paths))


def _cuda() -> dict[str, str]:
    found = {"torch was built for": torch.version.cuda or "no CUDA"}
    for number in range(torch.cuda.device_count()):
        found[f"GPU {number}"] = torch.cuda.get_device_name(number)
    return found
