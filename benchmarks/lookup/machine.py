"""What the figures were measured on: libraries, threads, instructions, drivers."""

import os
from importlib.metadata import distributions
from typing import Any

import torch
from threadpoolctl import threadpool_info
from torch.utils import collect_env

from rarememory import native

MASKS = (
    *(native.SWITCH, "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"),
    *("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "FAISS_OPT_LEVEL"),
)
"""Environment variables that keep ours, torch, NumPy and Faiss from the processor's newest
instructions."""


def machine(device: str) -> dict[str, Any]:
    """Facts that decide how fast a matrix product is here."""
    named = ("faiss-cpu", "faiss-gpu", "scikit-learn", "usearch", "triton", "cuvs-cu12")
    packages = {one.name: one.version for one in distributions() if one.name in named}
    facts: dict[str, Any] = {"packages": packages}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return facts | {
            "driver": collect_env.get_nvidia_driver_version(collect_env.run),
            "cuda": torch.version.cuda,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
        }
    return facts | {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "masks": masks(),
        "mkl": torch.backends.mkl.is_available(),
        # A library put before torch's own may change which instructions MKL takes.
        "preloaded": "LD_PRELOAD" in os.environ,
        "omp_wait_policy": "PASSIVE in a shared process, as it was where alone",
        "blas": [
            " ".join(str(pool[part]) for part in ("internal_api", "version", "num_threads"))
            for pool in threadpool_info()
        ],
    }


def masks() -> dict[str, str]:
    """Those of `MASKS` that are set."""
    return {name: os.environ[name] for name in MASKS if name in os.environ}


def instruction_set() -> str | None:
    """That of the library in C++, such as avx2 or avx512; None where there is no library."""
    try:
        return native.library().instruction_set.partition("_")[0]
    except ImportError:
        return None
