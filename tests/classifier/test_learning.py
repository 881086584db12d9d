"""Learning: any labels, one example or many, batches and loaders; all of it or nothing."""

import numpy as np
import pytest
import torch
from classifiers import at, bare, everything, hosted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from rarememory import EMPTY, FirstInFirstOut, Memory, MemoryClassifier, wrap
from rarememory.classifier import learning


def test_one_example_with_one_label_needs_no_batch():
    classifier = bare()
    classifier.learn(at(0)[0], "kea", "1.png")
    classifier.learn(at(90)[0], ("kakapo", 2))
    assert classifier.classes == ["kea", ("kakapo", 2)]
    assert classifier.predict(at(80)[0]) == ("kakapo", 2)
    assert classifier.explain(at(1)[0], k=1)[0].refs == ("1.png",)


@pytest.mark.parametrize(
    "labels",
    [[3, 5], np.array([3, 5]), torch.tensor([3, 5]), range(3, 6, 2), np.array(["kea", "weka"])],
    ids=["list", "array", "tensor", "range", "texts"],
)
def test_labels_come_in_a_list_an_array_or_a_tensor(labels):
    classifier = bare()
    classifier.learn(at(0, 90), labels)
    wanted = list(labels) if isinstance(labels, range | list) else labels.tolist()
    answers = classifier.predict(at(0, 90))
    assert answers == wanted and [*map(type, answers)] == [*map(type, wanted)]


def test_inputs_come_as_arrays_or_lists_of_tensors_too():
    classifier = bare()
    classifier.learn(at(0, 90).double().numpy(), ["kea", "weka"])
    assert classifier.predict(list(at(0, 90))) == ["kea", "weka"]
    assert classifier.predict(at(90).numpy()[0]) == "weka"


def test_a_class_of_the_host_is_learnt_under_its_own_name():
    classifier = hosted(torch.eye(2), classes=["kea", "weka"])
    classifier.learn(at(90, 45), ["kea", "kiwi"])
    assert classifier.classes == ["kea", "weka", "kiwi"]
    assert classifier.predict(at(90, 45)) == ["kea", "kiwi"]


def test_learning_says_where_what_hit_and_what_was_lost():
    classifier = bare(memory_size=2, update=FirstInFirstOut())
    first = classifier.learn(at(0, 90), ["kea", "kakapo"])
    assert (first.slots.tolist(), first.hits.tolist(), first.lost) == ([0, 1], [False, False], [])
    second = classifier.learn(at(1), ["kea"], ["new"])
    assert second.hits.tolist() == [True] and second.lost == ["kea"]
    assert classifier.explain(at(1)[0], k=1)[0].refs == ("new",)


def test_a_class_that_loses_its_last_slot_is_known_no_longer():
    classifier = bare(memory_size=1)
    classifier.learn(at(0), ["kea"], ["1.png"])
    assert classifier.learn(at(90), ["kakapo"]).lost == ["kea"]
    assert classifier.classes == ["kakapo"] and b"kea" not in bytes(classifier.get_extra_state())


def test_a_slot_emptied_behind_its_back_brings_no_old_ref():
    classifier = bare(memory_size=1)
    classifier.learn(at(0), ["kea"], ["old.png"])
    classifier.memory.clear()
    classifier.learn(at(90), ["weka"], ["new.png"])
    assert classifier.explain(at(90)[0], k=1)[0].refs == ("new.png",)


def test_more_examples_than_slots_are_learnt_one_slotful_after_another():
    classifier = bare(memory_size=2)
    learnt = classifier.learn(at(0, 90, 180, 270, 45), list("abcde"), list("ABCDE"))
    assert len(learnt.slots) == 5 and len(learnt.lost) == 3
    for remembered in classifier.explain(at(0)[0], k=2):
        assert remembered.refs == (remembered.label.upper(),)
    assert len(classifier.classes) == 2


def test_a_loader_is_learnt_batch_by_batch():
    examples = [(at(angle)[0], name, f"{name}.png") for angle, name in ((0, "kea"), (90, "weka"))]
    classifier, other = bare(), bare()
    learnt = classifier.learn(DataLoader(examples * 2, batch_size=3))
    assert len(learnt.slots) == 4 and classifier.classes == ["kea", "weka"]
    assert classifier.explain(at(90)[0], k=1)[0].ref == "weka.png"
    other.learn((at(angle), [name]) for angle, name in ((0, "kea"), (90, "weka")))
    assert other.predict(at(0, 90)) == ["kea", "weka"]
    with pytest.raises(ValueError, match=r"must yield \(inputs, labels\)"):
        bare().learn(iter([at(0)]))


def test_a_read_only_memory_and_empty_batches_change_nothing():
    classifier = bare()
    before = everything(classifier)
    with classifier.memory.read_only(), pytest.raises(RuntimeError, match="read-only"):
        classifier.learn(at(0), ["kea"])
    for average in (False, True):
        assert classifier.learn(torch.zeros(0, 2), [], average=average).slots.tolist() == []
        assert classifier.learn(iter([]), average=average).slots.tolist() == []
    assert everything(classifier) == before


