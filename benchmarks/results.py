"""A result file: the figures, and all that is needed to get them again."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

import rarememory
from rarememory.base.files import write_atomically
from rarememory.evaluation import Accuracy

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = Path("runs")
"""Checkpoints, and results that are not published."""


def write_result(
    name: str, figures: dict[str, float], *, command: str, seed: int, folder: Path, **details: Any
) -> Path:
    """Write `<name>.json` into the folder and return its path."""
    result = {
        "command": command,
        "commit": _commit(),
        "device": device(),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "rarememory": rarememory.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        **details,
        "figures": {key: round(figure, 4) for key, figure in sorted(figures.items())},
    }
    path = folder / f"{name}.json"
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"), parents=True)
    hint = "; `make summary` brings README and docs up to date with it" if folder == RESULTS else ""
    print(f"wrote {path}{hint}")
    return path


def percent(accuracies: Mapping[Any, Accuracy], prefix: str = "") -> dict[str, float]:
    """Figures of a result: each accuracy in percent, and its interval; a prefix before the keys."""
    parts = [(f"{prefix}.{name}".lstrip("."), of) for name, of in accuracies.items()]
    means = {key: 100 * accuracy.mean for key, accuracy in parts}
    return means | {f"{key}.interval": 100 * accuracy.interval for key, accuracy in parts}


def percents(rows: Mapping[str, Mapping[Any, Accuracy]], prefix: str) -> dict[str, float]:
    """The same of every row of a table, its name behind the prefix."""
    found = [percent(row, f"{prefix}.{name}") for name, row in rows.items()]
    return {key: figure for figures in found for key, figure in figures.items()}


def sha256(path: str | Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def device() -> str:
    """The chip that torch computes on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    # Results and weights are what runs write themselves, and no change of the code.
    written = (":(exclude).", ":(exclude)../../rarememory/weights")
    changed = git("status", "--porcelain", "--", "../../rarememory", "..", *written)
    return f"{commit} and uncommitted changes" if changed else commit
