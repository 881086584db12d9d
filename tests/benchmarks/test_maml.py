"""MAML beside the memory, where learn2learn is installed: the same episodes, and exact resume."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.omniglot_peers.drawings import Drawings
from benchmarks.omniglot_peers.tasks import Task
from rarememory.data import Characters, draw_glyphs, support_query_episode

with warnings.catch_warnings():
    # Its import warns of gym and of more.
    warnings.simplefilter("ignore")
    pytest.importorskip(
        "learn2learn", reason="learn2learn is not installed (it needs NumPy 1): make learn2learn"
    )
    from benchmarks.omniglot_peers import maml

GLYPHS = draw_glyphs(9, 20).images
OPTIONS = SimpleNamespace(second_order=False, rate=1e-3, seed=0)


def meta(options=OPTIONS, **changes):
    setting = maml.SETTINGS[Task(5, 1)]._replace(**{"tasks": 2, **changes})
    return maml.MetaTraining(GLYPHS, Task(3, 1), setting, options, 6)


def test_iterations_go_down_the_loss_after_adapting():
    one = meta(tasks=4)
    losses = [one.advance() for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_loss_is_that_of_the_classes_of_the_rows_after_a_step_on_the_support(monkeypatch):
    one, drawn = meta(tasks=1), []
    clone = one.maml.clone

    def watched():
        learner = clone()
        drawn.append(learner)
        return learner

    monkeypatch.setattr(one.maml, "clone", watched)
    before = [weight.clone() for weight in one.maml.parameters()]
    loss = one.advance()
    generator = torch.Generator().manual_seed(0)
    shown, asked = (
        GLYPHS[part.classes, part.drawings].flatten(0, 1).unsqueeze(1) / 255
        for part in support_query_episode(9, 20, n_way=3, n_shot=1, n_query=1, generator=generator)
    )
    assert cross_entropy(drawn[0](asked), torch.arange(3)).item() == pytest.approx(loss, rel=1e-4)
    # Adapted to the support, away from where it began.
    assert cross_entropy(drawn[0](shown), torch.arange(3)) < 1
    assert not any(map(torch.equal, before, drawn[0].parameters()))


def test_a_test_adapts_to_the_support_of_each_episode_and_leaves_the_weights():
    one = meta()
    weights = [weight.clone() for weight in one.maml.parameters()]
    guessing = meta(test_steps=0).test(GLYPHS, 6).mean
    found = one.test(GLYPHS, 6)
    assert found.mean > max(guessing, 1 / 3) and one.test(GLYPHS, 6) == found
    assert all(map(torch.equal, weights, one.maml.parameters()))


@pytest.mark.parametrize("at_once", [1, 5])
def test_the_queries_are_asked_so_many_of_each_class_at_once_and_all_are_counted(at_once):
    queries, seen = GLYPHS[:3, :15], []

    def learner(ink):
        seen.append(ink)
        # The first two classes are always correct, and the third never.
        return torch.eye(3)[torch.tensor([0, 1, 0]).repeat_interleave(len(ink) // 3)]

    accuracy = maml._accuracy(learner, queries, at_once=at_once)
    assert accuracy.item() == pytest.approx(2 / 3)
    assert [len(ink) for ink in seen] == [3 * at_once] * (15 // at_once)
    shown = [ink.view(3, at_once, 28, 28) for ink in seen]
    assert torch.equal(torch.cat(shown, dim=1) * 255, queries.float())


def test_a_test_asks_as_many_at_once_as_its_task_has_shots(monkeypatch):
    asked_at_once = []
    monkeypatch.setattr(
        maml,
        "_accuracy",
        lambda *_, at_once: asked_at_once.append(at_once) or torch.tensor(1.0),
    )
    for shot in (1, 5):
        task = Task(3, shot)
        maml.MetaTraining(GLYPHS, task, maml.SETTINGS[Task(5, shot)], OPTIONS, 6).test(GLYPHS, 2)
    assert asked_at_once == [1, 1, 5, 5]


def test_the_second_order_is_another_gradient():
    first, second = meta(), meta(options=SimpleNamespace(**{**vars(OPTIONS), "second_order": True}))
    for one in (first, second):
        one.optimizer.step = lambda: None
        one.advance()
    gradients = [next(one.maml.parameters()).grad for one in (first, second)]
    assert not torch.allclose(*gradients)


def test_an_interrupted_training_ends_where_the_whole_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(maml, "VALIDATED", 2)
    whole, first, second = meta(), meta(), meta()

    def train(one, path):
        def evaluate():
            if one is first and one.step == 4:
                raise KeyboardInterrupt
            return one.validated(GLYPHS)

        one.train(tmp_path / path, "MAML", evaluate=evaluate, evaluate_at=range(7))

    train(whole, "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        train(first, "parts.pt")
    train(second, "parts.pt")
    assert second.curve == whole.curve and second.step == 6 == whole.curve[-1][0]
    assert all(map(torch.equal, whole.maml.parameters(), second.maml.parameters()))
    with pytest.raises(ValueError, match="use the options of that one, or remove the file"):
        train(meta(rate=0.1), "parts.pt")


def test_the_whole_runs_on_drawn_glyphs(folders, monkeypatch):
    names = tuple(f"Glyphs/character{n:02}" for n in range(1, 7))
    part = Characters(names, draw_glyphs(6).images).rotated()
    monkeypatch.setattr(maml, "read", lambda *_: Drawings(part, part, part, "vinyals", "0" * 12))
    monkeypatch.setattr(maml, "VALIDATED", 2)
    quick = {task: setting._replace(tasks=2) for task, setting in maml.SETTINGS.items()}
    monkeypatch.setattr(maml, "SETTINGS", quick)
    assert maml.main(["--times", "0.001", "--episodes", "2"]) == 0
    result = folders.result("omniglot_maml")
    keys = {f"omniglot_peers.maml.{task}" for task in maml.SETTINGS}
    assert set(result["figures"]) == {key + part for key in keys for part in ("", ".interval")}
    trained = result["trained"]["5w1s"]
    assert trained["iterations"] == 4 and trained["drawings"] == 4 * 2 * 5 * 2
    assert trained["validation_by_iteration"][-1][0] == 4
    assert trained["hours_for_40000_iterations"] > 0
    assert maml.BENCHMARK.parse([]).published
    assert not maml.BENCHMARK.parse(["--second-order"]).published
