"""What is remembered beside keys: lengths of features, and how sure the host was."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier.beside_keys import UNKNOWN
from rarememory.memory import Memory
from tests.classifier.lengths import accuracy, drawn, taught

CERTAINTY = "confidences", "max_logits"


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


# Beyond what half precision holds: the second as it is, the third by its length alone.
LONG = torch.cat(
    [8 * torch.eye(3, 100)[:1], 1e-9 * torch.eye(3, 100)[1:2], torch.full((1, 100), 5e4)]
)
LENGTHS = pytest.approx([8, 1e-9, 5e5, 5e5], rel=1e-2)


@pytest.mark.parametrize("to", ["half", "bfloat16"])
def test_lengths_stay_as_they_are_in_half_precision(to: str, tmp_path) -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False, memory_size=4)
    classifier.learn(LONG, list("abc"))
    getattr(classifier, to)()
    classifier.learn(LONG[2:], ["d"])
    assert classifier.memory.keys.dtype != classifier.memory.get_buffer("norms").dtype
    assert classifier.memory.get_buffer("norms").tolist() == LENGTHS
    path = tmp_path / "long.safetensors"
    classifier.save(path)
    again = rarememory.MemoryClassifier.load(path, nn.Identity())
    other = getattr(rarememory.wrap(nn.Identity(), host=False, memory_size=4), to)()
    other.load_state_dict(classifier.state_dict())
    for one in (again, other):
        assert one.memory.get_buffer("norms").tolist() == LENGTHS
        assert one.predict(LONG[::2]) == classifier.predict(LONG[::2])
    with classifier.snapshot():
        classifier.memory.remove_slot_buffer("norms")
    classifier.float().half().double()
    assert classifier.memory.get_buffer("norms").tolist() == LENGTHS
    assert classifier.memory.get_buffer("norms").dtype == classifier.memory.keys.dtype


def hosted() -> rarememory.MemoryClassifier:
    """A host with logits [x, 0] for features [x, y], and three examples that are remembered."""
    host = nn.Linear(2, 2)
    with torch.no_grad():
        host.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        host.bias.zero_()
    classifier = rarememory.wrap(host, memory_size=4)
    classifier.learn(torch.tensor([[2.0, 1.0], [0.0, 3.0], [-1.0, 1.0]]), ["a", "b", "c"], range(3))
    return classifier


def sure(*logits: float) -> list[float]:
    return torch.tensor(logits).abs().sigmoid().tolist()


def max_logit(*rows: tuple[float, float]) -> list[float]:
    """Half of the greater of the logits [x, 0], over the length of [x, y]."""
    return [abs(x) / 2 / math.hypot(x, y) for x, y in rows]


def test_how_sure_the_host_was_follows_what_is_learnt_forgotten_refreshed_and_saved(tmp_path):
    classifier = hosted()
    confidences, max_logits = map(classifier.memory.get_buffer, CERTAINTY)
    assert confidences.tolist() == pytest.approx([*sure(2, 0, 1), 1])
    assert max_logits.tolist() == pytest.approx([*max_logit((2, 1), (0, 3), (-1, 1)), UNKNOWN[1]])
    classifier.forget("b")
    assert confidences.tolist() == pytest.approx([*sure(2), 1, *sure(1), 1])
    assert max_logits[[1, 3]].tolist() == pytest.approx([UNKNOWN[1]] * 2)
    rows = torch.tensor([[3.0, 1.0], [1.0, 1.0], [5.0, 2.0]])
    classifier.learn(rows, ["d", "d", "e"], average=True)
    both = sum(sure(3, 1)) / 2
    kept = {one.label: confidences[one.slot].item() for one in classifier.examples()}
    wanted = [*sure(2, 1), both, *sure(5)]
    assert kept == pytest.approx(dict(zip("acde", wanted, strict=True)))
    kept = {one.label: max_logits[one.slot].item() for one in classifier.examples()}
    assert kept["d"] == pytest.approx(sum(max_logit((3, 1), (1, 1))) / 2)
    classifier.refresh([(torch.tensor([[4.0, 1.0]]), [0])])
    assert confidences[0].item() == pytest.approx(*sure(4))
    assert max_logits[0].item() == pytest.approx(*max_logit((4, 1)))
    path = tmp_path / "hosted.safetensors"
    classifier.save(path)
    again = rarememory.MemoryClassifier.load(path, classifier.model)
    assert again.memory.get_buffer("confidences").equal(confidences)
    assert again.memory.get_buffer("max_logits").equal(max_logits)
    # A host that has no class left is not asked.
    classifier.forget(0, 1)
    classifier.learn(rows[:1], ["f"])
    assert 1 in confidences.tolist() and max_logits.min() < 0


def test_every_row_keeps_its_own(tmp_path) -> None:
    """Where some are chosen, dropped by a policy, or are more than slots."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 2, generator=random)
    wanted = {place: sure(row[0])[0] for place, row in enumerate(rows)}

    def kept(update: object = None, size: int = 4, **options: object) -> dict[int, float]:
        classifier = rarememory.wrap(hosted().model, memory_size=size)
        if update is not None:
            classifier.memory.update = update
        classifier.learn(rows, list("aaabbbccc"), range(9), **options)
        found = classifier.memory.get_buffer("confidences")
        return {one.refs[0]: found[one.slot].item() for one in classifier.examples()}

    chosen = kept(select=rarememory.Herding(1), size=9)
    several = kept(size=4)
    dropped = kept(rarememory.PerClass(1), size=9)
    for found, count in ((chosen, 3), (several, 4), (dropped, 3)):
        assert len(found) == count
        assert found == pytest.approx({ref: wanted[ref] for ref in found})


