"""Budgets of slots, protected classes, reservoirs and selections in plain loops; see oracle.py."""

import math
from collections.abc import Callable

from tests.oracle import EMPTY, PaperMemory, Vector, Vectors, dot, fingerprint, unit

Select = Callable[[Vectors, Vector, int], list[int]]


def herding(rows: Vectors, centre: Vector, count: int) -> list[int]:
    """Rebuffi et al. 2017, algorithm 4, with means put at unit length: the greatest cosine."""
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)):
        best, most = -1, -math.inf
        for place, row in enumerate(rows):
            if place in chosen:
                continue
            total = [sum(column) for column in zip(row, *(rows[j] for j in chosen), strict=True)]
            cosine = dot(total, centre) / math.hypot(*total)
            if round(cosine * 1e6) > round(most * 1e6 if best >= 0 else -3e6):
                best, most = place, cosine
        chosen.append(best)
    return chosen


def closest(rows: Vectors, centre: Vector, count: int) -> list[int]:
    """Those whose own cosine with the centre is greatest; ties lower."""
    near = [round(1e6 * dot(row, centre)) for row in rows]
    return sorted(range(len(rows)), key=lambda place: (-near[place], place))[:count]


def splitmix(seed: int, number: int) -> float:
    """Steele, Lea and Flood 2014: that number of the sequence of a seed, in [0, 1)."""
    bits = 2**64 - 1
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & bits
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


class BudgetMemory(PaperMemory):
    """A memory whose policy looks at classes: each of its writes is one, without a second part."""

    def __init__(
        self, key_dim: int, memory_size: int, most: int | None = None, *,
        average: bool = False, select: Select | None = None, reservoir: bool = False,
        protected: tuple[int, ...] = (), seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(key_dim, memory_size)
        self.most, self.average, self.select, self.reservoir = most, average, select, reservoir
        self.protected, self.seed = protected, seed
        # Of each class: rows that were offered, and their sum; forgotten with its last slot.
        self.offered: dict[int, int] = {}
        self.sums: dict[int, Vector] = {}

    def slots_of(self, label: int) -> list[int]:
        """EMPTY stands for the whole memory."""
        there = enumerate(self.values)
        return [s for s, v in there if v != EMPTY and label in (EMPTY, v)]

    def replace(self, queries: Vectors, labels: list[int]) -> list[int]:
        """Write; of each row its slot, EMPTY where it is not kept."""
        for seen in (self.offered, self.sums):
            for label in [label for label in seen if not self.slots_of(label)]:
                del seen[label]
        n1 = {row: s for row in range(len(queries)) for s in self.nearest(queries[row], 1)}
        hits = [row for row in n1 if self.average and self.values[n1[row]] == labels[row]]
        busy = {n1[row] for row in hits}
        rest = [row for row in range(len(queries)) if row not in hits]
        rest.sort(key=lambda row: (labels[row], fingerprint(queries[row])))
        whole = self.reservoir and self.most is None
        target: dict[int, int | None] = {}
        for label in dict.fromkeys(EMPTY if whole else labels[row] for row in rest):
            rows = [row for row in rest if whole or labels[row] == label]
            own = self.slots_of(label)
            most = len(self.keys) if self.most is None else self.most
            if self.reservoir:
                target |= self._drawn(label, rows, own, most)
            elif self.select is not None:
                target |= self._selected(label, queries, rows, own, most)
            else:
                room = max(0, most - len(own))
                own = sorted((s for s in own if s not in busy), key=lambda s: (-self.ages[s], s))
                target |= dict.fromkeys(rows[:room])
                target |= dict(zip(rows[room:], own, strict=False))
        claimed = {slot for slot in target.values() if slot is not None}
        free = [slot for slot, value in enumerate(self.values) if value == EMPTY]
        old = [s for s in range(len(self.keys)) if s not in busy | claimed | {*free}]
        old = [s for s in old if self.values[s] not in self.protected]
        free += sorted(old, key=lambda s: (-self.ages[s], s))
        takers = [row for row in rest if row in target and target[row] is None]
        assert len(takers) <= len(free) or not self.protected, "refused"
        target |= dict(zip(takers, free, strict=False))
        for slot in busy:
            parts = [unit(queries[row]) for row in hits if n1[row] == slot]
            total = [math.fsum(x) for x in zip(self.key(slot), *parts, strict=True)]
            self.keys[slot] = unit(total) if math.hypot(*total) >= 1e-12 else self.keys[slot]
        slots = [n1[row] if row in hits else EMPTY for row in range(len(queries))]
        for row in rest:
            slot = target.get(row)
            if slot is not None:
                slots[row] = slot
                self.keys[slot], self.values[slot] = unit(queries[row]), labels[row]
        for slot, value in enumerate(self.values):
            self.ages[slot] = 0 if slot in slots or value == EMPTY else self.ages[slot] + 1
        if {*slots} == {EMPTY}:
            # A write that stored nothing is none: nothing grows older.
            self.ages = [age - (v != EMPTY) for age, v in zip(self.ages, self.values, strict=True)]
        return slots

    def _drawn(
        self, label: int, rows: list[int], own: list[int], most: int
    ) -> dict[int, int | None]:
        """Vitter 1985, algorithm R: row number t takes place j of 0 ... t, if there is one."""
        held: list[tuple[int | None, int | None]] = [(None, slot) for slot in own]
        for row in rows:
            t = self.offered.get(label, 0)
            if len(held) < most:
                held.append((row, None))
            else:
                seed = self.seed + (label + 1) * 0xD1B54A32D192ED03
                j = int(splitmix(seed, t) * (t + 1))
                if j < len(held):
                    held[j] = row, held[j][1]
            self.offered[label] = t + 1
        return {row: slot for row, slot in held if row is not None}

    def _selected(
        self, label: int, queries: Vectors, rows: list[int], own: list[int], most: int
    ) -> dict[int, int | None]:
        """Of the slots of the class and the new rows those that are chosen."""
        assert self.select is not None
        both = [*(self.key(slot) for slot in own), *(unit(queries[row]) for row in rows)]
        parts = [self.sums.get(label, [0.0] * self.key_dim), *both[len(own) :]]
        self.sums[label] = [math.fsum(column) for column in zip(*parts, strict=True)]
        kept = range(len(both))
        if len(both) > most:
            kept = self.select(both, unit(self.sums[label]), most)
        gone = [slot for place, slot in enumerate(own) if place not in kept]
        stored = [row for place, row in enumerate(rows, len(own)) if place in kept]
        return dict(zip(stored, [*gone, *[None] * len(rows)], strict=False))
