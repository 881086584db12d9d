"""From seconds to figures: quartiles, ratios turn by turn, the best rival, how near the floor."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.lookup.cells import Cell
from benchmarks.lookup.contest import Outcome
from benchmarks.lookup.contestants import OURS
from benchmarks.lookup.roofline import Ceilings, floor

HEADLINE = {"cpu": "shared", "cuda": "events"}
"""The pass that figures without a word more come from."""
SECOND = {"cpu": "alone", "cuda": "graph"}
PREFIX = {"cpu": "lookup.cpu", "cuda": "lookup.gpu"}
CHAMPIONS = {"cpu": ("auto",), "cuda": ("triton", "auto")}
"""Who stands for the package: on a GPU the lookup that is given the keys in half precision."""


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(numbers: Sequence[float]) -> Spread:
    """Quartiles; those of one number are itself."""
    if len(numbers) == 1:
        return Spread(*3 * [numbers[0]])
    return Spread(*statistics.quantiles(numbers, n=4, method="inclusive"))


def seconds(outcome: Outcome, label: str, name: str) -> Spread:
    """Of all calls of one contestant in one pass."""
    return spread([call for visit in outcome["passes"][label][name] for call in visit])


def ratio(outcome: Outcome, label: str, name: str, other: str) -> Spread:
    """Seconds of one by those of another, turn by turn, over the turns both took part in."""
    passed = outcome["passes"][label]
    return between(passed[name], passed[other])


def between(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Spread:
    """Visits of one by those of another, turn by turn."""
    return spread(
        [
            statistics.median(mine) / statistics.median(theirs)
            # Everyone takes part from the first turn on, and the slow leave after a few.
            for mine, theirs in zip(one, other, strict=False)
        ]
    )


def best_rival(
    outcome: Outcome, label: str, fits: Callable[[str], bool] | None = None
) -> str | None:
    """The rival with the lowest median that fits, which is by default every exact one."""
    who = outcome["who"]

    def stock(name: str) -> bool:
        return who[name]["exact"]

    fits = fits or stock
    rivals = [
        name
        for name in outcome["passes"].get(label, {})
        if who[name]["family"] != OURS and not who[name]["product"] and fits(name)
    ]
    return min(rivals, key=lambda name: seconds(outcome, label, name).median, default=None)


def best_of_families(outcome: Outcome, label: str) -> list[str]:
    """All of ours, then the fastest of every family, and bare products."""
    who, present = outcome["who"], outcome["passes"].get(label, {})
    shown = [name for name in present if who[name]["family"] == OURS]
    families = dict.fromkeys(who[name]["family"] for name in present)
    for family in [family for family in families if family != OURS]:
        best = best_rival(outcome, label, lambda name, f=family: who[name]["family"] == f)  # type: ignore[misc]
        shown += [best] if best is not None else []
    return shown + [name for name in present if who[name]["product"]]


def fraction(outcome: Outcome, label: str, name: str, ceilings: Ceilings) -> float:
    """How near to the roofline: its floor by the median."""
    least = floor(Cell(**outcome["cell"]), outcome["who"][name]["reads"], ceilings)
    return least / seconds(outcome, label, name).median


def figures(
    outcomes: Sequence[Outcome], device: str, ceilings: Ceilings, *, whole: bool
) -> dict[str, float]:
    """All that is published, by dotted key. The worst cell is known when the grid is `whole`."""
    found: dict[str, float] = {}
    for outcome in outcomes:
        found |= _of_cell(outcome, device, ceilings)
    if device == "cpu" and whole:
        for label, key in (("shared", "worst"), ("alone", "alone_worst")):
            worst = _worst(outcomes, label)
            if worst is not None:
                found[f"lookup.cpu.auto.{key}_ratio_to_best_stock"] = worst
    return found


def champion(outcome: Outcome, device: str) -> str | None:
    """Who stands for the package in this cell."""
    timed = outcome["passes"].get(HEADLINE[device], {})
    return next((name for name in CHAMPIONS[device] if name in timed), None)


def _of_cell(outcome: Outcome, device: str, ceilings: Ceilings) -> dict[str, float]:
    label, second, cell = HEADLINE[device], SECOND[device], outcome["name"]
    ours = champion(outcome, device)
    if ours is None:
        return {}
    key = f"{PREFIX[device]}.{cell}" + (".auto" if device == "cpu" else "")
    found = {
        f"{key}.microseconds": 1e6 * seconds(outcome, label, ours).median,
        f"{key}.fraction_of_roofline": fraction(outcome, label, ours, ceilings),
    }
    if device == "cuda":
        found |= _of_gpu(key, outcome, ours, ceilings)
    if not outcome["cell"]["k"]:
        pair = f"{PREFIX[device]}.nearest_pair.ratio_to_matmul.{cell}"
        return found | _with_quartiles(pair, _if_timed(outcome, label, ours, "torch.matmul"))
    if device == "cpu":
        found |= _speed(f"{key}.ratio_to_best_stock", outcome, label, ours)
        found |= _speed(f"{key}.alone_ratio_to_best_stock", outcome, second, ours)
        found |= _speed(f"{key}.ordered_ratio_to_best_stock", outcome, label, f"{ours}.ordered")
    return found


def _of_gpu(key: str, outcome: Outcome, ours: str, ceilings: Ceilings) -> dict[str, float]:
    label, second, torch = HEADLINE["cuda"], SECOND["cuda"], _of_torch(outcome)
    found = _speed(f"{key}.speedup_over_torch", outcome, label, ours, torch)
    found |= _speed(f"{key}.graph_speedup_over_torch", outcome, second, ours, torch)
    found |= _speed(f"{key}.speedup_over_exact", outcome, label, ours)
    if ours in outcome["passes"].get(second, {}):
        found[f"{key}.graph_fraction_of_roofline"] = fraction(outcome, second, ours, ceilings)
    facts = outcome["facts"].get(ours, {})
    numbers = {"extra_bytes": facts.get("extra_bytes"), "launches": facts.get("launches")}
    return found | {f"{key}.{name}": n for name, n in numbers.items() if n is not None}


def _of_torch(outcome: Outcome) -> Callable[[str], bool]:
    """Torch in whatever precision, though ours is exact."""
    return lambda name: outcome["who"][name]["family"] == "torch"


def _speed(
    key: str,
    outcome: Outcome,
    label: str,
    name: str,
    fits: Callable[[str], bool] | None = None,
) -> dict[str, float]:
    """How many times as fast as the best rival."""
    best = best_rival(outcome, label, fits)
    return _with_quartiles(key, _if_timed(outcome, label, best, name))


def _if_timed(outcome: Outcome, label: str, name: str | None, other: str) -> Spread | None:
    passed = outcome["passes"].get(label, {})
    if name not in passed or other not in passed:
        return None
    assert name is not None
    return ratio(outcome, label, name, other)


def _with_quartiles(key: str, of: Spread | None) -> dict[str, float]:
    if of is None:
        return {}
    return {key: of.median, f"{key}.quartile1": of.low, f"{key}.quartile3": of.high}


def _worst(outcomes: Sequence[Outcome], label: str) -> float | None:
    """The lowest ratio of the cells that ask for the k nearest, None unless each has one."""
    ratios = []
    for outcome in outcomes:
        if outcome["cell"]["k"]:
            one = _if_timed(outcome, label, best_rival(outcome, label), "auto")
            if one is None:
                return None
            ratios.append(one.median)
    return min(ratios, default=None)
