"""A memory on a GPU remembers, finds and loses what one on a CPU does."""

import copy
import pickle

import pytest
import torch

from rarememory import BatchedMemory, Memory, PerClass, Reservoir
from rarememory.base.state import EMPTY
from rarememory.memory import updates
from rarememory.variants import MeanMemory, VectorMemory, class_attention
from tests.memories import steps

DIM = 7
OPTIONS = [
    {},
    {"half_precision_copy": True},
    {"key_dtype": torch.float16},
    {"key_dtype": torch.bfloat16},
    {"update": PerClass(3)},
    {"update": Reservoir()},
    {"update": updates.FirstInFirstOut()},
    {"update": updates.LeastRecentlyUsed()},
    {"update": updates.LeastUsed()},
    {"update": updates.AverageOrReplaceRandom()},
    {"projection": True},
    {"lookup": "torch"},
]
if not torch.cuda.is_available():
    # tests/memory holds a CPU to all of them.
    OPTIONS = OPTIONS[::5]


def twins(device: str, memory_size: int = 33, **options: object) -> tuple[Memory, Memory]:
    torch.manual_seed(2)
    memory = Memory(DIM, memory_size, k=5, seed=3, **options)
    return memory, copy.deepcopy(memory).to(device)


def compare(mine: Memory, theirs: Memory, rounding: dict[str, float]) -> None:
    """Values and ages are equal; keys are, as far as they are rounded."""
    assert torch.equal(mine.values, theirs.values.cpu())
    assert torch.equal(mine.written, theirs.written.cpu())
    assert mine.clock == theirs.clock.cpu() and mine.seed == theirs.seed.cpu()
    coarse = torch.finfo(mine.keys.dtype).eps if mine.keys.dtype != torch.float32 else 0.0
    limits = {"rtol": rounding["rtol"] + 2 * coarse, "atol": rounding["atol"] + 2 * coarse}
    torch.testing.assert_close(mine.keys, theirs.keys.cpu(), **limits)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_history_leaves_the_same_memory(options, device, rounding):
    mine, theirs = twins(device, **options)
    for rows, labels in steps(12):
        done, same = mine.write(rows, labels), theirs.write(rows.to(device), labels.to(device))
        assert torch.equal(done.hits, same.hits.cpu())
        assert torch.equal(done.slots, same.slots.cpu())
        assert mine.forget(labels=8) == theirs.forget(labels=8)
        compare(mine, theirs, rounding)
    if not isinstance(mine.update, Reservoir):
        # A sample of so many cannot become one of another size.
        assert torch.equal(mine.resize(20), theirs.resize(20).cpu())
        compare(mine, theirs, rounding)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("k", [1, 4, 20, 33, 60])
def test_a_read_finds_the_same(options, k, device, rounding):
    mine, theirs = twins(device, **options)
    for rows, labels in steps(3):
        mine.write(rows, labels)
    theirs.load_state_dict(mine.state_dict())
    queries = torch.randn(2, 9, DIM)
    found, same = mine(queries, k=k), theirs(queries.to(device), k=k)
    assert torch.equal(found.slots, same.slots.cpu())
    assert torch.equal(found.values, same.values.cpu())
    torch.testing.assert_close(found.scores, same.scores.cpu(), **rounding)
    torch.testing.assert_close(found.weights, same.weights.cpu(), rtol=1e-3, atol=1e-3)
    assert torch.equal(found.prediction, same.prediction.cpu())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_loss_and_its_gradient_are_the_same(options, device, rounding):
    mine, theirs = twins(device, **options)
    for rows, labels in steps(3):
        mine.write(rows, labels)
    theirs.load_state_dict(mine.state_dict())
    queries, labels = torch.randn(19, DIM), torch.randint(0, 12, (19,))
    gradients = []
    losses = []
    for memory, place in ((mine, "cpu"), (theirs, device)):
        of_place = queries.to(place).detach().requires_grad_()
        recall = memory(of_place, labels.to(place))
        recall.loss.backward()
        losses.append(recall.loss.detach().cpu())
        gradients.append(of_place.grad.cpu())
    torch.testing.assert_close(*losses, **rounding)
    torch.testing.assert_close(*gradients, **rounding)


def test_ties_have_the_lower_slot(device):
    memory = Memory(4, 9).to(device)
    memory.keys[:] = torch.nn.functional.normalize(torch.ones(9, 4, device=device), dim=1)
    memory.values[:] = torch.tensor([EMPTY, 1, 2, 1, 2, EMPTY, 3, 3, 1], device=device)
    for k in (1, 3, 7, 9):
        found = memory(torch.ones(2, 4, device=device), k=k).slots
        expected = torch.tensor([1, 2, 3, 4, 6, 7, 8, EMPTY, EMPTY][:k])
        assert torch.equal(found.cpu(), expected.expand(2, -1)), k


