"""Two processes gather rows, and one of them does it wrongly: both raise, and none waits.

A try is one call of `gathered` on each of the two, over gloo: now and then right, else with one of
the misuses on one of them. A misuse must raise on both within 5 seconds, and what is right must
give both the same rows.
"""

import multiprocessing
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from benchmarks.soak.campaign import Campaign, Tries
from rarememory.distributed import gathered

KEY_DIM, SECONDS = 8, 5.0
Case = tuple[Any, Any, Any]
_LABELS, _MASK = torch.ones(2).long(), torch.ones(2, dtype=torch.bool)

MISUSES: dict[str, Callable[[Tensor], Case]] = {
    "number": lambda rows: (rows, _LABELS[:1], None),
    "mask": lambda rows: (rows, _LABELS, _MASK[:1]),
    "mask of integers": lambda rows: (rows, _LABELS, _LABELS),
    "labels of floats": lambda rows: (rows, _LABELS + 0.5, None),
    "labels of booleans": lambda rows: (rows, _MASK, None),
    "labels below 0": lambda rows: (rows, -_LABELS, None),
    "labels in a list": lambda rows: (rows, [1, 1], None),
    "queries in a list": lambda rows: (rows.tolist(), _LABELS, None),
    "queries of integers": lambda rows: (rows.long(), _LABELS, None),
    "queries of zeros": lambda rows: (rows * 0, _LABELS, None),
    "queries not finite": lambda rows: (rows / 0, _LABELS, None),
    "queries sparse": lambda rows: (rows.to_sparse(), _LABELS, None),
    "queries nested": lambda rows: (
        torch.nested.as_nested_tensor([*rows], layout=torch.jagged),
        _LABELS,
        None,
    ),
    "queries without width": lambda rows: (rows.sum(), _LABELS, None),
    "nothing": lambda rows: (None, None, None),
    "another device": lambda rows: (rows.to("meta"), _LABELS, None),
    "another width": lambda rows: (rows[:, 1:], _LABELS, None),
    "another type": lambda rows: (rows.double(), _LABELS, None),
}


def _calls(folder: Path, seed: int, rank: int) -> Tries:
    """What comes of one call after another on this process."""
    meeting, patience = f"file://{folder}/meeting", timedelta(minutes=30)
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience
    )
    # The same draws on both.
    rng = random.Random(seed)
    while True:
        name, wrong = rng.choice(["right", *MISUSES]), rng.randrange(2)
        rows = torch.full((2, KEY_DIM), 1.0 + rank)
        is_misused = name != "right" and wrong == rank
        case = MISUSES[name](rows) if is_misused else (rows, _LABELS, None)
        distributed.barrier()
        begin = time.perf_counter()
        try:
            found = gathered(*case)
            is_right = name == "right" and found[0][:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
            said = "gathered" if is_right else f"taken: {name} on process {wrong}"
        except ValueError as error:
            text = " ".join(str(error).split())
            said = "refused" if name != "right" else f"wrongly_refused: {text}"
        except Exception as error:
            said = f"undocumented: {name} on process {wrong}: {type(error).__name__}: {error}"
        yield said if time.perf_counter() - begin < SECONDS else f"late: {name}"


def _send(folder: Path, seed: int, mine: Connection) -> None:
    torch.set_num_threads(1)
    # Until the other process ends.
    with suppress(BrokenPipeError, RuntimeError):
        for said in _calls(folder, seed, 1):
            mine.send(said)


def _tries(folder: Path, seed: int) -> Tries:
    context: Any = multiprocessing.get_context("spawn")
    theirs, mine = context.Pipe(duplex=False)
    other = context.Process(target=_send, args=(folder, seed, mine), daemon=True)
    other.start()
    mine.close()
    for said in _calls(folder, seed, 0):
        heard = theirs.recv()
        yield said if said == heard else f"differ: {said}; {heard}"


CAMPAIGN = Campaign("ranks", 1_000, frozenset({"gathered", "refused"}), _tries, patience=30.0)
