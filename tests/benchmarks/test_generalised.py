"""Generalised few-shot learning: who draws what, how it is measured, and the rivals by hand."""

import math

import pytest
import torch
from torch import Generator, nn

from benchmarks.generalised import __main__ as generalised
from benchmarks.generalised import host
from benchmarks.generalised.drawings import (
    FIT,
    NEW_TEST,
    TEST,
    TRAIN,
    Classes,
    Drawings,
    drawn,
    pixels,
)
from benchmarks.generalised.host import HostTraining
from benchmarks.generalised.measured import accuracies
from benchmarks.generalised.rivals import (
    HostOutputs,
    Task,
    balanced,
    chosen,
    grown,
    host_alone,
    imprinted,
    nearest_class_mean,
    tip_adapter,
    tuned_head,
)
from rarememory.data import Characters, draw_glyphs
from rarememory.evaluation.accuracy import student_t

DRAWERS = range(20)


def test_no_drawing_is_in_two_parts():
    old = [set(DRAWERS[part]) for part in (TRAIN, FIT, TEST)]
    assert set.union(*old) == set(DRAWERS) and sum(map(len, old)) == 20
    for shots in (1, 5):
        assert not set(DRAWERS[:shots]) & set(DRAWERS[NEW_TEST])


def test_drawings_come_with_their_names():
    images = torch.arange(2 * 20).view(2, 20, 1, 1).expand(-1, -1, 8, 8).to(torch.uint8)
    few = drawn(Characters(("a", "b"), images), slice(3, 5))
    assert few.names == ["a", "a", "b", "b"]
    assert few.images[:, 0, 0].tolist() == [3, 4, 23, 24]
    both = few + few
    assert isinstance(both, Drawings) and len(both.images) == 8
    assert [names for _, names in both.batches(5)] == [both.names[:5], both.names[5:]]
    assert pixels(few.images).shape == (4, 3, 8, 8)
    torch.testing.assert_close(pixels(few.images)[3, 2, 1, 1], torch.tensor(24 / 255))


def test_accuracy_is_a_mean_over_classes_and_old_and_new_are_apart():
    classes = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    answers = torch.tensor([0, 1, 1, 2, 2, 0, 0])
    measured = accuracies(answers, classes, n_old=2)
    assert measured.old.mean == pytest.approx((1 / 2 + 1) / 2)
    assert measured.new.mean == pytest.approx((2 / 3 + 0) / 2)
    assert measured.harmonic.mean == pytest.approx(2 / (1 / 0.75 + 3))
    assert accuracies(torch.zeros(7).long(), classes, n_old=2).harmonic == (0.0, 0.0)


def test_the_interval_of_the_harmonic_mean_is_what_sampling_gives():
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(400)
    accuracy = torch.where(classes < 200, 0.9, 0.6)
    runs = [
        accuracies(torch.where(torch.rand(400, generator=generator) < accuracy, classes, -1),
                   classes, n_old=200).harmonic
        for _ in range(300)
    ]  # fmt: skip
    spread = torch.tensor([run.mean for run in runs]).std().item()
    assert student_t(199) * spread == pytest.approx(runs[0].interval, rel=0.15)


def task(features, classes, queries, n_classes=3, n_old=2):
    """A host of two classes whose logits are the features themselves."""
    head = nn.Linear(2, n_old)
    head.weight.data, head.bias.data = torch.eye(2), torch.zeros(2)
    features, queries = torch.tensor(features), torch.tensor(queries)
    examples = HostOutputs(features, features.clone(), torch.tensor(classes))
    asked = HostOutputs(queries, queries.clone(), torch.zeros(len(queries)).long())
    return Task(examples, asked, head, n_classes)


EXAMPLES = ([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [0.5, 0.5]], [0, 1, 2, 2], [[1.0, 0.8]])


def test_the_host_alone_answers_no_new_class():
    assert host_alone(task(*EXAMPLES)).tolist() == [[1.0, pytest.approx(0.8), -math.inf]]


def test_class_means_are_of_directions():
    half = math.sqrt(0.5)
    wanted = [1 / math.hypot(1, 0.8), 0.8 / math.hypot(1, 0.8), 1.8 * half / math.hypot(1, 0.8)]
    assert nearest_class_mean(task(*EXAMPLES))[0].tolist() == pytest.approx(wanted)


def test_an_imprinted_row_is_the_mean_of_the_length_of_the_others():
    scores = imprinted(task(*EXAMPLES), scale=2.0, bias=0.5)[0].tolist()
    assert scores == pytest.approx([1.0, 0.8, 2 * 1.8 * math.sqrt(0.5) + 0.5])
    head = grown(task(*EXAMPLES).head, torch.tensor([[0.6, 0.8]]))
    assert head.weight.tolist()[2] == pytest.approx([0.6, 0.8])
    assert head.weight.tolist()[:2] == torch.eye(2).tolist()