@pytest.mark.parametrize("name", ["norms", *CERTAINTY])
def test_what_is_changed_or_taken_away_beside_keys_is_seen(name) -> None:
    # A table is read by lengths, and a host is weighed by how sure it was.
    classifier = taught() if name == "norms" else hosted()
    queries = drawn(1)[0] if name == "norms" else torch.tensor([[0.5, 2.0], [1.0, 0.2]])
    before = classifier.predict_proba(queries).values
    beside = classifier.memory.get_buffer(name)
    kept = beside.clone()
    beside[:3] *= torch.tensor([0.9, 0.5, 0.2])
    changed = classifier.predict_proba(queries).values
    assert not changed.equal(before)
    # A copy finds all out again.
    assert deepcopy(classifier).predict_proba(queries).values.equal(changed)
    beside.copy_(kept)
    assert classifier.predict_proba(queries).values.equal(before)
    classifier.memory.remove_slot_buffer(name)
    assert not classifier.predict_proba(queries).values.equal(before)


def test_a_slot_of_several_examples_has_their_mean_after_a_refresh() -> None:
    classifier = hosted()
    classifier.learn(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), ["d", "d"], ["x", "y"], average=True)
    slot = next(one.slot for one in classifier.examples() if one.label == "d")
    classifier.refresh([(torch.tensor([[5.0, 1.0], [2.0, 1.0]]), ["x", "y"])])
    found = [classifier.memory.get_buffer(name)[slot].item() for name in CERTAINTY]
    assert found == pytest.approx([sum(sure(5, 2)) / 2, sum(max_logit((5, 1), (2, 1))) / 2])


def test_a_file_of_before_learns_how_sure_the_host_is(tmp_path) -> None:
    classifier = hosted()
    for name in reversed(CERTAINTY):
        classifier.memory.remove_slot_buffer(name)
        classifier.save(tmp_path / "old.safetensors")
        again = rarememory.MemoryClassifier.load(tmp_path / "old.safetensors", classifier.model)
        again.learn(torch.tensor([[4.0, 1.0]]), ["d"])
        found = again.memory.get_buffer("max_logits").tolist()
        assert found == pytest.approx([*[UNKNOWN[1]] * 3, *max_logit((4, 1))])
    assert again.memory.get_buffer("confidences").tolist() == pytest.approx([1, 1, 1, *sure(4)])


def test_a_host_without_a_number_is_taken_as_sure() -> None:
    classifier = hosted()
    with torch.no_grad():
        classifier.model.bias.fill_(torch.inf)
    classifier.learn(torch.tensor([[7.0, 1.0]]), ["d"])
    found = [classifier.memory.get_buffer(name)[3].item() for name in CERTAINTY]
    assert found[0] == 1 and found[1] < 0


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("confidences", 0.0, "greater than 0"),
        ("confidences", 1.5, ".* at most 1"),
        ("max_logits", torch.inf, "finite"),
        ("max_logits", torch.nan, "finite"),
    ],
)
def test_what_is_no_certainty_is_refused(name: str, number: float, said: str) -> None:
    classifier = hosted()
    state = classifier.state_dict()
    state[f"memory.{name}"][2] = number
    with pytest.raises(RuntimeError, match=f"{name} must be {said}"):
        classifier.load_state_dict(state)


def test_files_and_memories_that_do_not_know_how_sure_the_host_was_are_taken() -> None:
    classifier = hosted()
    state = classifier.state_dict()
    for name, unknown in zip(CERTAINTY, UNKNOWN, strict=True):
        del state[f"memory.{name}"]
        classifier.load_state_dict(state)
        assert classifier.memory.get_buffer(name).eq(unknown).all()
    plain = rarememory.wrap(nn.Linear(2, 2), memory=Memory(2, 4))
    plain.learn(torch.eye(2), ["a", "b"])
    level = plain.reader.host_score(plain.memory, plain.ensembler.host_ids)
    assert np.isfinite(level) and "confidences" not in plain.state_dict()
