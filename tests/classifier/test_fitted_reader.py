"""The fitted reader: when it is fitted, what it reads, forgetting, what is stored of it."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier import discriminant as module
from rarememory.classifier import forms
from rarememory.classifier.discriminant import fit_discriminant
from rarememory.memory import Memory
from tests.classifier.made_classes import classifier, shuffled, world


@pytest.mark.parametrize("host", [False, True])
def test_a_forgotten_class_leaves_the_answers_of_never_having_learnt_it(host: bool) -> None:
    keys, labels = world([5, 1, 4, 3, 6])
    queries, _ = world([3] * 5, seed=9)
    names = [f"class {c}" for c in labels.tolist()]
    gone = labels == 2
    kept = [name for name, is_gone in zip(names, gone.tolist(), strict=True) if not is_gone]
    never, forgot = classifier(host), classifier(host)
    never.learn(keys[~gone], kept)
    # It is met between the others, so that the slots differ.
    late = labels == 4
    forgot.learn(
        keys[~late], [n for n, is_late in zip(names, late.tolist(), strict=True) if not is_late]
    )
    forgot.forget("class 2")
    forgot.learn(keys[late], ["class 4"] * int(late.sum()))
    one, other = never.predict_proba(queries), forgot.predict_proba(queries)
    assert one.classes == other.classes
    assert torch.allclose(one.values, other.values, atol=1e-5)


def test_it_is_fitted_once_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []

    def counted(keys: torch.Tensor, *others: Any) -> module.Discriminant:
        fits.append(len(keys))
        return fit_discriminant(keys, *others)

    monkeypatch.setattr(forms, "fit_discriminant", counted)
    keys, labels = world([3, 3])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    assert not fits
    birds.predict(keys)
    birds.predict_proba(keys[0])
    birds.explain(keys)
    assert len(fits) == 1
    with torch.inference_mode():
        birds.predict(keys)
    assert len(fits) == 1
    birds.learn(keys[:1], [1])
    birds.predict(keys)
    birds.forget(1)
    birds.learn(keys[:1], [7])
    birds.predict(keys)
    assert len(fits) == 3


def test_rows_with_a_column_in_common_are_read_the_same_in_any_order() -> None:
    random = torch.Generator().manual_seed(0)
    places = torch.arange(16).repeat_interleave(38)
    rows = torch.randn(16, 10, generator=random)[places]
    rows = rows + 0.8 * torch.randn(608, 10, generator=random)
    rows = torch.cat([(torch.rand(608, 1, generator=random) > 0.5).float(), rows], 1)
    answers = []
    for seed in (1, 2):
        birds = rarememory.wrap(nn.Identity(), host=False)
        for some in shuffled(torch.arange(608), seed=seed)[0].split(50):
            birds.learn(rows[some], (places[some] % 4).tolist())
        found = birds.predict_proba(rows + 0.3)
        order = [birds.classes.index(label) for label in range(4)]
        answers.append(found.values[:, order])
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)


def test_one_class_and_one_example_answer_too() -> None:
    keys, _ = world([3, 3])
    birds = classifier(host=False)
    birds.learn(keys[:1], ["kea"])
    assert birds.predict(keys[3]) == "kea"
    assert birds.explain(keys[0])[0].weight == pytest.approx(1)
    birds.learn(keys[3:4], ["weka"])
    assert birds.predict(keys[[0, 3]]) == ["kea", "weka"]


def test_the_weights_of_an_explanation_add_up_to_what_the_memory_says() -> None:
    keys, labels = world([4, 3, 5])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist(), refs=list(range(len(keys))))
    query = keys[:1] + 0.05
    told = birds.explain(query, k=12)[0]
    assert [r.weight for r in told] == sorted((r.weight for r in told), reverse=True)
    probabilities = dict(
        zip(
            *(birds.predict_proba(query)._replace(values=birds.predict_proba(query).values[0])),
            strict=True,
        )
    )
    for label in (0, 1, 2):
        weight = sum(r.weight for r in told if r.label == label)
        assert weight == pytest.approx(probabilities[label].item(), abs=1e-4)


def test_features_have_a_gradient() -> None:
    keys, labels = world([4, 3, 5])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    query = keys[:2].clone().requires_grad_()
    birds(query)[:, 0].sum().backward()
    assert query.grad is not None and query.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_keys_of_any_float_dtype_are_read(dtype: torch.dtype) -> None:
    keys, labels = world([6, 6, 6], spread=0.3)
    memory = Memory(12, 64, update=rarememory.FirstInFirstOut(), key_dtype=dtype)
    birds = rarememory.wrap(nn.Identity(), host=False, memory=memory)
    birds.learn(keys, labels.tolist())
    assert birds.predict(keys) == labels.tolist()


def test_a_copy_a_file_and_another_slot_answer_alike(tmp_path) -> None:  # type: ignore[no-untyped-def]
    keys, labels = world([4, 1, 3])
    birds = classifier(host=True)
    birds.learn(keys, [f"bird {c}" for c in labels.tolist()])
    wanted = birds.predict_proba(keys).values
    birds.save(tmp_path / "birds.safetensors")
    for other in (
        copy.deepcopy(birds),
        rarememory.MemoryClassifier.load(tmp_path / "birds.safetensors", birds.model),
    ):
        assert other.reader.name == "fitted"
        assert torch.equal(other.predict_proba(keys).values, wanted)


def test_a_checkpoint_is_read_as_it_was_and_an_old_one_by_the_nearest() -> None:
    keys, labels = world([4, 2, 3])
    nearest = rarememory.wrap(nn.Identity(), host=False, reader="nearest")
    nearest.learn(keys, labels.tolist())
    other = rarememory.wrap(nn.Identity(), host=False)
    other.load_state_dict(nearest.state_dict())
    assert other.reader.name == "nearest"
    assert torch.equal(other.predict_proba(keys).values, nearest.predict_proba(keys).values)
    state = nearest.state_dict()
    stored = json.loads(state["_extra_state"].numpy().tobytes())
    del stored["reader"]
    state["_extra_state"] = torch.tensor(list(json.dumps(stored).encode()), dtype=torch.uint8)
    third = rarememory.wrap(nn.Identity(), host=False)
    third.load_state_dict(state)
    assert third.reader.name == "nearest"


def test_there_is_no_other_reader() -> None:
    with pytest.raises(
        ValueError, match="there is no reader 'nearset': take 'fitted' or 'nearest'"
    ):
        rarememory.wrap(nn.Identity(), host=False, reader="nearset")