def test_the_cache_adds_affinities_to_logits():
    one = task(*EXAMPLES)
    scores = tip_adapter(one, alpha=3.0, beta=5.0, bias=-1.0)[0].tolist()
    length, by_hand = math.hypot(1, 0.8), [1.0, 0.8, -1.0]
    cosines = [1 / length, 0.8 / length] + 2 * [1.8 * math.sqrt(0.5) / length]
    for cosine, label in zip(cosines, EXAMPLES[1], strict=True):
        by_hand[label] += 3 * math.exp(-5 * (1 - cosine))
    assert scores == pytest.approx(by_hand, rel=1e-5)


def test_a_tuned_head_learns_its_examples():
    one = task(*EXAMPLES)
    learnt = tuned_head(one._replace(queries=one.examples), rate=0.05, epochs=100)
    assert learnt.argmax(1).tolist() == EXAMPLES[1]


def test_every_class_is_as_frequent_in_an_epoch():
    classes = torch.tensor([0] * 300 + [1] * 100 + [2])
    rows = balanced(classes, Generator().manual_seed(0))
    assert len(rows) == 900
    assert all(250 < count < 350 for count in classes[rows].bincount().tolist())


def test_what_is_left_open_is_chosen_in_the_rehearsal():
    def rival(_, answer):
        return torch.eye(3)[[answer, 2]]

    one = task(*EXAMPLES)
    two = one._replace(
        queries=HostOutputs(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([1, 2]))
    )
    assert chosen(rival, two, {"answer": (0, 1, 2)}) == {"answer": 1}


@pytest.mark.parametrize("balance", [False, True])
def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch, balance):
    def trained(path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        images = torch.randint(0, 255, (6, 8, 8), generator=Generator().manual_seed(1))
        images, labels = images.to(torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1])
        training = HostTraining(model, images, labels, epochs=3, rate=0.01, seed=0, balance=balance)
        training.train(path, "training", unit="epoch")
        return model[1].weight

    def interrupted(training):
        if training.step == 2:
            raise KeyboardInterrupt
        return advance(training)

    whole, advance = trained(tmp_path / "whole.pt"), HostTraining.advance
    monkeypatch.setattr(HostTraining, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts.pt")
    monkeypatch.setattr(HostTraining, "advance", advance)
    assert torch.equal(trained(tmp_path / "parts.pt"), whole)


class SmallHost(nn.Module):
    """A convolution of large windows and a head, in the place of a resnet18."""

    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(16 * 3 * 3, num_classes)

    def forward(self, images):
        return self.fc(self.features(images))


@pytest.mark.slow
def test_the_whole_benchmark_runs_on_drawn_glyphs(folders, monkeypatch):
    glyphs = draw_glyphs(18)
    old, new, rehearsal = (glyphs.select(glyphs.names[part::3]) for part in range(3))
    monkeypatch.setattr(host, "resnet18", SmallHost)
    monkeypatch.setattr(generalised, "read", lambda *_: Classes(old, new, rehearsal))
    assert generalised.main(["--epochs", "2", "--tuning", "1"]) == 0
    figures = folders.result("generalised")["figures"]
    for shots in (1, 5):
        key = f"generalised.{shots}shot"
        assert figures[f"{key}.host.new"] == 0 < figures[f"{key}.harmonic_mean"]
        rivals = ("host", "class_mean", "imprinted", "tip_adapter", "tuned_head", "tuned_all")
        best = max(figures[f"{key}.{rival}.harmonic"] for rival in rivals)
        assert figures[f"{key}.memory_over_best_rival"] == pytest.approx(
            figures[f"{key}.memory.harmonic"] - best, abs=1e-3
        )
        lost = figures[f"{key}.host.old"] - figures[f"{key}.memory.old"]
        assert figures[f"{key}.base_loss"] == pytest.approx(lost, abs=1e-3)
        assert figures[f"{key}.tuning_to_learning"] > 0
    for rate in (1, 5, 10):
        assert 0 <= figures[f"openset.far{rate}.measured"] <= 100
    assert {"openset.auroc.memory", "openset.auroc.max_softmax"} <= figures.keys()


@pytest.mark.slow
def test_what_was_measured_before_an_interrupt_is_not_measured_again(folders, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def counted(*given, **settings):
        prepared.append(settings)
        return prepare(*given, **settings)

    glyphs, prepared, prepare = draw_glyphs(18), [], generalised.prepared
    parts = [glyphs.select(glyphs.names[part::3]) for part in range(3)]
    monkeypatch.setattr(host, "resnet18", SmallHost)
    monkeypatch.setattr(generalised, "read", lambda *_: Classes(*parts))
    monkeypatch.setattr(generalised, "prepared", counted)
    with monkeypatch.context() as while_tuning:
        while_tuning.setattr(generalised, "tuned_host", interrupted)
        assert generalised.main(["--epochs", "1", "--tuning", "1"]) != 0
    memories = len(generalised.MEMORIES)
    assert len(prepared) == memories
    assert generalised.main(["--epochs", "1", "--tuning", "1"]) == 0
    assert len(prepared) == 2 * memories
    assert folders.result("generalised")["figures"]["generalised.1shot.memory.old"] >= 0