def test_uneven_pieces_give_the_features_of_the_whole():
    whole, pieces = bare(), bare(batch_size=2)
    inputs = at(0, 20, 100, 200, 300)
    for classifier in (whole, pieces):
        classifier.learn(inputs, list("abcde"))
    assert everything(whole) == everything(pieces)


class Broken(nn.Module):
    """Makes nothing of what is negative."""

    def forward(self, inputs):
        return inputs.where(inputs[:, :1] >= 0, inputs.new_tensor(float("nan")))


@pytest.mark.parametrize("verb", ["predict", "predict_proba", "explain", "familiarity", "learn"])
@pytest.mark.parametrize("reader", ["fitted", "nearest"])
def test_features_that_are_nan_are_named_with_what_to_look_at_and_no_mask(reader, verb):
    classifier = MemoryClassifier(Broken(), host=False, reader=reader)
    classifier.learn(at(0, 10), ["kea", "weka"])
    beside = (["kea"] * 3,) if verb == "learn" else ()
    with pytest.raises(ValueError, match=r"\b2\b.*leave them out, or look for NaN in") as raised:
        getattr(classifier, verb)(at(0, 10, 170), *beside)
    assert "mask" not in str(raised.value)


@pytest.mark.parametrize("memory_size", [1, 8])
def test_of_a_batch_that_is_refused_nothing_is_learnt(memory_size):
    classifier = MemoryClassifier(Broken(), host=False, memory=Memory(2, memory_size))
    classifier.learn(at(0), ["kea"], ["1.png"])
    before = everything(classifier)
    with pytest.raises(ValueError, match=r"features of examples \[2\] are zero or not finite"):
        classifier.learn(at(10, 20, 170), ["weka", "kiwi", "moa"])
    with pytest.raises(ValueError, match=r"features of examples \[1\] are zero or not finite"):
        classifier.learn(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), ["weka", "kiwi"])
    assert everything(classifier) == before


