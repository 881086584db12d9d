"""One-shot tasks that are given: a support by one drawer, queries by another."""

import pytest
import torch

from rarememory import Memory
from rarememory.data import Run
from rarememory.evaluation import runs_accuracy
from rarememory.evaluation.accuracy import student_t

NAMES = ["a/1/rot090", "a/1", "a/2/rot000", "a/3"]


def drawings():
    """By drawer 1 every character is a direction of its own; drawer 2 swaps "a/2" and "a/3".

    Drawer 3 has no directions: whoever asks for those drawings is refused.
    """
    embeddings = torch.zeros(4, 3, 4)
    embeddings[range(4), 0, range(4)] = 1
    embeddings[range(4), 1, [0, 1, 3, 2]] = 1
    return embeddings


def test_the_support_is_by_one_drawer_and_the_queries_by_another():
    run = Run(("a/1", "a/2", "a/3"), support_drawer=1, query_drawer=2)
    found = runs_accuracy(Memory(4, 3), drawings(), NAMES, [run])
    assert found.mean == pytest.approx(1 / 3)
    itself = run._replace(query_drawer=1)
    assert runs_accuracy(Memory(4, 3), drawings(), NAMES, [itself]).mean == 1


def test_the_support_may_be_by_the_second_drawer():
    embeddings = drawings()
    # All drawings by drawer 2 are in one direction: the first slot answers every query.
    embeddings[:, 1] = torch.tensor([1.0, 0, 0, 0])
    run = Run(("a/1", "a/2"), support_drawer=2, query_drawer=1)
    assert runs_accuracy(Memory(4, 2), embeddings, NAMES, [run]).mean == 0.5


def test_the_interval_is_over_runs_and_the_memory_is_as_before():
    hard = Run(("a/2", "a/3"), 1, 2)
    easy = Run(("a/1",), 1, 2)
    memory = Memory(4, 3)
    memory.write(torch.ones(1, 4), torch.tensor([9]))
    before = memory.keys.clone()
    found = runs_accuracy(memory, drawings(), NAMES, [hard, easy])
    assert found.mean == 0.5
    assert found.interval == pytest.approx(student_t(1) * 0.5**0.5 / 2**0.5)
    assert torch.equal(memory.keys, before)


def test_a_run_begins_with_an_empty_memory():
    # Drawer 2's "a/2" looks like drawer 1's "a/3", which only the first run has.
    first, alone = Run(("a/2", "a/3"), 1, 2), Run(("a/2",), 1, 2)
    assert runs_accuracy(Memory(4, 8), drawings(), NAMES, [first, alone]).mean == 0.5


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(("a/9",), 1, 2), "asks for 'a/9', which is not among the 3 upright characters"),
        (Run(("a/1",), 0, 2), "asks for drawer 0, but there are 3, counted from 1"),
        (Run(("a/1",), 1, 4), "asks for drawer 4, but there are 3"),
    ],
)
def test_what_is_not_there_is_refused(run, said):
    with pytest.raises(ValueError, match=said):
        runs_accuracy(Memory(4, 3), drawings(), NAMES, [run])
