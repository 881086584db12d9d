from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memories import LOOKUPS, bits
from safetensors.torch import save_file
from torch.nn.functional import normalize

from rarememory import FirstInFirstOut, Memory
from rarememory.integrations.pytorch_metric_learning import MemoryKNN, references


@pytest.fixture(scope="module")
def pml():
    """The package. Its import patches Faiss; the patches are undone afterwards."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    homes = [faiss, *{thing for thing in vars(faiss).values() if isinstance(thing, type)}]
    before = [dict(vars(home)) for home in homes]
    reason = "pytorch-metric-learning is not installed"
    pytest.importorskip("pytorch_metric_learning", reason=reason)
    from pytorch_metric_learning import distances, losses, miners
    from pytorch_metric_learning.utils import accuracy_calculator, inference

    parts = (distances, losses, miners, accuracy_calculator, inference)
    yield SimpleNamespace(**{name: thing for part in parts for name, thing in vars(part).items()})
    for home, was in zip(homes, before, strict=True):
        for name, thing in was.items():
            if vars(home).get(name) is not thing:
                setattr(home, name, thing)


NOT_CLUSTERING = {"exclude": ("NMI", "AMI"), "device": torch.device("cpu")}


def embeddings(count, seed=0, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator)


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 99), st.booleans())
def test_distances_and_neighbours_are_those_of_its_own_search(pml, count, asked, seed, included):
    rows = normalize(embeddings(count, seed))
    queries = rows[:asked] if included else normalize(embeddings(asked, seed + 1))
    cosines, k = queries @ rows.T, count - included
    distances, indices = MemoryKNN()(queries, k, rows, included)
    for search in (pml.FaissKNN(), pml.CustomKNN(pml.CosineSimilarity())):
        theirs = search(queries, k, rows, included)[1]
        # Equally near ones may come in any order.
        torch.testing.assert_close(cosines.gather(1, indices), cosines.gather(1, theirs))
        assert torch.equal(indices.sort(1)[0], theirs.sort(1)[0])
    theirs = pml.FaissKNN()(queries, k, rows, included)[0]
    torch.testing.assert_close(distances, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("k", [None, "max_bin_count", 3])
def test_accuracies_are_those_of_its_own_exact_search(pml, lookup, k):
    rows, labels = embeddings(60), torch.arange(60) % 7
    queries, targets = embeddings(20, 1), torch.arange(20) % 9
    ours = pml.AccuracyCalculator(k=k, knn_func=MemoryKNN(lookup=lookup), **NOT_CLUSTERING)
    exact = pml.AccuracyCalculator(
        k=k, knn_func=pml.CustomKNN(pml.CosineSimilarity()), **NOT_CLUSTERING
    )
    for data in (
        (rows, labels),
        (queries, targets, rows, labels),
        (rows[:30], labels[:30], rows, labels, True),
    ):
        theirs = exact.get_accuracy(*data)
        assert ours.get_accuracy(*data) == pytest.approx(theirs, nan_ok=True) and theirs
    default = pml.AccuracyCalculator(k=k, **NOT_CLUSTERING).get_accuracy(normalize(rows), labels)
    assert ours.get_accuracy(rows, labels) == pytest.approx(default)


def test_an_inference_model_finds_what_it_finds_by_its_own_search(pml):
    trunk = torch.nn.Linear(5, 4)
    found, knn_of_memory = {}, MemoryKNN()
    for name, knn in (("ours", knn_of_memory), ("theirs", None)):
        model = pml.InferenceModel(trunk, knn_func=knn, data_device=torch.device("cpu"))
        model.train_knn(embeddings(20), batch_size=7)
        model.add_to_knn(embeddings(13, 1), batch_size=7)
        found[name] = model.get_nearest_neighbors(embeddings(6, 2), 9)
    assert torch.equal(found["ours"][1], found["theirs"][1])
    assert knn_of_memory.memory.values.tolist() == [*range(33)]
    torch.testing.assert_close(found["ours"][0], found["theirs"][0], atol=1e-5, rtol=0)


def test_references_are_replaced_saved_removed_and_loaded(pml, tmp_path):
    knn, queries = MemoryKNN(), embeddings(4, 1)
    model = pml.InferenceModel(torch.nn.Identity(), knn_func=knn)
    knn.train(embeddings(9, 2))
    knn.train(embeddings(20))
    found = knn(queries, 5)
    assert torch.equal(found[1], MemoryKNN()(queries, 5, embeddings(20))[1])
    model.save_knn_func(tmp_path / "references")
    knn.reset()
    with pytest.raises(ValueError, match="there are no references yet"):
        knn(queries, 5)
    model.load_knn_func(tmp_path / "references")
    for mine, theirs in zip(knn(queries, 5), found, strict=True):
        assert torch.equal(mine, theirs)
    save_file({"keys": torch.eye(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="has no references: give a file that save"):
        knn.load(tmp_path / "other")


def test_references_of_a_call_leave_the_stored_ones_unchanged():
    knn, queries = MemoryKNN(), embeddings(4, 1)
    knn.train(embeddings(20))
    before = knn(queries, 5)
    knn(queries, 2, embeddings(3, 7))
    assert torch.equal(knn(queries, 5)[1], before[1])


def test_a_given_memory_is_searched_and_never_changed(pml, tmp_path):
    memory = Memory(5, 40)
    memory.write(embeddings(30), torch.arange(30) % 4)
    memory.forget(labels=2)
    before = bits(memory)
    knn = MemoryKNN(memory)
    distances, slots = pml.InferenceModel(torch.nn.Identity(), knn_func=knn).get_nearest_neighbors(
        embeddings(6, 1), 7
    )
    recall = memory(embeddings(6, 1), k=7)
    assert torch.equal(slots, recall.slots)
    torch.testing.assert_close(distances, 2 - 2 * recall.scores)
    assert (memory.values[slots] != 2).all()
    for verb, argument in (
        (knn.train, embeddings(2)),
        (knn.add, embeddings(2)),
        (knn.save, tmp_path / "file"),
        (knn.load, tmp_path / "file"),
    ):
        with pytest.raises(ValueError, match=f"{verb.__name__} changes references, and"):
            verb(argument)
    with pytest.raises(ValueError, match="reset changes references"):
        knn.reset()
    assert bits(memory) == before


def test_of_equal_references_the_lower_comes_first_and_none_is_its_own_neighbour():
    rows = torch.ones(6, 3)
    assert MemoryKNN()(rows[:1], 6, rows)[1].tolist() == [[0, 1, 2, 3, 4, 5]]
    found = MemoryKNN()(rows, 2, rows, True)[1].tolist()
    assert all(len(set(row)) == 2 and own not in row for own, row in enumerate(found))


def test_queries_are_read_in_several_pieces(monkeypatch):
    rows = embeddings(30)
    whole = MemoryKNN()(rows, 4, rows, True)
    monkeypatch.setattr("rarememory.integrations.pytorch_metric_learning._AT_ONCE", 1)
    for mine, theirs in zip(MemoryKNN()(rows, 4, rows, True), whole, strict=True):
        assert torch.equal(mine, theirs)


def test_bad_references_and_queries_are_refused():
    rows = embeddings(3)
    with pytest.raises(ValueError, match="k is 4, and there are 3 references: ask for fewer"):
        MemoryKNN()(rows, 4, rows)
    with pytest.raises(ValueError, match="k is 3, and there are 2 references"):
        MemoryKNN()(rows, 3, rows, True)
    rows[1] = 0
    with pytest.raises(ValueError, match=r"references must be finite and not zero.*not: \[1\]"):
        MemoryKNN()(rows, 1, rows)
    with pytest.raises(ValueError, match="queries must be finite and not zero"):
        MemoryKNN()(rows, 1, embeddings(3))


def filled_memory():
    memory = Memory(5, 50, update=FirstInFirstOut())
    memory.write(embeddings(30), torch.arange(30) % 4)
    memory.forget(labels=3)
    return memory


@pytest.mark.parametrize("miner", [None, "BatchHardMiner", "MultiSimilarityMiner"])
@pytest.mark.parametrize("loss", ["ContrastiveLoss", "NTXentLoss", "TripletMarginLoss"])
def test_losses_and_miners_take_the_remembered_references(pml, loss, miner):
    memory, labels = filled_memory(), torch.arange(8) % 4
    batch = embeddings(8, 1).requires_grad_()
    left = torch.arange(30) % 4 != 3
    direct = {"ref_emb": embeddings(30)[left], "ref_labels": (torch.arange(30) % 4)[left]}
    found = []
    for refs in (references(memory), direct):
        pairs = None if miner is None else getattr(pml, miner)()(batch, labels, **refs)
        value = getattr(pml, loss)()(batch, labels, pairs, **refs)
        found.append((value, torch.autograd.grad(value, batch)[0]))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[0][0] > 0 and found[0][1].abs().sum() > 0


def test_a_write_before_backward_does_no_harm(pml):
    memory, labels = filled_memory(), torch.arange(8) % 4
    gradients = []
    for writes in (False, True):
        batch = embeddings(8, 1).requires_grad_()
        loss = pml.NTXentLoss()(batch, labels, **references(memory))
        if writes:
            memory.write(batch, labels)
        loss.backward()
        gradients.append(batch.grad)
    assert torch.equal(*gradients) and not memory.keys.requires_grad


def test_an_empty_memory_has_no_references(pml):
    memory = Memory(5, 4)
    refs = references(memory)
    assert refs["ref_emb"].shape == (0, 5) and refs["ref_labels"].shape == (0,)
    batch = embeddings(4).requires_grad_()
    assert pml.ContrastiveLoss()(batch, torch.arange(4), **refs) == 0


def test_keys_of_half_precision_become_references_of_float32(pml):
    memory = Memory(5, 4, key_dtype=torch.float16)
    memory.write(embeddings(3), torch.arange(3))
    assert references(memory)["ref_emb"].dtype == torch.float32
    loss = pml.NTXentLoss()(embeddings(4, 1), torch.arange(4) % 3, **references(memory))
    assert loss.isfinite()
