"""The sequence task: its strings and numbers, and the order in which a training sees them."""

from dataclasses import replace

import pytest
import torch

from benchmarks.sequence.batches import ordered_batches
from benchmarks.sequence.task import END, FIRST_DIGIT, PAD, Task, known
from tests.benchmarks.test_sequence import SMALL


@pytest.mark.parametrize("task", [Task(), SMALL, Task(digits=1, symbols=2, length=1)])
def test_the_output_has_the_same_letters_and_the_number_translated(task):
    (examples,) = task.draw(300)
    for source, target, number in zip(*(field.tolist() for field in examples), strict=True):
        string = [token for token in source if token != PAD]
        assert source == string + [PAD] * (task.length - len(string))
        start = next(at for at, token in enumerate(string) if token >= FIRST_DIGIT)
        digits = string[start : start + task.digits]
        read = 0
        for digit in digits:
            read = 4 * read + digit - FIRST_DIGIT
        assert read == number and all(FIRST_DIGIT <= d < FIRST_DIGIT + 4 for d in digits)
        before, after = string[:start], string[start + task.digits :]
        assert set(before + after) <= {1, 2}
        said = [*before, int(task.function[number]), *after]
        assert target == said + [END] * (len(target) - len(said))
    assert examples.targets.shape[1] == task.length - task.digits + 2


def test_numbers_lengths_and_places_are_of_all_kinds():
    task = Task(digits=2, symbols=20, length=6)
    (examples,) = task.draw(4000)
    assert examples.numbers.bincount(minlength=16).min() > 150
    lengths = examples.lengths.bincount(minlength=7)
    assert lengths[:2].sum() == 0 and lengths[2:].min() > 600
    place = (examples.sources >= FIRST_DIGIT).int().argmax(dim=1)
    of_longest = place[examples.lengths == 6].bincount(minlength=5)
    assert of_longest.min() > 100
    letters = examples.sources[(examples.sources > 0) & (examples.sources < FIRST_DIGIT)]
    assert 0.45 < (letters == 1).float().mean() < 0.55


def test_symbols_are_those_of_the_paper():
    function = Task().function
    assert len(function) == 4**7
    # 2 ... 16,000, each as itself plus 1.
    assert function.min() >= 3 and function.max() <= 16_001 and Task().n_tokens == 16_002
    assert not torch.equal(function, replace(Task(), seed=1).function)


def test_a_seed_draws_the_same_parts_and_no_two_alike():
    first, second = SMALL.draw(50, 50)
    assert torch.equal(first.sources, SMALL.draw(50, 50)[0].sources)
    assert not torch.equal(first.sources, second.sources)
    assert not torch.equal(first.sources, replace(SMALL, seed=1).draw(50)[0].sources)


def test_steps_count_up_to_the_first_end_and_batches_are_cut_to_their_longest():
    (examples,) = SMALL.draw(30)
    letters = examples.lengths - SMALL.digits
    assert torch.equal(examples.mask.sum(dim=1), letters + 2)
    assert (examples.symbols.sum(dim=1) == 1).all()
    batches = list(examples.batches(7))
    assert sum(len(some.numbers) for some in batches) == 30
    lengths = torch.cat([some.lengths for some in batches])
    assert torch.equal(lengths, lengths.sort().values)
    for some in batches:
        assert some.sources.shape[1] == some.lengths.max()
        assert some.targets.shape[1] == some.mask.sum(dim=1).max()


def test_only_a_number_that_was_trained_on_can_be_known():
    train_on, test = SMALL.draw(5, 40)
    seen = set(train_on.numbers.tolist())
    assert known(test, train_on).tolist() == [n in seen for n in test.numbers.tolist()]
    # Of 16,384 numbers 40,000 examples leave out e^(-40,000/16,384).
    train_on, test = Task().draw(40_000, 4000)
    assert known(test, train_on).float().mean().item() == pytest.approx(0.913, abs=0.015)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digits": 7, "length": 6}, "a number of 7 digits does not fit into a length of 6"),
        ({"digits": 0}, "0 digits"),
        ({"symbols": 1}, "symbols is 1, and the first of them is 2"),
    ],
)
def test_a_task_without_numbers_or_symbols_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **change)


def test_every_epoch_shows_every_example_once_and_a_part_has_all_strings_of_its_numbers():
    (examples,) = SMALL.draw(100)
    found = ordered_batches(examples, parts=(3, 1), size=8, seed=0)
    ends = [at for at, batch in enumerate(found) if batch.ends_epoch]
    assert len(ends) == 2 and ends[-1] == len(found) - 1
    for epoch, count in zip((found[: ends[0] + 1], found[ends[0] + 1 :]), (3, 1), strict=True):
        assert sorted(torch.cat([batch.rows for batch in epoch]).tolist()) == list(range(100))
        starts = [at for at, batch in enumerate(epoch) if batch.clears]
        assert starts[0] == 0 and len(starts) == count
        parts = [
            {int(n) for batch in epoch[start:stop] for n in examples.numbers[batch.rows]}
            for start, stop in zip(starts, [*starts[1:], len(epoch)], strict=True)
        ]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert max(len(batch.rows) for batch in found) == 8


def test_batches_differ_by_seed_and_epoch_and_are_of_similar_length():
    (examples,) = SMALL.draw(400)
    one, other = (ordered_batches(examples, parts=(1, 1), size=8, seed=seed) for seed in (0, 1))
    assert not torch.equal(one[0].rows, other[0].rows)
    assert not torch.equal(one[0].rows, one[len(one) // 2].rows)
    again = ordered_batches(examples, parts=(1, 1), size=8, seed=0)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(one, again, strict=True))
    spread = [int(examples.lengths[batch.rows].max() - examples.lengths[batch.rows].min())
              for batch in one]  # fmt: skip
    assert sum(spread) / len(spread) < 1
