"""Accuracy by the keys stored."""

import pytest
import torch

from rarememory import FirstInFirstOut, MeanMemory, Memory
from rarememory.evaluation import storage_accuracy, support_query_accuracy
from tests.evaluation.embeddings import noisy
from tests.memories import bits

ASK = {"n_way": 4, "n_query": 2, "n_episodes": 6, "seed": 3}


def test_the_accuracy_is_that_of_the_same_support_and_queries():
    embeddings = noisy()
    for size in (4, 7, 20):
        found = storage_accuracy(Memory(5, size), embeddings, n_sightings=5, **ASK)
        assert found.accuracy == support_query_accuracy(
            Memory(5, size), embeddings, n_shot=5, **ASK
        )


@pytest.mark.parametrize(("size", "keys"), [(3, 3), (11, 11), (40, 20)])
def test_a_queue_stores_what_it_has_room_for(size, keys):
    memory = Memory(5, size, update=FirstInFirstOut())
    assert storage_accuracy(memory, noisy(), n_sightings=5, **ASK).keys == keys


def test_what_a_policy_averages_takes_no_key():
    perfect = torch.eye(6).unsqueeze(1).expand(-1, 8, -1)
    found = storage_accuracy(Memory(6, 40), perfect, n_sightings=5, **ASK)
    assert found.keys == 4 and found.accuracy.mean == 1.0
    assert storage_accuracy(MeanMemory(5, 40), noisy(), n_sightings=5, **ASK).keys == 4
    between = storage_accuracy(Memory(5, 40), noisy(), n_sightings=5, **ASK).keys
    assert 4 < between < 20 and between % 1


def test_the_memory_is_afterwards_as_it_was_and_no_episodes_are_refused():
    memory = Memory(5, 8)
    memory.write(torch.randn(3, 5), torch.arange(3))
    before = bits(memory)
    storage_accuracy(memory, noisy(), n_sightings=5, **ASK)
    assert bits(memory) == before
    with pytest.raises(ValueError, match="n_episodes must be an integer of at least 1, not 0"):
        storage_accuracy(memory, noisy(), n_episodes=0)