def test_nothing_is_found_in_an_empty_memory(device):
    memory = Memory(4, 9, k=3).to(device)
    recall = memory(torch.randn(2, 4, device=device))
    assert (recall.slots == EMPTY).all() and (recall.prediction == EMPTY).all()
    labelled = memory(torch.randn(2, 4, device=device), torch.tensor([1, 2], device=device))
    assert labelled.loss == 0
    assert memory(torch.empty(0, 4, device=device)).slots.shape == (0, 3)


def test_labels_narrow_what_is_found(device):
    mine, theirs = twins(device)
    for rows, labels in steps(3):
        mine.write(rows, labels)
    theirs.load_state_dict(mine.state_dict())
    queries = torch.randn(5, DIM)
    for among in ([1, 2], torch.tensor([1, 2])):
        found = mine(queries, among=among).slots
        there = among.to(device) if isinstance(among, torch.Tensor) else among
        assert torch.equal(found, theirs(queries.to(device), among=there).slots.cpu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_queries_of_half_precision_and_autocast(dtype, device, rounding):
    mine, theirs = twins(device)
    for rows, labels in steps(3):
        mine.write(rows, labels)
    theirs.load_state_dict(mine.state_dict())
    queries, labels = torch.randn(9, DIM).to(dtype), torch.randint(0, 12, (9,))
    with torch.autocast("cpu", torch.bfloat16):
        found = mine(queries, labels)
    with torch.autocast(device, dtype if device == "cuda" else torch.bfloat16):
        same = theirs(queries.to(device), labels.to(device))
    assert torch.equal(found.slots, same.slots.cpu())
    torch.testing.assert_close(found.loss, same.loss.cpu(), **rounding)
    mine.write(queries, labels)
    theirs.write(queries.to(device), labels.to(device))
    compare(mine, theirs, rounding)


def test_it_moves_between_devices_and_through_files(device, tmp_path, rounding):
    mine, theirs = twins(device)
    rows, labels = torch.randn(9, DIM), torch.arange(9)
    theirs.write(rows.to(device), labels.to(device))
    mine.write(rows, labels)
    torch.save(theirs.state_dict(), tmp_path / "memory.pt")
    loaded, _ = twins(device)
    loaded.load_state_dict(torch.load(tmp_path / "memory.pt", map_location="cpu"))
    for one in (loaded, theirs.to("cpu"), pickle.loads(pickle.dumps(theirs))):
        compare(mine, one, rounding)
    assert torch.equal(theirs.to(device)(rows.to(device)).prediction.cpu(), labels)


def test_a_tensor_of_another_device_is_refused_in_a_sentence(device):
    if device == "cpu":
        pytest.skip("needs a GPU: none here")
    memory = Memory(4, 9).to(device)
    with pytest.raises((ValueError, RuntimeError), match="cpu"):
        memory(torch.randn(2, 4))
    with pytest.raises((ValueError, RuntimeError), match="cpu"):
        memory.write(torch.randn(2, 4, device=device), torch.tensor([1, 2]))
    assert (memory.values == EMPTY).all()


def test_memories_side_by_side_are_the_memories_one_by_one(device, rounding):
    alone = [Memory(DIM, 12, seed=n).to(device) for n in range(3)]
    together = BatchedMemory(alone).to(device)
    for step in range(6):
        torch.manual_seed(step)
        queries, labels = torch.randn(3, 5, DIM), torch.randint(0, 6, (3, 5))
        queries, labels = queries.to(device), labels.to(device)
        recall = together(queries, labels)
        for n, memory in enumerate(alone):
            one = memory(queries[n], labels[n])
            assert torch.equal(one.slots, recall.slots[n])
            memory.write(queries[n], labels[n])
        together.write(queries, labels)
    for memory, part in zip(alone, together.unbind(), strict=True):
        compare(memory.cpu(), part, rounding)


def test_variants_run(device):
    rows, labels = torch.randn(9, DIM, device=device), torch.arange(9, device=device) % 3
    memory = Memory(DIM, 12).to(device)
    memory.write(rows, labels)
    assert class_attention(memory, rows).prediction.shape == (9,)
    mean = MeanMemory(DIM, 12).to(device)
    mean.write(rows, labels)
    assert mean(rows).prediction.shape == (9,)
    vector = VectorMemory(Memory(DIM, 12, update=updates.FirstInFirstOut()), width=2).to(device)
    vector.write(rows, torch.randn(9, 2, device=device))
    assert vector(rows).vectors.shape == (9, 2)
