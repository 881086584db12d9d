"""The judge is judged: numbers worked out by hand in two and three dimensions."""

import math
import random

import pytest

from tests.oracle import EMPTY, PaperMemory, Written, fingerprint, unit

EAST, NORTH, WEST, SOUTH = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]


def remembering(*pairs: tuple[list[float], int], memory_size: int | None = None) -> PaperMemory:
    """A memory with these keys and values in slots 0, 1, ..., all of age 0."""
    memory = PaperMemory(len(pairs[0][0]), memory_size or len(pairs))
    for slot, (key, value) in enumerate(pairs):
        memory.keys[slot], memory.values[slot] = unit(key), value
    return memory


def test_a_read_gives_the_nearest_first_and_softmax_weights() -> None:
    memory = remembering((NORTH, 7), (EAST, 5), memory_size=3)
    memory.temperature = 0.2
    recall = memory.read([30.0, 40.0], k=9)
    assert recall.slots == [0, 1] and recall.values == [7, 5] and recall.prediction == 7
    assert recall.scores == pytest.approx([0.8, 0.6])
    # (0.8 - 0.6) / 0.2 = 1, so the odds are e : 1.
    assert recall.weights == pytest.approx([math.e / (math.e + 1), 1 / (math.e + 1)])
    assert recall.confidence == recall.weights[0]
    assert memory.read([30.0, 40.0], k=1).weights == [1.0]


def test_equal_scores_go_to_the_lower_slot() -> None:
    memory = remembering((WEST, 1), (EAST, 2), (EAST, 3), (NORTH, 4), (EAST, 2))
    assert memory.nearest(EAST, 4) == [1, 2, 4, 3]
    assert memory.nearest_pair(EAST, 2) == (1, 2)
    assert memory.nearest_pair(EAST, 3) == (2, 1)


def test_an_empty_memory_answers_nothing_and_loses_nothing() -> None:
    memory = PaperMemory(2, 3)
    assert memory.read(EAST, 2) == ([], [], [], [], EMPTY, 0.0)
    assert memory.nearest_pair(EAST, 1) == (None, None)
    assert memory.loss([EAST], [1]) == 0.0 and memory.loss([], []) == 0.0
    assert memory.loss_gradient([EAST], [1]) == [[0.0, 0.0]]


def test_the_nearest_pair_is_sought_in_the_whole_memory() -> None:
    memory = remembering((EAST, 1), ([4.0, 3.0], 1), ([3.0, 4.0], 1), (WEST, 2))
    assert memory.nearest_pair(EAST, 2) == (3, 0)
    assert memory.nearest_pair(EAST, 9) == (None, 0)
    assert memory.nearest_pair(EAST, 1) == (0, 3)


def test_the_loss_is_the_hinge_of_the_paper() -> None:
    memory = remembering((EAST, 1), (NORTH, 2))
    q = [3.0, 4.0]
    assert memory.loss([q], [1]) == pytest.approx(0.8 - 0.6 + 0.1)
    assert memory.loss([q], [2]) == 0.0  # 0.6 - 0.8 + 0.1 < 0
    # A class that is not in the memory has positive score 0.
    assert memory.loss([q], [3]) == pytest.approx(0.8 - 0.0 + 0.1)
    assert memory.loss([[-3.0, -4.0]], [3]) == 0.0  # -0.6 - 0 + 0.1 < 0
    assert memory.loss([q, q, q], [1, 2, 3]) == pytest.approx((0.3 + 0.0 + 0.9) / 3)
    assert memory.loss([q, q, q], [1, 2, 3], [True, True, False]) == pytest.approx(0.15)
    assert memory.loss([q], [1], [False]) == 0.0
    assert remembering((EAST, 1)).loss([NORTH], [1]) == 0.0  # no negative, nothing to compare


def test_the_gradient_is_the_one_on_paper() -> None:
    memory = remembering((EAST, 1), (NORTH, 2))
    # At (2, 0), label 2: N.u = 0 pulls (0, 1) / 2 off, E.u = 1 gives (E - u) / 2 = 0.
    assert memory.loss_gradient([[2.0, 0.0]], [2])[0] == pytest.approx([0.0, -0.5])
    # The class is missing: only the nearest wrong key, ((1, 0) - 0.8 (0.8, 0.6)) / 5.
    assert memory.loss_gradient([[4.0, 3.0]], [3])[0] == pytest.approx([0.072, -0.096])
    # Below the hinge; masked; two rows halve the mean.
    both = memory.loss_gradient([EAST, [2.0, 0.0], EAST], [1, 2, 2], [True, True, False])
    assert both[0] == [0.0, 0.0] and both[2] == [0.0, 0.0]
    assert both[1] == pytest.approx([0.0, -0.25])


