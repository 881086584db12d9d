"""The figures that are published of finished cells, by dotted key."""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.lookup.candidates import SORTED
from benchmarks.lookup.outcome import HEADLINE, SECOND, Outcome, Spread
from benchmarks.lookup.roofline import Ceilings

PREFIX = {"cpu": "lookup.cpu", "cuda": "lookup.gpu"}


def figures(
    outcomes: Sequence[Outcome],
    device: str,
    ceilings: Ceilings,
    *,
    whole: bool,
    instruction_set: str | None = None,
) -> dict[str, float]:
    """The figures of all cells, and those of the worst one if the grid is `whole`.

    Those of a CPU are named after its instruction set, if one is given.
    """
    prefix = PREFIX[device] + (f".{instruction_set}" if instruction_set else "")
    found: dict[str, float] = {}
    for outcome in outcomes:
        found |= _of_cell(outcome, device, ceilings, prefix)
    if device == "cpu" and whole:
        found |= _worst_cells(outcomes, prefix)
    return found


def with_quartiles(key: str, of: Spread | None) -> dict[str, float]:
    """The median under the key, and its quartiles; nothing of None."""
    if of is None:
        return {}
    return {key: of.median, f"{key}.quartile1": of.low, f"{key}.quartile3": of.high}


def _of_cell(outcome: Outcome, device: str, ceilings: Ceilings, prefix: str) -> dict[str, float]:
    label, second, cell = HEADLINE[device], SECOND[device], outcome.cell
    ours = outcome.champion(device)
    if ours is None:
        return {}
    key = f"{prefix}.{cell.name}" + (".auto" if device == "cpu" else "")
    found = {
        f"{key}.microseconds": 1e6 * outcome.seconds(label, ours).median,
        f"{key}.fraction_of_roofline": outcome.roofline_fraction(label, ours, ceilings),
    }
    if device == "cuda":
        found |= _of_gpu(key, outcome, ours, ceilings)
    if cell.pair:
        pair = f"{prefix}.nearest_pair.ratio_to_matmul.{cell.name}"
        return found | with_quartiles(pair, outcome.ratio(label, ours, "torch.matmul"))
    if device == "cpu":
        ordered = ("ordered_ratio", label, f"{ours}.ordered")
        for name, one, who in (("ratio", label, ours), ("alone_ratio", second, ours), ordered):
            found |= with_quartiles(f"{key}.{name}_to_best_stock", outcome.speedup(one, who))
    return found


def _of_gpu(key: str, outcome: Outcome, ours: str, ceilings: Ceilings) -> dict[str, float]:
    label, second = HEADLINE["cuda"], SECOND["cuda"]

    def torch(name: str) -> bool:
        """In any precision, though ours is exact."""
        return outcome.family(name) == "torch"

    over_torch, in_graphs = (outcome.speedup(one, ours, torch) for one in (label, second))
    found = with_quartiles(f"{key}.speedup_over_torch", over_torch)
    found |= with_quartiles(f"{key}.graph_speedup_over_torch", in_graphs)
    found |= with_quartiles(f"{key}.speedup_over_exact", outcome.speedup(label, ours))
    if ours in outcome.passes.get(second, {}):
        fraction = outcome.roofline_fraction(second, ours, ceilings)
        found[f"{key}.graph_fraction_of_roofline"] = fraction
    return found


def _worst_cells(outcomes: Sequence[Outcome], prefix: str) -> dict[str, float]:
    """The worst cell of the search, and of the read with scores in order.

    The read stands beside the best rival that sorts and scores, and beside the best of all.
    """

    def sorts(outcome: Outcome, name: str) -> bool:
        return outcome.candidates[name]["returns"] == SORTED

    every = {
        "auto.worst_ratio_to_best_stock": _worst(outcomes, "shared"),
        "auto.alone_worst_ratio_to_best_stock": _worst(outcomes, "alone"),
        "ordered.worst_ratio": _worst(outcomes, "shared", "auto.ordered", sorts),
        "ordered.worst_ratio_to_unsorted": _worst(outcomes, "shared", "auto.ordered"),
    }
    return {f"{prefix}.{name}": ratio for name, ratio in every.items() if ratio is not None}


def _worst(
    outcomes: Sequence[Outcome],
    label: str,
    name: str = "auto",
    fits: Callable[[Outcome, str], bool] | None = None,
) -> float | None:
    """The lowest speedup of the cells that ask for the k nearest, None unless each has one."""
    speedups = [
        one.speedup(label, name, partial(fits, one) if fits else None)
        for one in outcomes
        if not one.cell.pair
    ]
    medians = [speedup.median for speedup in speedups if speedup is not None]
    return min(medians, default=None) if len(medians) == len(speedups) else None