@pytest.mark.parametrize(
    ("labels", "refs", "said"),
    [
        (["kea"], None, r"2 examples, with 1 label: give one of each, as in \['kea'\] \* 2$"),
        (["kea"] * 3, None, r"\[2, 2\] are 2 examples, with 3 labels: give one of each$"),
        ("kea", ["a", "b"], r"'kea' is one label, .* 2 refs in a list: .* give \['kea'\] \* 2,"),
        (["kea", "weka"], ["1.png"], "2 examples, with 2 labels and 1 ref:"),
        (["kea", "weka"], "1.png", "refs of a batch must be a list of them, not the text '1.png'"),
        (["kea", "unknown"], None, "'unknown' is what predict says"),
        (["kea", float("nan")], None, "NaN"),
        (["kea", ["weka"]], None, "hashable"),
        (None, None, "needs a label for each example"),
        ("kea", None, r"\[2, 2\] were taken as one .* 2 labels, \['kea'\] \* 2$"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, refs, said):
    classifier = bare()
    classifier.learn(at(45), ["kiwi"])
    before = everything(classifier)
    with pytest.raises(ValueError, match=said):
        classifier.learn(at(0, 90), labels, refs)
    assert everything(classifier) == before


def test_examples_of_other_dimensions_are_refused():
    classifier = bare()
    classifier.learn(at(0), ["kea"])
    with pytest.raises(ValueError, match="a batch 2; these inputs have 3"):
        classifier.predict(torch.rand(1, 1, 2))
    with pytest.raises(ValueError, match="a batch 2; these inputs have 1"):
        classifier.predict(iter([at(0), at(0)[0]]))


def test_a_classifier_may_say_unknown_in_other_words():
    classifier = bare(unknown=None)
    assert classifier.predict(at(0)) == [None]
    classifier.learn(at(0), ["unknown"])
    assert classifier.predict(at(0)) == ["unknown"]
    with pytest.raises(ValueError, match="None is what predict says"):
        classifier.learn(at(0), [None])


STEP = st.one_of(
    st.tuples(
        st.just("learn"),
        st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcde")), min_size=1, max_size=6),
    ),
    st.tuples(st.just("forget"), st.sampled_from("abcde")),
    st.tuples(st.just("forget a ref"), st.integers(0, 30)),
    st.tuples(st.just("resize"), st.integers(2, 9)),
    st.tuples(st.just("undo"), st.sampled_from("abcde")),
)


@given(st.lists(STEP, max_size=8), st.booleans())
@settings(max_examples=60)
def test_names_and_refs_keep_step_with_the_memory(steps, averages):
    """A book of our own, of what each ref was called, is kept beside it and has to agree."""
    options = {} if averages else {"update": FirstInFirstOut()}
    classifier = bare(memory_size=4, **options)
    label_of, there, count = {}, {}, 0
    for verb, what in steps:
        if verb in ("learn", "undo"):
            pairs = what if verb == "learn" else [(0, what)]
            refs = range(count, count + len(pairs))
            count += len(pairs)
            inputs, labels = at(*(45 * place for place, _ in pairs)), [name for _, name in pairs]
            if verb == "undo":
                with classifier.snapshot():
                    classifier.learn(inputs, labels, refs)
                    classifier.forget(what)
            elif len(pairs) <= len(classifier.memory.values):
                learnt = classifier.learn(inputs, labels, refs)
                for slot, hit in zip(learnt.slots.tolist(), learnt.hits.tolist(), strict=True):
                    if not (hit and averages):
                        there[slot] = []
                for slot, ref, label in zip(learnt.slots.tolist(), refs, labels, strict=True):
                    label_of[ref] = label
                    there[slot] = [*there[slot], ref]
        elif verb == "forget" and what in classifier.classes:
            classifier.forget(what)
            there = {s: refs for s, refs in there.items() if label_of[refs[0]] != what}
        elif verb == "forget a ref" and any(what in refs for refs in there.values()):
            (slot,) = [slot for slot, refs in there.items() if what in refs]
            forgotten = classifier.forget_refs(what)
            assert forgotten.beside == [ref for ref in there.pop(slot) if ref != what]
        elif verb == "resize":
            ages = classifier.memory.ages
            kept = sorted(sorted(there, key=lambda slot: (ages[slot], slot))[:what])
            smaller = what < len(classifier.memory.values)
            classifier.resize(what)
            there = {(i if smaller else s): there[s] for i, s in enumerate(kept)}
        values = classifier.memory.values
        occupied = (values != EMPTY).nonzero().squeeze(1).tolist()
        stored = {one.slot: one for one in classifier.examples()}
        assert sorted(there) == occupied
        for slot, refs in there.items():
            assert list(stored[slot].refs) == refs
            assert {label_of[ref] for ref in refs} == {stored[slot].label}
        assert set(classifier.classes) == {label_of[refs[0]] for refs in there.values()}
    again = bare(memory_size=len(classifier.memory.values), **options)
    again.load_state_dict(classifier.state_dict())
    assert everything(again) == everything(classifier)


def test_averaged_examples_take_a_slot_a_class_and_keep_their_refs():
    classifier = bare()
    learnt = classifier.learn(
        at(0, 90, 20, 100), ["kea", "weka", "kea", "weka"], ["a", "b", "c", "d"], average=True
    )
    assert learnt.slots.tolist() == [0, 1, 0, 1] and learnt.hits.tolist() == [False] * 4
    assert len(classifier.memory) == 2
    torch.testing.assert_close(classifier.memory.keys[:2], at(10, 95))
    assert [one.refs for one in classifier.explain(at(10)[0], k=2)] == [("a", "c"), ("b", "d")]


def test_a_mean_is_of_directions_and_over_all_batches_of_a_loader():
    whole, loaded = bare(), bare()
    inputs = torch.cat([5 * at(0), at(40), at(90)])
    whole.learn(inputs, ["kea", "kea", "weka"], average=True)
    torch.testing.assert_close(whole.memory.keys[:2], at(20, 90))
    loader = iter([(inputs[:1], ["kea"]), (inputs[1:], ["kea", "weka"])])
    loaded.learn(loader, average=True)
    torch.testing.assert_close(loaded.memory.keys, whole.memory.keys)


def test_labels_that_python_calls_equal_are_averaged_apart():
    classifier = bare()
    classifier.learn(at(0, 90, 10, 180), [1, True, 1, 1.0], ["a", "b", "c", "d"], average=True)
    assert [(one.label, one.refs) for one in classifier.examples()] == [
        (1, ("a", "c")),
        (True, ("b",)),
        (1.0, ("d",)),
    ]
    assert [type(one.label) for one in classifier.examples()] == [int, bool, float]


@pytest.mark.parametrize("rare", [1, 2])
def test_labels_that_no_slot_has_any_more_are_dropped_by_a_look_at_some_slots_too(
    rare, monkeypatch
):
    monkeypatch.setattr(learning, "_SOME", 4)
    monkeypatch.setattr(learning, "_SPARSE", 1)
    classifier = wrap(nn.Identity(), host=False, memory_size=40)
    classifier.learn(torch.randn(40, 3), ["weka"] * rare + ["kea"] * (40 - rare))
    assert classifier.learn(torch.randn(1, 3), ["kaka"]).lost == ["weka"]
    assert [*classifier._book] == ["weka", "kea", "kaka"][rare == 1 :]
    assert classifier.learn(torch.randn(2, 3), ["kaka"] * 2).lost[-1] == "kea"
    assert [*classifier._book] == ["kea", "kaka"]
