"""The doctor: what will answer badly is named, with what to do about it."""

import json

import pytest
import torch
from classifiers import at, bare, everything, hosted

from rarememory import FirstInFirstOut, Memory, wrap


def test_a_healthy_memory_has_nothing_to_mend():
    classifier = bare(update=FirstInFirstOut())
    classifier.learn(at(0, 10, 90, 100), ["kea", "kea", "weka", "weka"], range(4))
    report = classifier.doctor()
    assert report.well and str(report) == "4 of 8 slots, 2 classes\nnothing to mend"
    assert (report.few, report.dead, report.clashes, report.idle) == ([], [], [], None)


def test_an_empty_memory_is_well():
    assert str(bare().doctor(at(0))) == "0 of 8 slots, 0 classes\nnothing to mend"


def test_classes_with_few_slots_are_named():
    classifier = bare(update=FirstInFirstOut())
    classifier.learn(at(0, 10, 90), ["kea", "kea", "weka"], range(3))
    assert classifier.doctor().few == [("weka", 1)]
    assert classifier.doctor(few=3).few == [("kea", 2), ("weka", 1)]
    assert "classes with few slots: 'weka' (1)" in str(classifier.doctor())


def test_nearly_equal_examples_of_different_labels_are_named_once():
    classifier = bare()
    classifier.learn(at(0, 120, 240), ["kea", "weka", "kiwi"])
    classifier.learn(at(2), ["moa"])
    (clash,) = classifier.doctor().clashes
    assert {clash.label, clash.other_label} == {"kea", "moa"} and clash.score > 0.99
    assert classifier.doctor(near=0.9999).clashes == [] and not classifier.doctor().well


def test_too_few_examples_to_whiten_by_are_named():
    torch.manual_seed(0)
    classifier = wrap(torch.nn.Identity(), host=False)
    for examples, named in ((2, True), (2, True), (2, False)):
        classifier.learn(torch.randn(examples, 32), ["kea", "weka"])
        assert ("few examples to whiten" in str(classifier.doctor())) is named
    # 2 and 4 examples of 2 classes: 0 and 2 beyond the first of each, fewer than a tenth of 32.
    assert (classifier.doctor().differences, classifier.doctor().key_dim) == (4, 32)
    nearest = wrap(torch.nn.Identity(), host=False, reader="nearest")
    nearest.learn(torch.randn(2, 32), ["kea", "weka"])
    assert "whiten" not in str(nearest.doctor())


def test_a_dead_slot_is_named():
    classifier = bare()
    classifier.learn(at(0, 90), ["kea", "weka"])
    classifier.memory.keys[1] = float("nan")
    assert classifier.doctor().dead == [1] and not classifier.doctor().well
    for wrong in (0.0, 3.0):
        classifier.memory.keys[1] = wrong
        assert classifier.doctor().dead == [1]


def test_slots_that_answer_no_input_are_named():
    classifier = bare()
    classifier.learn(at(0, 90, 180), ["kea", "weka", "kiwi"])
    slot = {one.label: one.slot for one in classifier.explain(at(0)[0])}
    assert classifier.doctor(at(10, 100)).idle == [slot["kiwi"]]
    assert "answered none of the inputs" in str(classifier.doctor(at(10, 100)))


def test_slots_without_a_ref_and_a_full_memory_are_named():
    classifier = bare(memory_size=2)
    classifier.learn(at(0, 90), ["kea", "weka"], [None, "2.png"])
    report = classifier.doctor()
    assert report.nameless == 1 and report.occupied == report.slots == 2
    assert "slots, all of them full" in str(report) and "resize()" in str(report)


def test_a_report_is_json_too():
    classifier = hosted(torch.eye(2))
    classifier.learn(at(0, 1), ["kea", ("weka", 1)])
    stored = json.loads(json.dumps(classifier.doctor(at(0)).as_json()))
    assert stored["well"] is False and stored["occupied"] == 2 and len(stored["clashes"]) == 1


def test_looking_changes_nothing():
    classifier = bare()
    classifier.learn(at(0, 1), ["kea", "weka"])
    before = everything(classifier)
    str(classifier.doctor(at(0)))
    assert everything(classifier) == before


