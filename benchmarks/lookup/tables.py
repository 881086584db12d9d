"""What the terminal shows: a block for every cell, and a line for each at the end."""

from collections.abc import Iterator, Sequence

from benchmarks.lookup.outcome import HEADLINE, SECOND, Outcome
from benchmarks.lookup.roofline import Ceilings


def block(outcome: Outcome, device: str, ceilings: Ceilings) -> Iterator[str]:
    """Ours and the best of every family in both passes, and who was refused and why."""
    if outcome.dropped is not None:
        yield f"{outcome.cell.name}: dropped: {outcome.dropped}"
        return
    for label in (HEADLINE[device], SECOND[device]):
        shown = outcome.best_of_families(label)
        if shown:
            foreign = outcome.foreign.get(label)
            noise = "" if foreign is None else f"; others took {foreign:.0%} of the machine"
            yield f"{outcome.cell.name}, {label}{noise}"
        for name in shown:
            yield _row(outcome, label, name, ceilings)
    for name, reason in outcome.refused.items():
        yield f"  {name}: not timed: {reason}"


def _row(outcome: Outcome, label: str, name: str, ceilings: Ceilings) -> str:
    low, median, high = (1e6 * number for number in outcome.seconds(label, name))
    row = f"  {name:28} {median:12,.1f} us ({low:,.1f} to {high:,.1f})"
    row += f"  {outcome.roofline_fraction(label, name, ceilings):6.1%} of the roofline"
    speedup = outcome.speedup(label, name)
    if speedup is not None:
        row += f"  {speedup.median:7.2f}x {outcome.best_rival(label)}"
    recall = outcome.facts.get(name, {}).get("recall", 1.0)
    row += f"  recall {recall:.4f}" if recall < 1 else ""
    return f"{row}  {len(outcome.passes[label][name])} rounds"


def summary(outcomes: Sequence[Outcome], device: str, ceilings: Ceilings) -> Iterator[str]:
    """A line per cell: ours, the best exact rival, how many times as fast, how near the roofline.

    The speed is given for slots alone, for slots with scores in order, and in the second pass.
    """
    label, second = HEADLINE[device], SECOND[device]
    yield (
        f"{'cell':24} {'ours us':>12} {'best rival us':>14} {'':18} {'speed':>7} "
        f"{'quartiles':>14} {'ordered':>8} {second:>8} {'roofline':>9}"
    )
    for outcome in outcomes:
        best, ours = outcome.best_rival(label), outcome.champion(device)
        speedup = outcome.speedup(label, ours) if ours else None
        if best is None or ours is None or speedup is None:
            yield f"{outcome.cell.name:24} {outcome.dropped or 'not run'}"
            continue
        low, median, high = speedup
        yield (
            f"{outcome.cell.name:24} {1e6 * outcome.seconds(label, ours).median:12,.1f} "
            f"{1e6 * outcome.seconds(label, best).median:14,.1f} {best:18} {median:6.2f}x "
            f"{low:6.2f} to {high:4.2f} {_speed(outcome, label, f'{ours}.ordered'):>8} "
            f"{_speed(outcome, second, ours):>8} "
            f"{outcome.roofline_fraction(label, ours, ceilings):9.1%}"
        )


def _speed(outcome: Outcome, label: str, name: str) -> str:
    speedup = outcome.speedup(label, name)
    return "-" if speedup is None else f"{speedup.median:.2f}x"
