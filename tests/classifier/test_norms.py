"""The lengths of remembered features."""

import pytest
import torch
from torch import nn

import rarememory
from rarememory.memory import Memory
from tests.classifier.lengths import accuracy, drawn, taught


def test_lengths_follow_what_is_learnt_forgotten_evicted_and_resized() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False, memory_size=4)
    norms = classifier.memory.get_buffer("norms")
    classifier.learn(torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 2.0]]), ["a", "b", "c"])
    assert norms.tolist() == pytest.approx([5.0, 10.0, 2.0, 1.0])
    classifier.forget("b")
    assert norms.tolist() == pytest.approx([5.0, 1.0, 2.0, 1.0])
    classifier.learn(torch.tensor([[1.0, 0.0], [0.0, 7.0], [9.0, 0.0]]), ["d", "e", "f"])
    kept = {one.label: norms[one.slot].item() for one in classifier.examples()}
    assert kept == pytest.approx({"c": 2.0, "d": 1.0, "e": 7.0, "f": 9.0})
    classifier.learn(torch.tensor([[0.0, 6.0]]), ["g"])
    classifier.resize(1)
    assert norms.tolist() == pytest.approx([6.0])


def test_a_mean_of_examples_has_their_mean_length() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    classifier.learn(rows, ["a", "a", "b"], average=True)
    assert classifier.memory.get_buffer("norms")[:3].tolist() == pytest.approx([7.5, 1.0, 1.0])


def test_refreshed_keys_have_their_new_length() -> None:
    classifier = taught()
    before = classifier.memory.get_buffer("norms").clone()
    features, labels = drawn(0)
    refs = [f"{place}.csv" for place in range(len(labels))]
    classifier.refresh([(2 * features, refs)])
    after = classifier.memory.get_buffer("norms")
    torch.testing.assert_close(after[: len(labels)], 2 * before[: len(labels)])
    assert after[len(labels) :].eq(1).all()


def test_lengths_are_saved_and_old_files_have_none(tmp_path) -> None:
    classifier = taught()
    path, queries = tmp_path / "table.safetensors", drawn(1)[0]
    classifier.save(path)
    same = rarememory.MemoryClassifier.load(path, nn.Identity())
    assert same.predict(queries) == classifier.predict(queries)
    state = classifier.state_dict()
    other = rarememory.wrap(nn.Identity(), host=False)
    other.load_state_dict(state)
    assert other.predict(queries) == classifier.predict(queries)
    # Of a version that knew no lengths, or into a memory that knows none.
    del state["memory.norms"]
    other.load_state_dict(state)
    assert other.memory.get_buffer("norms").eq(1).all()
    plain = rarememory.wrap(nn.Identity(), host=False, memory=Memory(3, 8192))
    plain.load_state_dict(classifier.state_dict())
    assert plain.predict(queries) == other.predict(queries)


@pytest.mark.parametrize("norm", [0.0, -1.0, torch.inf, torch.nan])
def test_lengths_that_no_features_have_are_refused(norm: float) -> None:
    classifier = taught()
    state = classifier.state_dict()
    state["memory.norms"][2] = norm
    with pytest.raises(RuntimeError, match="norms must be"):
        classifier.load_state_dict(state)
    assert accuracy(classifier) > 0.9


def test_there_is_a_length_for_every_slot() -> None:
    classifier = taught()
    state = classifier.state_dict()
    state["memory.norms"] = state["memory.norms"][:3]
    with pytest.raises(RuntimeError, match="its norms must be a float for each slot"):
        classifier.load_state_dict(state)
    assert accuracy(classifier) > 0.9


def test_features_whose_square_no_float_holds_are_learnt() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(torch.tensor([[3e38, 3e38], [1e-38, 2e-38]]), ["a", "b"])
    assert classifier.memory.get_buffer("norms")[:2].isfinite().all()
    assert classifier.predict(torch.tensor([[2e38, 2e38], [1e-38, 2e-38]])) == ["a", "b"]
