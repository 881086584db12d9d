"""What holds for every reader: refusals, scales, dtypes, copies, threads."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from classifiers import at, everything, hosted
from torch import nn

from rarememory import FirstInFirstOut, Memory, MemoryClassifier, wrap

READERS = ["nearest", "fitted"]


@pytest.fixture(params=READERS)
def reader(request):
    return request.param


def learnt(reader, classes=3, **options):
    """A classifier of six dimensions with one example of each class."""
    classifier = wrap(nn.Identity(), host=False, reader=reader, **options)
    if classes:
        classifier.learn(torch.eye(6)[:classes] + 0.1, list("abcdef"[:classes]))
    return classifier


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("row", [[0.0] * 6, [torch.nan] * 6, [torch.inf] + [0.0] * 5])
def test_features_that_have_no_direction_are_refused(reader, classes, row):
    classifier = learnt(reader, classes)
    for ask in (classifier.predict, classifier.predict_proba, classifier.explain):
        with pytest.raises(ValueError, match="must be finite and not zero"):
            ask(torch.tensor([row]))


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_without_validation_they_are_unknown_and_the_others_are_answered(reader, classes):
    memory = Memory(6, 8, validate=False)
    classifier = wrap(nn.Identity(), host=False, reader=reader, memory=memory)
    classifier.learn(torch.eye(6)[:classes], list("abc"[:classes]))
    inputs = torch.stack([torch.full((6,), torch.nan), torch.eye(6)[0], torch.zeros(6)])
    assert classifier.predict(inputs) == ["unknown", "a", "unknown"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("classes", [0, 1, 2, 3])
def test_features_of_another_width_or_of_integers_are_refused(reader, classes):
    classifier = wrap(nn.Identity(), host=False, reader=reader, memory=Memory(6, 8))
    if classes:
        classifier.learn(torch.eye(6)[:classes], list("abc"[:classes]))
    with pytest.raises(
        ValueError, match="queries have width 5, and the keys of this memory have 6"
    ):
        classifier.predict(torch.ones(1, 5))
    with pytest.raises(ValueError, match="queries must be floating point"):
        classifier.predict(torch.ones(1, 6, dtype=torch.int64))


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_only_the_direction_of_features_counts(reader, classes, scale):
    classifier = learnt(reader, classes)
    inputs = torch.eye(6)[:4] + 0.2
    expected = classifier.predict_proba(inputs).values
    torch.testing.assert_close(classifier.predict_proba(scale * inputs).values, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keys_and_features_may_have_any_dtype(reader, dtype):
    memory = Memory(6, 32, key_dtype=dtype)
    classifier = wrap(nn.Identity(), host=False, reader=reader, memory=memory)
    classifier.learn(torch.eye(6) + 0.1, range(6))
    classifier.learn((torch.eye(6) + 0.2).to(dtype), range(6))
    for inputs in (torch.eye(6), torch.eye(6, dtype=dtype)):
        assert classifier.predict(inputs) == [*range(6)]
        answer = classifier.predict_proba(inputs)
        assert answer.values.dtype == torch.float32 and answer.values.isfinite().all()
        assert [row[0].label for row in classifier.explain(inputs, k=1)] == [*range(6)]
    classifier.fit_threshold(false_accept_rate=0.1)
    assert classifier.threshold.isfinite()


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_classifier_may_be_converted(reader, convert):
    classifier = convert(learnt(reader))
    inputs = (torch.eye(6)[:3] + 0.1).to(classifier.memory.keys.dtype)
    assert classifier.predict(inputs) == list("abc")


def test_under_autocast_the_answers_are_the_same(reader):
    classifier = learnt(reader)
    classifier.learn(torch.eye(6)[:3] + 0.3, list("abc"))
    expected = deepcopy(classifier).predict_proba(torch.eye(6)).values
    with torch.autocast("cpu"):
        found = classifier.predict_proba(torch.eye(6)).values
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.ones(1, 6), ["a"]),
        (torch.ones(3, 6), ["a", "a", "a"]),
        (torch.ones(2, 6), ["a", "b"]),
        (torch.ones(4, 6), ["a", "a", "b", "b"]),
        (torch.tensor([[1.0], [-1.0], [2.0]]), ["a", "b", "a"]),
        (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), ["a", "b"]),
        (torch.eye(6), ["a", "a", "a", "a", "a", "b"]),
    ],
    ids=["one", "one class", "equal", "equal pairs", "one dimension", "opposite", "unequal"],
)
def test_examples_that_leave_nothing_to_fit_have_finite_answers(reader, inputs, labels):
    classifier = wrap(nn.Identity(), host=False, reader=reader)
    classifier.learn(inputs, labels)
    asked = torch.cat([inputs, torch.randn(5, inputs.shape[1])])
    answer = classifier.predict_proba(asked)
    torch.testing.assert_close(answer.values.sum(1), torch.ones(len(asked)))
    assert all(label in labels for label in classifier.predict(asked))
    assert all(
        torch.tensor([one.weight for one in row]).isfinite().all()
        for row in classifier.explain(asked)
    )


def test_an_answer_changes_no_state(reader):
    classifier = hosted(torch.randn(3, 2), reader=reader)
    classifier.learn(at(0, 90, 200), ["kea", "weka", 1])
    before = everything(classifier)
    inputs = at(30, 60).requires_grad_()
    for _ in range(2):
        classifier.predict(inputs), classifier.explain(inputs), classifier.doctor(inputs)
        classifier.predict_proba(inputs), classifier.familiarity(inputs), classifier(inputs)
        assert classifier.blend_weights.host_score.isfinite()
    assert everything(classifier) == before


def test_a_copy_or_pickle_answers_the_same_and_learns_apart(reader):
    classifier = learnt(reader)
    inputs = torch.eye(6)
    expected = classifier.predict_proba(inputs).values
    for again in (deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert again.reader.name == reader
        assert torch.equal(again.predict_proba(inputs).values, expected)
        again.learn(-torch.ones(1, 6), ["new"])
        assert again.predict(-torch.ones(1, 6)) == ["new"]
        assert torch.equal(classifier.predict_proba(inputs).values, expected)


def test_nothing_forgotten_is_left_in_a_pickle(reader):
    classifier = wrap(nn.Identity(), host=False, reader=reader, memory_size=8)
    classifier.learn(torch.randn(4, 6), list("aabc"))
    classifier.predict(torch.eye(6))
    keys = classifier.memory.keys[:2].clone()
    classifier.forget("a")
    pickled = pickle.dumps(classifier)
    assert all(key.numpy().tobytes() not in pickled for key in keys)


def test_a_memory_that_was_changed_directly_is_read_anew(reader):
    classifier = learnt(reader)
    assert classifier.predict(torch.eye(6)[:3]) == list("abc")
    with classifier.memory.snapshot():
        classifier.memory.forget(slots=0)
        assert classifier.predict(torch.eye(6)[0]) != "a"
    assert classifier.predict(torch.eye(6)[:3]) == list("abc")
    classifier.memory.keys[:2] = classifier.memory.keys[:2].flip(0)
    assert classifier.predict(torch.eye(6)[:3]) == ["b", "a", "c"]
    classifier.forget(*"abc")
    assert classifier.predict(torch.eye(6)[:1]) == ["unknown"]


def test_inference_mode_answers_the_same(reader):
    inputs = torch.eye(6) + 0.1
    expected = learnt(reader).predict_proba(inputs).values
    with torch.inference_mode():
        classifier = learnt(reader)
        torch.testing.assert_close(classifier.predict_proba(inputs).values, expected)
        classifier.learn(inputs[3:4], ["d"])
        assert classifier.predict(inputs[:4]) == list("abcd")
    assert classifier.predict(inputs[:4]) == list("abcd")


@pytest.mark.parametrize("host", [True, False])
def test_what_was_wrapped_or_loaded_in_inference_mode_learns_outside_of_it(reader, host, tmp_path):
    memory_of = {"update": FirstInFirstOut(), "count_usage": True}
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
        made = [wrap(model, host=host, reader=reader)]
        made += [wrap(nn.Identity(), host=False, memory=Memory(6, 8, **memory_of), reader=reader)]
        made[0].save(tmp_path / "birds")
        made.append(MemoryClassifier.load(tmp_path / "birds", model))
    for classifier in made:
        classifier.learn(torch.eye(6)[:4], list("abca"))
        assert classifier.forget("b") == 1
        assert classifier.predict(torch.eye(6)[2]) == "c"
        if classifier.memory.usage is not None:
            classifier.memory.record(classifier.memory(torch.eye(6)[:1]))
        classifier.resize(9)
        classifier.fit_threshold(unknown=torch.ones(2, 6))


def test_a_checkpoint_brings_its_reader_and_its_weights(reader):
    classifier = learnt(reader)
    other = learnt(next(name for name in READERS if name != reader), classes=0)
    other.load_state_dict(classifier.state_dict())
    assert other.reader.name == reader and other.blend_weights == classifier.blend_weights
    inputs = torch.eye(6)
    assert torch.equal(other.predict_proba(inputs).values, classifier.predict_proba(inputs).values)


def test_forgotten_classes_of_the_host_are_never_answered(reader):
    classifier = hosted(3 * at(0, 120, 240), reader=reader, classes=list("abc"))
    classifier.learn(at(0, 60, 180), ["a", "x", "y"])
    inputs = at(*range(0, 360, 30))
    assert "a" in classifier.predict(inputs)
    classifier.forget("a")
    assert "a" not in classifier.predict(inputs)
    classifier.forget("b", "c")
    assert set(classifier.predict(inputs)) == {"x", "y"}
    classifier.forget("x", "y")
    assert set(classifier.predict(inputs)) == {"unknown"}


def test_gradients_through_an_answer_are_finite(reader):
    classifier = hosted(torch.randn(3, 2), reader=reader)
    for degrees, names in (((0,), "a"), ((90, 200), "bc"), ((10, 95), "ab")):
        classifier.learn(at(*degrees), list(names))
        inputs = at(0, 30, 60).requires_grad_()
        classifier(inputs).square().sum().backward()
        assert inputs.grad.isfinite().all() and inputs.grad.abs().sum() > 0


@pytest.mark.usefixtures("unchecked")
def test_threads_that_ask_after_a_change_all_get_the_new_answer(reader):
    classifier = wrap(nn.Identity(), host=False, reader=reader)
    inputs = torch.eye(6) + 0.1
    with ThreadPoolExecutor(4) as pool:
        for count in range(1, 7):
            classifier.learn(inputs[count - 1 : count], ["abcdef"[count - 1]])
            found = pool.map(lambda _, n=count: classifier.predict(inputs[:n]), range(8))
            assert [*found] == [list("abcdef"[:count])] * 8


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("classes", [3, 5, 10])
def test_with_few_classes_strangers_are_refused_and_known_ones_are_not(reader, classes, shots):
    directions = torch.randn(60, 64)

    def drawn(rows):
        return directions[rows] + 0.2 * torch.randn(len(rows), 64)

    known, strange = torch.arange(classes).repeat_interleave(shots), torch.arange(classes, 60)
    classifier = wrap(nn.Identity(), host=False, reader=reader)
    classifier.learn(drawn(known), known.tolist())
    classifier.fit_threshold(false_accept_rate=0.05)
    assert classifier.predict(drawn(strange)).count("unknown") > len(strange) / 3
    assert classifier.predict(drawn(known)).count("unknown") == 0
