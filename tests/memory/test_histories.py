"""Histories of reads, writes and forgets, drawn at random: the memory against the oracle."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Memory,
)
from rarememory.memory.updates import slot_noise
from tests.oracle import PaperMemory, Recall, Written

CLEAR = 2e-6  # scores that differ by less may be rounded into another order
VERBS = ["read", "learn", "write", "write", "write recall", "write recall", "forget", "resize"]
LOOKUPS = ["torch", "faiss", "native", "auto", "torch in float64"]


@dataclass
class Rows:
    queries: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor | None

    def listed(self) -> tuple[list[list[float]], list[int], list[bool] | None]:
        mask = None if self.mask is None else self.mask.tolist()
        return self.queries.tolist(), self.labels.tolist(), mask


class Pair:
    """A memory and its oracle, which live through the same history."""

    def __init__(self, key_dim, memory_size, policy, age_noise, k, lookup, pool, seed):
        updates = {
            "average": AverageOrReplace(age_noise),
            "random": AverageOrReplaceRandom(),
            "first": FirstInFirstOut(),
        }
        self.policy, self.seed = policy, seed
        self.scale = {"average": age_noise, "random": 1.0, "first": 0.0}[policy]
        name = lookup.removesuffix(" in float64")
        self.memory = Memory(
            key_dim, memory_size, k=k, lookup=name, update=updates[policy], seed=seed
        )
        if name != lookup:
            self.memory.double()
        self.near = 1e-10 if name != lookup else 5e-6
        self.oracle = PaperMemory(key_dim, memory_size)
        generator = torch.Generator().manual_seed(seed)
        # Keys that are replaced, not averaged, may be exact copies of each other: real ties.
        self.pool = torch.randn(5, key_dim, generator=generator) if pool else None

    def rows(self, count: int, seed: int) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        queries = torch.randn(count, self.oracle.key_dim, generator=generator)
        if self.pool is not None:
            queries = self.pool[torch.randint(0, 5, (count,), generator=generator)]
        queries = queries.to(self.memory.keys.dtype)
        labels = torch.randint(0, 4, (count,), generator=generator) * 10**12
        mask = torch.rand(count, generator=generator) < 0.8 if seed % 3 else None
        return Rows(queries, labels, mask)

    def clear_rows(self, rows: Rows) -> Rows:
        """With the rows masked out whose order of neighbours or hinge hangs on rounding."""
        clear = [
            self.is_clear(query, label)
            for query, label in zip(rows.queries.tolist(), rows.labels.tolist(), strict=True)
        ]
        if all(clear):
            return rows
        mask = torch.tensor(clear)
        return Rows(rows.queries, rows.labels, mask if rows.mask is None else rows.mask & mask)

    def is_clear(self, query: list[float], label: int) -> bool:
        scores = [self.oracle.score(query, s) for s in self.oracle.nearest(query, 99)]
        gaps = [a - b for a, b in pairwise(scores)]
        positive, negative = self.oracle.nearest_pair(query, label)
        hinge = self.oracle.margin - (
            0.0 if positive is None else self.oracle.score(query, positive)
        )
        hinge += 0.0 if negative is None else self.oracle.score(query, negative)
        return abs(hinge) > CLEAR and all(gap == 0 or gap > CLEAR for gap in gaps)

    def read(self, count: int, seed: int) -> None:
        rows = self.rows(count, seed)
        recall = self.memory(rows.queries)
        queries, labels, _ = rows.listed()
        for row, query in enumerate(queries):
            truth = self.oracle.read(query, self.memory.k)
            answer = [part[row].tolist() for part in (recall.scores, recall.weights)]
            self.compare(answer, recall, row, truth, self.is_clear(query, labels[row]))

    def compare(self, answer, recall, row: int, truth: Recall, clear: bool) -> None:
        scores, weights = answer
        found = len(truth.slots)
        assert scores[:found] == pytest.approx(truth.scores, abs=self.near)
        # A score is divided by the temperature before it becomes a weight.
        assert weights[:found] == pytest.approx(truth.weights, abs=40 * self.near)
        assert set(scores[found:]) <= {-torch.inf} and set(weights[found:]) <= {0.0}
        assert set(recall.slots[row, found:].tolist()) <= {EMPTY}
        assert set(recall.values[row, found:].tolist()) <= {EMPTY}
        assert recall.confidence[row].item() == pytest.approx(truth.confidence, abs=40 * self.near)
        if clear:
            assert recall.slots[row, :found].tolist() == truth.slots
            assert recall.values[row, :found].tolist() == truth.values
            assert recall.prediction[row].item() == truth.prediction

    def learn(self, count: int, seed: int) -> None:
        rows = self.clear_rows(self.rows(count, seed))
        queries, labels, mask = rows.listed()
        raw = rows.queries.requires_grad_()
        recall = self.memory(raw, rows.labels, mask=rows.mask)
        truth = self.oracle.loss(queries, labels, mask)
        assert recall.loss.item() == pytest.approx(truth, abs=self.near)
        recall.loss.backward()
        slope = torch.tensor(self.oracle.loss_gradient(queries, labels, mask), dtype=raw.dtype)
        torch.testing.assert_close(
            raw.grad, slope.view_as(raw), atol=20 * self.near, rtol=20 * self.near
        )
        for row, query in enumerate(queries):
            pair = self.oracle.nearest_pair(query, labels[row])
            there = {slot for slot in pair if slot is not None}
            if mask is not None and not mask[row]:
                there = set()
            assert set(recall.slots[row].tolist()) - {EMPTY} == there
            values = [EMPTY if s == EMPTY else self.oracle.values[s] for s in recall.slots[row]]
            assert recall.values[row].tolist() == values

    def write(self, count: int, seed: int, recalled: bool = False) -> None:
        rows = self.clear_rows(self.rows(count, seed))
        asked: object = rows.queries
        if recalled and seed % 2:
            asked = self.memory(rows.queries)
        elif recalled:
            asked = self.memory(rows.queries, rows.labels, mask=rows.mask)
        done = self.memory.write(asked, rows.labels, mask=rows.mask)
        truth = self.oracle.write(
            *rows.listed(),
            noise=self.noise,
            average=self.policy != "first",
            evict="random" if self.policy == "random" else "oldest",
        )
        said = [Written(*row) for row in zip(*(part.tolist() for part in done), strict=True)]
        queries, labels, mask = rows.listed()
        mask = mask or [True] * len(labels)
        # Which of two equal rows takes which of two slots is nobody's business.
        assert sorted(zip(mask, queries, labels, said, strict=True)) == sorted(
            zip(mask, queries, labels, truth, strict=True)
        )

    def noise(self, clock: int) -> list[float]:
        seed, now = torch.tensor(self.seed), torch.tensor(clock)
        return (self.scale * slot_noise(seed, now, len(self.oracle.keys))).tolist()

    def forget(self, count: int, seed: int) -> None:
        if seed % 11 == 0:
            self.memory.clear()
            self.oracle.clear()
            return
        slots = [slot for slot in range(len(self.oracle.keys)) if (seed + slot) % 3]
        conditions = {
            "labels": [seed % 4 * 10**12] if seed & 4 else None,
            "slots": slots if seed & 8 else None,
            "older_than": count if seed & 16 else None,
        }
        if any(condition is not None for condition in conditions.values()):
            assert self.memory.forget(**conditions) == self.oracle.forget(**conditions)

    def resize(self, count: int, seed: int) -> None:
        self.memory.resize(count + 1)
        self.oracle.resize(count + 1)

    def check_state(self) -> None:
        memory, oracle = self.memory, self.oracle
        assert memory.values.tolist() == oracle.values
        empty = memory.values == EMPTY
        assert memory.ages[empty].eq(EMPTY).all()
        assert memory.ages.clamp(min=0).tolist() == oracle.ages
        assert memory.clock.item() == oracle.clock and len(memory) == int((~empty).sum())
        keys = [key or [0.0] * oracle.key_dim for key in oracle.keys]
        truth = torch.tensor(keys, dtype=memory.keys.dtype)
        torch.testing.assert_close(memory.keys, truth, atol=self.near, rtol=0)


@pytest.mark.parametrize("lookup", LOOKUPS)
@settings(max_examples=60)
@given(
    key_dim=st.sampled_from([2, 3, 7, 33]),
    memory_size=st.sampled_from([1, 2, 5, 9, 33]),
    policy=st.sampled_from(["average", "average", "random", "first"]),
    age_noise=st.sampled_from([0.0, 3.0, 8.0]),
    k=st.sampled_from([1, 2, 5, 256]),
    pool=st.booleans(),
    seed=st.integers(-(2**63), 2**63 - 1),
    history=st.lists(
        st.tuples(st.sampled_from(VERBS), st.integers(0, 12), st.integers(0, 9999)), max_size=14
    ),
)
def test_any_history_leaves_the_memory_of_the_paper(
    lookup, key_dim, memory_size, policy, age_noise, k, pool, seed, history
):
    pool = pool and policy == "first"
    pair = Pair(key_dim, memory_size, policy, age_noise, k, lookup, pool, seed)
    for verb, count, step_seed in history:
        if verb == "write recall":
            pair.write(count, step_seed, recalled=True)
        else:
            getattr(pair, verb)(count, step_seed)
        pair.check_state()
