"""Small cases that a lookup must get right before it is timed: every kind of data, all ties."""

from itertools import product

import torch

from benchmarks.lookup import truth
from benchmarks.lookup.candidates import Answer, Candidate, Refused
from benchmarks.lookup.cells import DATA, Cell, Inputs, make_inputs
from rarememory import EMPTY

CASES = ((129, 33, 1, 1), (1000, 64, 17, 10), (1000, 128, 16, 256), (129, 128, 3, 200))
"""Slots, key_dim, batch and k: ragged sizes, and more neighbours asked for than there are."""


def trial(candidate: Candidate, device: str, *, pair: bool) -> str | None:
    """The first case that is answered wrongly, in a sentence, or None. Some slots are empty."""
    for data, (slots, key_dim, batch, k) in product(DATA, CASES):
        cell = Cell(batch, slots, key_dim, 0 if pair else k, data)
        given = _with_holes(make_inputs(cell, 0, device))
        try:
            answer = candidate.prepare(given, cell)()
        except Refused:
            # It may support other sizes; a cell of this one reports why not.
            continue
        wrong = _wrong(answer, given, cell, candidate.in_order)
        if wrong is not None:
            return f"{cell.name}: {wrong}"
    return None


def _with_holes(given: Inputs) -> Inputs:
    occupied = given.occupied.clone()
    occupied[5::7] = False
    return Inputs(
        given.queries,
        given.keys.masked_fill(~occupied.unsqueeze(1), 0.0),
        occupied,
        # Few values, so that each is found in many slots.
        (given.values % 5).masked_fill(~occupied, EMPTY),
        given.labels % 6,
    )


def _wrong(answer: Answer, given: Inputs, cell: Cell, in_order: bool) -> str | None:
    true = truth.true_scores(given.queries, given.keys, given.occupied)
    if cell.pair:
        wrong = truth.pair_fault(true, given.values, given.labels, answer)
        return wrong or truth.pair_tie_fault(given, answer)
    slots, scores = answer
    if slots.dtype != torch.int64:
        return f"the slots are {slots.dtype} and not torch.int64"
    fault = truth.fault(true, cell.k, slots, scores, in_order=in_order)
    return fault or truth.tie_fault(given, slots)