def test_a_row_exactly_on_the_hinge_has_no_gradient() -> None:
    memory = remembering((EAST, 1), (NORTH, 2))
    memory.margin = 1.0
    assert memory.loss([EAST], [1]) == 0.0  # 0 - 1 + 1
    assert memory.loss_gradient([EAST], [1]) == [[0.0, 0.0]]


def test_the_gradient_agrees_with_central_differences() -> None:
    dice = random.Random(0)

    def vector() -> list[float]:
        return [dice.gauss(0, 1) for _ in range(3)]

    memory = remembering(*((vector(), slot % 3) for slot in range(7)), memory_size=9)
    memory.margin = 0.5
    queries, labels = [vector() for _ in range(9)], [0, 1, 2, 3, 0, 1, 2, 3, 0]
    mask = [True] * 8 + [False]
    gradient, h = memory.loss_gradient(queries, labels, mask), 1e-6
    assert sum(any(row) for row in gradient) >= 4
    for row in range(9):
        for i in range(3):
            at = queries[row][i]
            queries[row][i] = at + h
            above = memory.loss(queries, labels, mask)
            queries[row][i] = at - h
            below = memory.loss(queries, labels, mask)
            queries[row][i] = at
            assert gradient[row][i] == pytest.approx((above - below) / (2 * h), abs=1e-8)


def test_a_hit_is_averaged_into_the_key_and_every_other_slot_ages() -> None:
    memory = remembering((EAST, 1), (WEST, 2), memory_size=3)
    memory.ages = [4, 6, 0]
    assert memory.write([[3.0, 4.0]], [1]) == [Written(0, True, EMPTY)]
    # (1, 0) + (0.6, 0.8) = (1.6, 0.8), whose direction is (2, 1).
    assert memory.keys[0] == pytest.approx(unit([2.0, 1.0]))
    assert memory.ages == [0, 7, 0] and memory.values == [1, 2, EMPTY] and memory.clock == 1


def test_all_rows_that_hit_one_slot_are_summed_before_normalising() -> None:
    memory = remembering((EAST, 1), (SOUTH, 2))
    report = memory.write([[3.0, 4.0], [0.0, 9.0]], [1, 1])
    assert report == [Written(0, True, EMPTY)] * 2
    # (1, 0) + (0.6, 0.8) + (0, 1) = (1.6, 1.8).
    assert memory.keys[0] == pytest.approx(unit([8.0, 9.0]))


def test_a_hit_opposite_to_its_key_leaves_the_key_as_it_was() -> None:
    memory = remembering((EAST, 1))
    memory.ages = [3]
    assert memory.write([[-5.0, 0.0]], [1]) == [Written(0, True, EMPTY)]
    assert memory.keys == [EAST] and memory.ages == [0]


def test_a_miss_takes_the_lowest_empty_slot_and_then_the_oldest() -> None:
    memory = remembering((EAST, 1), (NORTH, 2), (WEST, 3), memory_size=4)
    memory.ages = [5, 9, 5, 0]
    assert memory.write([SOUTH], [4]) == [Written(3, False, EMPTY)]
    assert memory.ages == [6, 10, 6, 0]
    assert memory.write([[1.0, 0.0]], [5]) == [Written(1, False, 2)]
    assert memory.ages == [7, 0, 7, 1] and memory.values == [1, 5, 3, 4]
    assert memory.write([[9.0, 1.0]], [6]) == [Written(0, False, 1)]  # 7 and 7: the lower slot
    assert memory.keys[0] == pytest.approx(unit([9.0, 1.0]))


def test_noise_is_added_to_the_ages_and_random_eviction_heeds_it_alone() -> None:
    def replaced(evict: str) -> int:
        memory = remembering((EAST, 1), (NORTH, 2), (WEST, 3))
        memory.ages = [5, 9, 7]
        return memory.write([SOUTH], [4], noise=[3.0, 0.0, 2.5], evict=evict)[0].slot

    assert replaced("oldest") == 2  # 8, 9, 9.5
    assert replaced("random") == 0  # 3, 0, 2.5


def test_empty_slots_come_before_any_noise() -> None:
    for evict in ("oldest", "random"):
        memory = remembering((EAST, 1), memory_size=3)
        assert memory.write([NORTH], [2], noise=[9.0, -9.0, 9.0], evict=evict)[0].slot == 1


def test_a_slot_just_hit_is_never_the_one_replaced() -> None:
    memory = remembering((EAST, 1), (WEST, 2))
    memory.ages = [50, 1]
    assert memory.write([NORTH, EAST], [3, 1]) == [Written(1, False, 2), Written(0, True, EMPTY)]


