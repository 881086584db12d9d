"""Interleaved timing: each round times everyone once, in a new order; all share the noise."""

import random
import time
from collections.abc import Callable, Mapping

SLOW = 4.0
"""Who is slower than so many times the fastest of its group is timed in the first rounds only."""
LEAST, MOST, SLOW_ROUNDS = 5, 200, 2

Seconds = dict[str, list[list[float]]]
"""By name, for each round the seconds of its calls."""


def interleaved(
    groups: Mapping[str, str],
    measure: Callable[[str], list[float]],
    budget: float,
    *,
    seed: int = 0,
) -> Seconds:
    """Time everyone until the budget in seconds is spent, in five rounds at least.

    `groups` maps each name to its group: the fastest of every group is timed in all rounds.
    """
    shuffled = random.Random(seed)
    seconds: Seconds = {name: [] for name in groups}
    begin = time.perf_counter()
    for round_ in range(MOST):
        if round_ >= LEAST and time.perf_counter() - begin > budget:
            break
        present = list(groups) if round_ < SLOW_ROUNDS else fast(seconds, groups)
        for name in shuffled.sample(present, len(present)):
            seconds[name].append(measure(name))
    return seconds


def fast(seconds: Seconds, groups: Mapping[str, str]) -> list[str]:
    """Who was within SLOW times the fastest of its group in the rounds of all."""
    best = {name: min(map(min, rounds[:SLOW_ROUNDS])) for name, rounds in seconds.items()}
    fastest: dict[str, float] = {}
    for name, of_name in best.items():
        fastest[groups[name]] = min(of_name, fastest.get(groups[name], of_name))
    return [name for name in seconds if best[name] <= SLOW * fastest[groups[name]]]
