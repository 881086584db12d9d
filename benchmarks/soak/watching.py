"""Runs a campaign in a process of its own, and counts the outcomes of its tries."""

import multiprocessing
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from benchmarks.soak.campaign import Campaign

Show = Callable[[Counter[str]], object]
"""What is called with the counts so far after each try."""

CRASH, HANG, ERROR = "crash", "hang", "error"
SHOWN = 5
"""Faults of a campaign that are shown with their details."""
STARTING = 60.0
"""Seconds that the first try may take beside: the imports come before it."""


class Counts(NamedTuple):
    """What came of a campaign.

    Attributes:
        outcomes: how many tries had each outcome, by its word.
        faults: the first few that were not right, with their details.
        seconds: it took.
    """

    outcomes: Counter[str]
    faults: list[str]
    seconds: float

    @property
    def tries(self) -> int:
        """All of them."""
        return self.outcomes.total()


def watched(
    campaign: Campaign,
    seconds: float,
    tries: int | None,
    seed: int,
    show: Show = lambda _: None,
    method: str = "forkserver",
) -> Counts:
    """Run a campaign for so long, or so many tries, and count.

    A process that ends by itself is a `crash` (a signal, such as a segmentation fault) or an
    `error` (an exception that the campaign did not expect), and one that is silent for longer than
    the campaign's patience is a `hang`.

    Args:
        campaign: to run.
        seconds: after which no further try begins.
        tries: at most; None for no limit.
        seed: of the campaign.
        show: called with the counts so far after each try.
        method: of starting the process, as `multiprocessing` has them.
    """
    counts = Counts(Counter(), [], 0.0)
    begin = time.perf_counter()
    # A process that the campaign made may write a little longer than the campaign lives.
    prefix = f"soak-{campaign.name}-"
    with TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        context: Any = multiprocessing.get_context(method)
        # Processes are forked from one that has torch, so that none imports it again.
        context.set_forkserver_preload(["benchmarks.soak.birds"])
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(campaign, folder, seed, theirs))
        process.start()
        theirs.close()
        try:
            while time.perf_counter() - begin < seconds and (tries is None or counts.tries < tries):
                starting = 0 if counts.tries else STARTING
                outcome = _next(mine, campaign.patience + starting, process)
                counts.outcomes[word := outcome.partition(":")[0]] += 1
                if word not in campaign.right and len(counts.faults) < SHOWN:
                    counts.faults.append(outcome)
                show(counts.outcomes)
                if word in (CRASH, HANG, ERROR):
                    break
        finally:
            process.kill()
            process.join()
    return counts._replace(seconds=time.perf_counter() - begin)


def _next(mine: Connection, patience: float, process: BaseProcess) -> str:
    if not mine.poll(patience):
        return HANG
    try:
        return str(mine.recv())
    except EOFError:
        process.join()
        return f"{CRASH}: exit code {process.exitcode}"


def _send(campaign: Campaign, folder: str, seed: int, theirs: Connection) -> None:
    """In the process of the campaign: send one outcome after another."""
    # So that the process may be forked: OpenMP's threads do not come along.
    torch.set_num_threads(1)
    try:
        for outcome in campaign.tries(Path(folder), seed):
            theirs.send(outcome)
    except BrokenPipeError:
        return
    except Exception:
        theirs.send(f"{ERROR}: {traceback.format_exc()}")
