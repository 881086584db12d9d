"""Turns: everyone is timed once in each, in a new order, so that all share the machine's noise."""

import random
import time
from collections.abc import Callable, Mapping

SLOW = 4.0
"""Times the fastest of its group: whoever is slower takes part in the first two turns only."""
LEAST, MOST, SLOW_TURNS = 5, 200, 2

Visit = Callable[[str], list[float]]
Seconds = dict[str, list[list[float]]]
"""By name, the visits of all turns, each the seconds of its calls."""


def in_turns(groups: Mapping[str, str], visit: Visit, budget: float, *, seed: int = 0) -> Seconds:
    """Seconds of everyone; turns go on until the budget is spent.

    There are five at least, so the slowest cells take longer than their budget. `groups` names
    everyone's group: the fastest of each takes part in all turns.
    """
    shuffled = random.Random(seed)
    seconds: Seconds = {name: [] for name in groups}
    begin = time.perf_counter()
    for turn in range(MOST):
        if turn >= LEAST and time.perf_counter() - begin > budget:
            break
        present = list(groups) if turn < SLOW_TURNS else fast(seconds, groups)
        for name in shuffled.sample(present, len(present)):
            seconds[name].append(visit(name))
    return seconds


def fast(seconds: Seconds, groups: Mapping[str, str]) -> list[str]:
    """Whoever was within SLOW times the fastest of the group in the turns of all."""
    best = {name: min(map(min, visits[:SLOW_TURNS])) for name, visits in seconds.items()}
    leader: dict[str, float] = {}
    for name, of_name in best.items():
        leader[groups[name]] = min(of_name, leader.get(groups[name], of_name))
    return [name for name in seconds if best[name] <= SLOW * leader[groups[name]]]
