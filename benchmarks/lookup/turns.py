"""Turns: everyone is timed once in each, in a new order, so that all share the machine's noise."""

import random
import time
from collections.abc import Callable, Sequence

SLOW = 4.0
"""Times the fastest: whoever is slower takes part in the first three turns only."""
LEAST, MOST, SLOW_TURNS = 5, 200, 3

Visit = Callable[[str], list[float]]


def in_turns(
    names: Sequence[str], visit: Visit, budget: float, *, seed: int = 0
) -> dict[str, list[list[float]]]:
    """Seconds by name, a list of visits; turns go on until the budget is spent.

    There are five at least, so the slowest cells take longer than their budget.
    """
    shuffled = random.Random(seed)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    begin = time.perf_counter()
    for turn in range(MOST):
        if turn >= LEAST and time.perf_counter() - begin > budget:
            break
        present = list(names) if turn < SLOW_TURNS else _fast(seconds)
        for name in shuffled.sample(present, len(present)):
            seconds[name].append(visit(name))
    return seconds


def _fast(seconds: dict[str, list[list[float]]]) -> list[str]:
    """Whoever was within SLOW times the fastest in the turns of all."""
    best = {
        name: min(min(visit) for visit in visits[:SLOW_TURNS]) for name, visits in seconds.items()
    }
    return [name for name in seconds if best[name] <= SLOW * min(best.values())]
