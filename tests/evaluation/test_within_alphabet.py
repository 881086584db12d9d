"""Lake's task: characters of one alphabet, by two drawers."""

import pytest
import torch

from rarememory import Memory
from rarememory.evaluation import within_alphabet_accuracy
from rarememory.evaluation.accuracy import student_t
from tests.memories import bits


def named(*counts):
    return [
        f"{chr(97 + a)}/character{n:02}" for a, count in enumerate(counts) for n in range(count)
    ]


def test_only_characters_of_one_alphabet_meet():
    # The same keys in both alphabets: told apart inside of one, not across.
    embeddings = torch.eye(4).repeat(2, 1).unsqueeze(1).expand(-1, 3, -1)
    # There is room for all runs: not cleared, a memory would be led astray by earlier ones.
    found = within_alphabet_accuracy(Memory(4, 99), embeddings, named(4, 4), n_way=4, n_runs=5)
    assert found.alphabets == {"a": 1.0, "b": 1.0} and tuple(found.accuracy) == (1.0, 0.0)


def test_the_queries_are_by_another_drawer_than_the_support():
    # Each drawer draws in dimensions of his own, so only he himself knows what he drew.
    embeddings = torch.eye(12).view(4, 3, 12)
    embeddings = embeddings + 0.1 * torch.eye(4).repeat(1, 3).unsqueeze(1)
    same = embeddings[:, :1].expand(-1, 3, -1)
    shifted = torch.stack([embeddings[:, 0], embeddings[[1, 2, 3, 0], 0]], dim=1)
    ask = {"n_way": 4, "n_runs": 20}
    assert within_alphabet_accuracy(Memory(12, 4), same, named(4), **ask).accuracy.mean == 1.0
    assert within_alphabet_accuracy(Memory(12, 4), shifted, named(4), **ask).accuracy.mean == 0.0


def test_every_alphabet_counts_the_same_and_the_interval_is_over_alphabets():
    # The first alphabet is perfect; in the second all characters look the same.
    embeddings = torch.ones(9, 4, 5)
    embeddings[:5] = torch.eye(5).unsqueeze(1)
    found = within_alphabet_accuracy(Memory(5, 4), embeddings, named(5, 4), n_way=4, n_runs=7)
    assert found.alphabets == {"a": 1.0, "b": 0.25}
    assert found.accuracy.mean == pytest.approx(0.625)
    assert found.accuracy.interval == pytest.approx(student_t(1) * 0.375)
    alone = within_alphabet_accuracy(Memory(5, 4), embeddings[:5], named(5), n_way=4, n_runs=7)
    assert alone.accuracy.interval == float("inf")


def test_a_run_draws_some_of_the_characters_and_one_drawing_of_each():
    written = []

    class Watched(Memory):
        def write(self, queries, labels, **more):
            written.append((queries, labels))
            return super().write(queries, labels, **more)

    embeddings = torch.randn(7, 3, 5)
    memory = Watched(5, 4)
    memory.write(torch.ones(5), torch.tensor(3))
    before = bits(memory)
    bar = lambda rows: [print(row) or row for row in rows]  # noqa: E731
    one, same, other = (
        within_alphabet_accuracy(memory, embeddings, named(7), n_way=4, n_runs=9, seed=s, bar=bar)
        for s in (1, 1, 2)
    )
    assert one == same != other and bits(memory) == before
    runs = written[1:10]
    # Which character, and by which drawer, is each key?
    found = [(q[:, None, None] == embeddings).all(-1).nonzero()[:, 1:] for q, _ in runs]
    assert all(len(run[:, 0].unique()) == 4 and len(run[:, 1].unique()) == 1 for run in found)
    assert len({tuple(run[:, 0].tolist()) for run in found}) > 1
    assert len({int(run[0, 1]) for run in found}) > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": named(4, 4)}, "n_way is 5, but 'a' has 4 characters"),
        ({"names": named(7)}, "7 names for 8 classes"),
        ({"drawings": 1}, "there is one drawing a class"),
        ({"names": [*named(7), "a/character09/rot090"]}, "09/rot090' is rotated or mirrored"),
        ({"names": [*named(7), "a/character09/mirror"]}, "09/mirror' is rotated or mirrored"),
        ({"n_way": 0}, "n_way must be an integer of at least 1, not 0"),
        ({"n_runs": 0}, "n_runs must be an integer of at least 1, not 0"),
    ],
)
def test_what_is_no_such_task_is_refused(changes, said):
    ask = {"names": named(8), "n_way": 5, **changes}
    embeddings = torch.randn(8, ask.pop("drawings", 3), 5)
    with pytest.raises(ValueError, match=said):
        within_alphabet_accuracy(Memory(5, 5), embeddings, **ask)


def test_a_name_may_say_that_it_is_upright():
    names = [f"{name}/rot000" for name in named(5)]
    found = within_alphabet_accuracy(Memory(5, 5), torch.randn(5, 3, 5), names, n_way=5, n_runs=2)
    assert list(found.alphabets) == ["a"]