def test_rows_are_placed_by_label_and_then_by_fingerprint_whatever_their_order() -> None:
    # cos 1 = 0.54, cos 2 = -0.42: NORTH has the lower fingerprint.
    assert fingerprint([0.0, 2.0]) == pytest.approx(-0.4161468)
    assert fingerprint(EAST) == pytest.approx(0.5403023)
    rows = [(EAST, 1), (NORTH, 1), (SOUTH, 0)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        memory = PaperMemory(2, 3)
        memory.write([rows[i][0] for i in order], [rows[i][1] for i in order])
        assert memory.keys == [SOUTH, NORTH, EAST] and memory.values == [0, 1, 1]


def test_without_averaging_every_row_takes_a_slot_and_hits_are_still_reported() -> None:
    memory = remembering((EAST, 1), memory_size=2)
    assert memory.write([EAST], [1], average=False) == [Written(1, True, EMPTY)]
    assert memory.ages == [1, 0]
    assert memory.write([EAST], [1], average=False) == [Written(0, True, 1)]


def test_rows_that_found_no_slot_are_looked_up_again_by_the_next_write() -> None:
    memory, clocks = PaperMemory(2, 1), []

    def noise(clock: int) -> list[float]:
        clocks.append(clock)
        return [0.0]

    memory.clock = 5
    # NORTH is placed, EAST then hits it (one value is all there is), and SOUTH replaces both.
    report = memory.write([SOUTH, EAST, NORTH], [2, 1, 1], noise=noise)
    assert report == [Written(0, False, 1), Written(0, True, EMPTY), Written(0, False, EMPTY)]
    assert memory.keys == [SOUTH] and memory.values == [2] and memory.ages == [0]
    assert clocks == [5, 6, 7] and memory.clock == 8


def test_ages_grow_by_one_for_each_consecutive_write() -> None:
    memory = remembering((EAST, 1), (WEST, 2))
    memory.ages = [1, 0]
    # EAST hits slot 0, so NORTH gets slot 1 and SOUTH waits; then both have age 0: the lower.
    report = memory.write([EAST, SOUTH, NORTH], [1, 4, 3])
    assert report == [Written(0, True, EMPTY), Written(0, False, 1), Written(1, False, 2)]
    assert memory.ages == [0, 1] and memory.clock == 2


def test_masked_rows_are_not_written_and_a_write_of_none_changes_nothing() -> None:
    memory = remembering((EAST, 1), memory_size=2)
    assert memory.write([NORTH, [0.0, 0.0]], [2, 3], [False, False]) == [Written()] * 2
    assert memory.write([], []) == []
    assert (memory.values, memory.ages, memory.clock) == ([1, EMPTY], [0, 0], 0)
    report = memory.write([[0.0, 0.0], NORTH], [3, 2], [False, True])
    assert report == [(-1, False, -1), (1, False, EMPTY)]


def test_forgetting_needs_every_condition_and_counts_occupied_slots_only() -> None:
    memory = remembering((EAST, 1), (NORTH, 1), (WEST, 2), (SOUTH, 1), memory_size=5)
    memory.ages = [3, 4, 5, 6, 0]
    assert memory.forget(labels=[1], slots=[0, 1, 2, 4], older_than=3) == 1
    assert memory.values == [1, EMPTY, 2, 1, EMPTY] and memory.keys[1] is None
    assert memory.ages == [3, 0, 5, 6, 0]
    assert memory.forget(slots=[1, 4]) == 0 and memory.forget(labels=[]) == 0
    assert memory.forget(older_than=4) == 2 and memory.nearest(SOUTH, 5) == [0]
    memory.clear()
    assert memory.keys == [None] * 5 and memory.values == [EMPTY] * 5 and memory.ages == [0] * 5


def test_resizing_appends_empty_slots_or_packs_the_youngest_in_slot_order() -> None:
    memory = remembering((EAST, 1), (NORTH, 2), (WEST, 3), (SOUTH, 4))
    memory.ages = [2, 5, 2, 1]
    memory.resize(5)
    assert memory.values == [1, 2, 3, 4, EMPTY] and memory.ages == [2, 5, 2, 1, 0]
    memory.resize(3)
    assert memory.keys == [EAST, WEST, SOUTH] and memory.ages == [2, 2, 1]
    memory.resize(2)
    assert memory.keys == [EAST, SOUTH] and memory.values == [1, 4]
    memory.forget(labels=[1])
    memory.resize(1)
    assert memory.keys == [SOUTH] and memory.values == [4] and memory.ages == [1]
