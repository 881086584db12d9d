"""Checks of an answer against the scores in float64, before anything is timed.

Of every row checked: as many slots as there are to find, each once and occupied; none that scores
lower than the k-th best by more than SLACK; the very slots of the truth wherever the scores beside
them are more than SLACK apart; scores, where there are any, within SLACK of the truth; and of keys
that are equal to the bit the lower slots, and those first.
"""

import torch
from torch import Tensor

from benchmarks.lookup.cells import Inputs
from rarememory import EMPTY

SLACK = 1e-6
"""A dot product of unit vectors in float32 is about as exact as this."""

_KEYS_AT_ONCE = 2**17


def true_scores(queries: Tensor, keys: Tensor, occupied: Tensor) -> Tensor:
    """Cosines [rows, slots] in float64, -inf where a slot is empty."""
    rows = queries.double()
    scores = torch.cat([rows @ some.double().T for some in keys.split(_KEYS_AT_ONCE)], dim=1)
    return scores.masked_fill_(~occupied, -torch.inf)


def fault(
    truth: Tensor, k: int, slots: Tensor, scores: Tensor | None = None, *, in_order: bool = False
) -> str | None:
    """What is wrong with the slots found for the rows of `truth`, in a sentence, or None."""
    found = min(k, int((truth[0] > -torch.inf).sum()))
    best, best_slots = truth.topk(min(k + 1, truth.shape[1]), dim=1)
    for row, (of_row, true) in enumerate(zip(slots, truth, strict=True)):
        there = of_row[of_row != EMPTY]
        if len(there) != found:
            return f"row {row} has {len(there)} slots and not {found}"
        if found == 0:
            continue
        if there.min() < 0 or there.max() >= len(true):
            return f"row {row} has a slot that does not exist"
        if len(there.unique()) != found:
            return f"row {row} has a slot twice"
        low = float(best[row, found - 1] - true[there].min())
        if low > SLACK:
            return f"row {row} has a slot that scores {low:.1e} lower than the k-th best"
        if not in_order:
            there = there[true[there].argsort(descending=True)]
        clear = _clear(best[row], found)
        if not torch.equal(there[clear], best_slots[row, :found][clear]):
            return f"row {row} has not the slots of the truth where the scores are clearly apart"
        if scores is not None:
            off = float((scores[row, :found].double() - true[of_row[:found]]).abs().max())
            if off > SLACK:
                return f"row {row} has a score that is {off:.1e} off"
    return None


def tie_fault(inputs: Inputs, slots: Tensor) -> str | None:
    """Whether of bit-identical keys a higher slot was found and a lower was not."""
    _, group = inputs.keys.unique(dim=0, return_inverse=True)
    group[~inputs.occupied] = len(group)
    by_group = group.argsort(stable=True)
    sizes = group.bincount(minlength=len(group) + 1)
    # A slot's number among its equals, the lowest slot being number 0.
    number = torch.empty_like(group)
    number[by_group] = torch.arange(len(group), device=group.device)
    number -= (sizes.cumsum(0) - sizes)[group]
    for row, of_row in enumerate(slots):
        there = of_row[of_row != EMPTY]
        taken = group[there].bincount(minlength=len(group) + 1)
        if bool((number[there] >= taken[group[there]]).any()):
            return f"row {row} has a higher slot of equal keys, and not the lower"
    return None


def pair_fault(
    truth: Tensor, values: Tensor, labels: Tensor, slots: tuple[Tensor, Tensor]
) -> str | None:
    """What is wrong with the slots of the positive and the negative of each row, or None."""
    right = values == labels.unsqueeze(1)
    for side, of_side, among in zip(("positive", "negative"), slots, (right, ~right), strict=True):
        allowed = truth.masked_fill(~among, -torch.inf)
        best = allowed.amax(1)
        missing = best == -torch.inf
        if not torch.equal(of_side == EMPTY, missing):
            return f"a {side} is EMPTY where there is one, or the other way round"
        there = (~missing).nonzero()[:, 0]
        low = best[there] - allowed[there, of_side[there]]
        if len(there) and float(low.max()) > SLACK:
            return f"a {side} scores {float(low.max()):.1e} lower than the best"
    return None


def pair_tie_fault(inputs: Inputs, slots: tuple[Tensor, Tensor]) -> str | None:
    """Whether a positive or a negative has an equal key in a lower slot that might stand for it."""
    right = inputs.values == inputs.labels.unsqueeze(1)
    for of_side, among in zip(slots, (right, ~right & inputs.occupied), strict=True):
        for row in (of_side != EMPTY).nonzero()[:, 0]:
            copies = (inputs.keys == inputs.keys[of_side[row]]).all(1) & among[row]
            if int(of_side[row]) != int(copies.nonzero()[0, 0]):
                return f"row {int(row)} has a higher slot of equal keys, and not the lower"
    return None


def recall(truth: Tensor, k: int, slots: Tensor) -> float:
    """Share of the places filled by slots that belong to the k best."""
    edge = truth.topk(min(k, truth.shape[1]), dim=1).values[:, -1:] - SLACK
    return float((truth.gather(1, slots.clamp(min=0)) >= edge).double().mean())


def _clear(best: Tensor, found: int) -> Tensor:
    """Ranks whose score is apart from the one before and the one after, if there is one."""
    gaps = best[:-1] - best[1:] > SLACK
    edge = gaps.new_ones(1)
    return torch.cat([edge, gaps])[:found] & torch.cat([gaps, edge])[:found]