def spread_out(count, dim=6, seed=0, noise=0.1):
    """Examples of three classes, the last two of which are one."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, dim, generator=random)[[0, 1, 1]]
    labels = torch.arange(3).repeat_interleave(count)
    return centres[labels] + noise * torch.randn(3 * count, dim, generator=random), labels


def test_classes_that_another_answers_for_are_named():
    features, labels = spread_out(7)
    features[14:] = features[7:14] + 1e-3
    classifier = wrap(torch.nn.Identity(), host=False)
    classifier.learn(features, [("kea", "weka", "wekka")[label] for label in labels.tolist()])
    confused = {(found.label, found.other_label) for found in classifier.doctor().confusions}
    assert confused <= {("weka", "wekka"), ("wekka", "weka")} and confused
    assert "classes that another one answers for" in str(classifier.doctor())
    assert wrap(torch.nn.Identity(), host=False).doctor(torch.ones(0, 6)).confusions == []


def test_new_classes_that_never_answer_are_named():
    features, _ = spread_out(4)
    quiet = wrap(torch.nn.Linear(6, 2), host_score=500.0)
    quiet.learn(features[:8], ["kea"] * 4 + ["weka"] * 4)
    assert quiet.doctor(features).silent == ["kea", "weka"]
    assert "the host outweighs the memory" in str(quiet.doctor(features))
    assert quiet.doctor().silent == ["kea", "weka"]
    assert "would not even answer their own examples: 'kea', 'weka'" in str(quiet.doctor())
    loud = wrap(torch.nn.Linear(6, 2), host_score=-500.0)
    loud.learn(features[:8], ["kea"] * 4 + ["weka"] * 4)
    assert loud.doctor(features[:8]).silent == loud.doctor().silent == []
    found = wrap(torch.nn.Linear(6, 2))
    found.learn(features[:8], ["kea"] * 4 + ["weka"] * 4)
    assert found.doctor().silent == []


def test_the_doctor_of_the_nearest_reader_says_that_the_host_drowns_the_memory():
    features, _ = spread_out(4)
    for host_score, silent in ((500.0, ["kea", "weka"]), (-500.0, [])):
        birds = wrap(torch.nn.Linear(6, 2), reader="nearest", host_score=host_score)
        birds.learn(features[:5], ["kea"] * 4 + ["weka"])
        assert birds.doctor().silent == silent and birds.doctor().confusions == []
    # An example that is alone in its class is asked about itself.
    alone = hosted(torch.eye(2), reader="nearest", host_score=0.5)
    alone.learn(at(0, 90), ["kea", "weka"])
    assert alone.doctor().silent == []
    memory = Memory(6, 8, projection=True)
    projected = wrap(torch.nn.Linear(6, 2), reader="nearest", memory=memory, host_score=500.0)
    projected.learn(features[:5], ["kea"] * 4 + ["weka"])
    assert projected.doctor().silent is None


def test_all_neighbours_of_a_class_count_against_the_host():
    birds = wrap(torch.nn.Linear(6, 2), reader="nearest")
    birds.learn(torch.ones(4, 6), ["kea"] * 4)
    # The other three examples are the example itself: e^(1/T) each. Of two classes a host is sure
    # of the likeliest by a half at least.
    level = 1 + birds.memory.temperature * torch.tensor(3.0 / 0.5).log()
    for host_score, silent in ((level - 0.01, []), (level + 0.01, ["kea"])):
        birds.ensembler.weights[1:] = torch.tensor([host_score, 1.0, 0.0])
        assert birds.doctor().silent == silent


@pytest.mark.parametrize("unknown", [False, True])
def test_the_host_drowns_a_class_where_it_outweighs_each_example_even_when_least_sure(unknown):
    features, _ = spread_out(4)
    torch.manual_seed(0)
    birds = wrap(torch.nn.Linear(6, 2))
    birds.learn(features, [0] * 4 + ["kea"] * 4 + ["weka"] * 4)
    memory, ensembler = birds.memory, birds.ensembler
    # Of one of them the host has a much lower max logit than of the others.
    memory.get_buffer("max_logits").fill_(2.0)[7] = 1.0
    if unknown:
        memory.get_buffer("confidences").fill_(1)
    left_out = birds.reader.left_out(memory, ensembler.host_ids)
    own = left_out.own_ids == memory.values[4]
    best = left_out.with_own.scores[own].max()
    confidences = memory.get_buffer("confidences")[4:8]
    # Of two classes the likeliest has at least a half.
    sure = torch.full((4,), 0.5) if unknown else confidences
    weight, bias = 1.3, 0.4
    # Eight new examples of two classes; their deviation is more than 0.3 of their mean, 1.875.
    terms = (torch.tensor([2.0, 2.0, 2.0, 1.0]) - 1.875) / 0.5625 / 2
    level = (best - (weight * sure.log() + terms).min() - bias).item()
    for host_score, silent in ((level - 0.01, False), (level + 0.01, True)):
        ensembler.weights.copy_(torch.tensor([1.0, host_score, weight, bias]))
        assert ("kea" in birds.doctor().silent) == silent
    ensembler.weights[1] = 500.0
    assert birds.doctor().silent == ["kea", "weka"]


def test_features_of_one_direction_and_of_unlike_scale_are_named():
    features, labels = spread_out(4)
    nearest = wrap(torch.nn.Identity(), host=False, reader="nearest")
    nearest.learn(features + 20, labels.tolist())
    assert nearest.doctor().direction > 0.9
    assert "all cosines are high" in str(nearest.doctor())
    fitted = wrap(torch.nn.Identity(), host=False)
    fitted.learn(features * torch.tensor([1e4, 1, 1, 1, 1, 1]), labels.tolist())
    assert "divide each column by its standard deviation" in str(fitted.doctor())


def test_slots_that_answered_no_recorded_read_are_named():
    memory = Memory(2, 8, update=FirstInFirstOut(), count_usage=True)
    birds = wrap(torch.nn.Identity(), host=False, memory=memory)
    birds.learn(at(0, 90, 180), ["kea", "weka", "tui"])
    assert birds.doctor().unused is None
    memory.record(memory(at(1, 91)))
    report = birds.doctor(few=1)
    assert report.unused == [2]
    assert "1  slots that answered none of the recorded reads: 2" in str(report)
