"""What the authors' TensorFlow code gets wrong, and this memory does not."""

import pytest
import torch

from rarememory import EMPTY, AverageOrReplace, Memory
from tests.memories import LOOKUPS, bits, holding


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_an_empty_memory_does_not_answer_class_0(lookup):
    memory = Memory(3, 5, lookup=lookup)
    assert memory(torch.randn(4, 3)).prediction.tolist() == [EMPTY] * 4


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_empty_slots_do_not_count_as_positives_for_class_0(lookup):
    memory = holding(torch.tensor([[1.0, 0.0]]), [7], memory_size=5, lookup=lookup)
    recall = memory(torch.tensor([[-1.0, 0.0]]), torch.tensor([0]))
    assert recall.slots.tolist() == [[0, EMPTY]]
    # The wrong key scores -1: below the hinge, however many empty slots score 0.
    assert recall.loss.item() == 0
    done = memory.write(torch.tensor([[-1.0, 0.0]]), torch.tensor([0]))
    assert done.hits.tolist() == [False] and done.slots.tolist() == [1]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_right_neighbour_with_negative_cosine_is_not_lost_to_a_masked_zero(lookup):
    keys = torch.tensor([[0.0, 1.0], [-0.6, 0.8], [-1.0, 0.0]])
    memory = holding(keys, [1, 2, 2], lookup=lookup)
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    recall = memory(query, torch.tensor([2]))
    # Scores 0, -0.6 and -1: the positive is slot 1 of score -0.6.
    assert recall.slots.tolist() == [[0, 1]]
    assert recall.loss.item() == pytest.approx(0 + 0.6 + 0.1)
    recall.loss.backward()
    torch.testing.assert_close(query.grad, torch.tensor([[0.0, 1 - 0.8]]))


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_wrong_neighbour_with_negative_cosine_is_not_lost_to_a_masked_zero(lookup):
    memory = holding(torch.tensor([[1.0, 0.0], [-0.6, 0.8]]), [1, 2], lookup=lookup)
    recall = memory(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert recall.slots.tolist() == [[0, 1]]
    assert recall.scores[0].tolist() == pytest.approx([1, -0.6])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("k", [1, 2, 7, 33])
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_the_kth_neighbour_is_kept(lookup, k, training):
    memory = holding(torch.randn(33, 9), list(range(33)), lookup=lookup, k=k).train(training)
    recall = memory(torch.randn(4, 9))
    assert recall.slots.shape == (4, k) and recall.slots.ne(EMPTY).all()
    assert all(len(set(row)) == k for row in recall.slots.tolist())


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_two_rows_of_a_batch_in_one_slot_are_both_in_its_key(lookup):
    memory = holding(torch.eye(3), [0, 1, 2], lookup=lookup)
    done = memory.write(torch.tensor([[1.0, 1, 0], [1.0, 0, 1]]), torch.tensor([0, 0]))
    assert done.slots.tolist() == [0, 0]
    total = torch.tensor([1 + 2**0.5, 0.5**0.5, 0.5**0.5])
    torch.testing.assert_close(memory.keys[0], total / total.norm())
    assert memory.values.tolist() == [0, 1, 2] and memory.ages.tolist() == [0, 1, 1]


def test_two_rows_that_miss_never_share_a_slot_nor_mix_key_and_value():
    memory = Memory(16, 7)
    rows = torch.nn.functional.normalize(torch.randn(7, 16), dim=1)
    for _ in range(5):
        labels = torch.randperm(10**6)[:7]
        done = memory.write(rows, labels)
        assert sorted(done.slots.tolist()) == list(range(7))
        assert torch.equal(memory.values[done.slots], labels)
        assert torch.equal(memory.keys[done.slots], memory(rows).queries)
        rows = rows.flip(1)


def test_labels_are_sparse_and_their_number_is_unknown():
    memory = Memory(8, 8)
    labels = torch.tensor([2**62, 3, 10**12, 2**63 - 1, 0])
    memory.write(torch.eye(8)[:5], labels)
    assert torch.equal(memory(torch.eye(8)[:5]).prediction, labels)
    assert memory(torch.eye(8)[:5], labels).loss.item() == 0
    assert memory.forget(labels=2**62) == 1


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_batch_larger_than_the_memory_is_written(lookup):
    memory = Memory(4, 3, lookup=lookup)
    done = memory.write(torch.randn(33, 4), torch.arange(33))
    assert len(memory) == 3 and memory.clock.item() == 11
    assert done.slots.ge(0).all() and not done.hits.any()


def test_age_noise_does_not_come_from_the_global_generator():
    memories = []
    for global_seed in (1, 2):
        torch.manual_seed(0)
        memory = Memory(8, 20, seed=4)
        rows, labels = torch.randn(200, 8), torch.arange(200)
        torch.manual_seed(global_seed)
        for row, label in zip(rows, labels, strict=True):
            memory.write(row, label)
        memories.append(bits(memory))
    assert memories[0] == memories[1]


def test_evaluation_restores_everything():
    memory = Memory(8, 9, seed=4)
    memory.write(torch.randn(7, 8), torch.arange(7))
    torch.manual_seed(3)
    twin = Memory(8, 9)
    twin.load_state_dict(memory.state_dict())
    before = bits(memory)
    with memory.snapshot():
        memory.clear()
        for episode in range(5):
            memory.write(torch.randn(4, 8), torch.arange(4) + episode)
        assert bits(memory) != before
    assert bits(memory) == before
    # And so what comes after is what would have come without an evaluation.
    for label, row in enumerate(torch.randn(40, 8)):
        memory.write(row, torch.tensor(label))
        twin.write(row, torch.tensor(label))
    assert bits(memory) == bits(twin)


def test_reading_without_labels_works():
    memory = holding(torch.eye(3), [4, 5, 6])
    recall = memory(torch.eye(3))
    assert recall.prediction.tolist() == [4, 5, 6] and recall.loss is None


def test_an_empty_slot_goes_before_the_oldest_however_old_that_is():
    memory = holding(torch.eye(4)[:3], [0, 1, 2], memory_size=5, update=AverageOrReplace(1e6))
    for _ in range(30):
        memory.write(torch.eye(4)[:3], torch.tensor([0, 1, 2]), mask=torch.arange(3) > 0)
    assert memory.ages.tolist() == [30, 0, 0, EMPTY, EMPTY]
    done = memory.write(torch.tensor([[0.0, 0, 0, 1], [0, 0, 1, 1]]), torch.tensor([7, 8]))
    assert done.slots.tolist() == [3, 4] and done.overwritten.tolist() == [EMPTY, EMPTY]


def test_the_right_positive_is_sought_in_the_whole_memory_and_not_among_k():
    keys = torch.stack([torch.arange(1.0, 130), torch.ones(129)], 1)
    memory = holding(keys, [*[0] * 128, 1], k=2)
    recall = memory(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert recall.slots.tolist() == [[0, 128]]


def test_keys_are_not_parameters_for_an_optimiser_to_decay():
    memory = Memory(3, 4, projection=True)
    assert [name for name, _ in memory.named_parameters()] == ["projection.weight"]
    assert not any(buffer.requires_grad for buffer in memory.buffers())
