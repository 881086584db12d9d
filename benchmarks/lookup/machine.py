"""What the figures were measured on: libraries, threads, instructions, drivers."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """Facts that decide how fast a matrix product is here."""
    facts: dict[str, Any] = {
        "packages": {
            name: found
            for name in ("faiss-cpu", "faiss-gpu", "scikit-learn", "usearch", "triton", "cuvs-cu12")
            if (found := _version(name)) is not None
        },
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return facts | {
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
        }
    return facts | {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        # A library put before torch's own may change which instructions MKL takes.
        "preloaded": "LD_PRELOAD" in os.environ,
        "omp_wait_policy": "PASSIVE in a shared process, as it was where alone",
        "blas": _blas(),
    }


def _blas() -> list[str]:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    return [
        " ".join(str(pool[part]) for part in ("internal_api", "version", "num_threads"))
        for pool in threadpool_info()
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    """The driver's version, as the kernel module tells it."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as text:
            return text.readline().strip()
    except OSError:
        return "unknown"
