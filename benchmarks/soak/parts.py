"""A campaign's parts, several side by side; those that have ended are kept and not run again."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from benchmarks.cache import CellCache
from benchmarks.soak.campaign import Campaign
from benchmarks.soak.watching import CRASH, ERROR, HANG, Counts, Show, watched


def watched_parts(
    campaign: Campaign,
    seconds: float,
    seed: int,
    cache: CellCache,
    workers: int,
    show: Show = lambda _: None,
    method: str = "forkserver",
) -> Counts:
    """Run the parts of a campaign, each to its goal in a process of its own, and count.

    A part that is not in the cache is run, and kept there if it came to its goal: one that was
    stopped, or whose process crashed, was silent or failed, is run again by the next call.

    Args:
        campaign: with parts.
        seconds: after which no further try begins.
        seed: of every part.
        cache: of the parts that have ended.
        workers: how many run at once.
        show: called with the counts so far of all parts after each try.
        method: of starting the processes, as `multiprocessing` has them.

    Returns:
        The counts of all parts, and the seconds that all processes took together.
    """
    end = time.perf_counter() + seconds
    shown: dict[str, Counter[str]] = {}

    def run(part: Campaign) -> Counts:
        stored = cache.get(part.name)
        if stored is not None:
            return Counts(Counter(stored["outcomes"]), stored["faults"], stored["seconds"])

        def add(outcomes: Counter[str]) -> None:
            shown[part.name] = outcomes.copy()
            show(sum(list(shown.values()), Counter()))

        left = end - time.perf_counter()
        if left <= 0:
            return Counts(Counter(), [], 0.0)
        part = part._replace(patience=campaign.patience)
        counts = watched(part, left, part.goal, seed, add, method)
        if counts.tries == part.goal and not {CRASH, HANG, ERROR} & counts.outcomes.keys():
            cache.put(part.name, counts._asdict())
        return counts

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(run, campaign.parts))
    outcomes = sum((counts.outcomes for counts in found), Counter[str]())
    faults = [fault for counts in found for fault in counts.faults]
    return Counts(outcomes, faults, sum(counts.seconds for counts in found))
