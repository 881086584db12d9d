"""The sequence task: its strings, the networks, the memory's part in them, and the whole run."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.sequence import __main__ as sequence
from benchmarks.sequence import training as trainings
from benchmarks.sequence.measuring import accuracy, correct
from benchmarks.sequence.plot import draw_curves
from benchmarks.sequence.task import END, Task
from benchmarks.sequence.training import NETWORKS, Recipe, Training, untrained
from rarememory.evaluation import Accuracy

SMALL = Task(digits=2, symbols=20, length=6)


QUICK = Recipe(parts=(2, 1), batch=16, token_width=8, key_dim=8, memory_size=64, k=4)


NUMBERS = ["--digits", "2", "--symbols", "20", "--length", "6", "--examples", "60"]


QUICKLY = ["--held-out", "8", "--test", "30", "--parts", "2,1", "--batch", "16"]


NARROW = ["--token-width", "8", "--key-dim", "8", "--memory-size", "64", "--k", "4"]


both = pytest.mark.parametrize("name", NETWORKS)
KINDS = [(name, with_memory) for name in NETWORKS for with_memory in (True, False)]


def decoded(translator, examples):
    """Which outputs are correct when each step is given the predictions before it, not targets."""
    own = torch.full_like(examples.targets, END)
    for step in range(own.shape[1]):
        tokens = own.clone()
        # What comes later is not known yet; any letter there keeps the step asked.
        tokens[:, step:] = 1
        own[:, step] = translator.answers(examples._replace(targets=tokens))[:, step]
    pairs = zip(own.tolist(), examples.targets.tolist(), strict=True)
    return [up_to_end(said) == up_to_end(wanted) for said, wanted in pairs]


def up_to_end(tokens):
    return tokens[: tokens.index(END)] if END in tokens else tokens


@pytest.mark.slow
@both
def test_numbers_seen_a_few_times_are_known_without_being_given_a_target(
    tmp_path, monkeypatch, name
):
    monkeypatch.setitem(NETWORKS, name, partial(NETWORKS[name], width=64))
    sizes = {"token_width": 16, "key_dim": 16, "memory_size": 200}
    recipe = replace(QUICK, parts=(2,) * 6, learning_rate=8e-3, **sizes)
    train_on, test = SMALL.draw(200, 60)
    training = Training(untrained(name, True, SMALL, recipe), train_on, test, recipe)
    training.train(tmp_path / "a.pt", name, every=10**6, **evaluated(training))
    translator = training.translator
    assert len(training.curve) == 6 and training.curve[-1] == accuracy(translator, test).mean
    assert training.curve[-1] > 0.5
    translator.precision = nullcontext
    assert sum(decoded(translator, test)) == correct(translator, test).sum()
    recall = translator(test).recall
    found = recall.prediction[test.symbols] == test.targets[test.symbols]
    assert found.float().mean() > 0.5


def evaluated(training):
    return {"evaluate": training.held_out_accuracy, "evaluate_at": training.epoch_ends}


def fresh(name="modern", with_memory=True, recipe=QUICK):
    train_on, held_out = SMALL.draw(60, 10)
    return Training(untrained(name, with_memory, SMALL, recipe), train_on, held_out, recipe)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(("name", "with_memory"), KINDS)
def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, monkeypatch, name, with_memory):
    whole, interrupted, resumed = (fresh(name, with_memory) for _ in range(3))
    whole.train(tmp_path / "whole.pt", name, **evaluated(whole))
    assert whole.step == whole.steps and len(whole.curve) == 2
    advance, steps = Training.advance, []

    def interrupt(training):
        steps.append(training.step)
        if training is interrupted and training.step == 5:
            raise KeyboardInterrupt
        return advance(training)

    monkeypatch.setattr(Training, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train(tmp_path / "half.pt", name, every=2, **evaluated(interrupted))
    steps.clear()
    resumed.train(tmp_path / "half.pt", name, every=2, **evaluated(resumed))
    assert steps == list(range(4, whole.steps))
    one, other = whole.state_dict(), resumed.state_dict()
    del one["seconds"], other["seconds"]
    assert same(one, other)


def test_the_memory_is_cleared_before_each_part_and_written_at_every_step(tmp_path, monkeypatch):
    training = fresh()
    memory, cleared = training.translator.memory, []
    clear = type(memory).clear
    monkeypatch.setattr(
        type(memory), "clear", lambda memory: cleared.append(training.step) or clear(memory)
    )
    training.train(tmp_path / "a.pt", "training")
    assert cleared == [at for at, batch in enumerate(training.batches) if batch.clears]
    values = set(memory.state.values.tolist()) - {-1}
    assert {END, 1, 2} < values and values <= set(training.examples.targets.flatten().tolist())


def test_the_memory_is_filled_anew_before_the_held_out_accuracy(monkeypatch):
    training, called = fresh(), []
    monkeypatch.setattr(trainings, "fill_memory", lambda *given: called.append(given))
    monkeypatch.setattr(
        trainings, "accuracy", lambda *given: called.append(given) or Accuracy(0.5, 0)
    )
    assert training.held_out_accuracy() == 0.5
    translator = training.translator
    assert called == [(translator, training.examples), (translator, training.held_out)]
    assert sorted(training.epoch_ends)[-1] == training.steps and len(training.epoch_ends) == 2


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    fresh().train(tmp_path / "one.pt", "training")
    with pytest.raises(ValueError, match=r"one.pt' is of Recipe.*k=4.* of Recipe.*k=2.*remove"):
        fresh(recipe=replace(QUICK, k=2)).train(tmp_path / "one.pt", "training")


@pytest.fixture
def run(folders):
    threads = torch.get_num_threads()
    yield lambda *more: sequence.main([*NUMBERS, *QUICKLY, *NARROW, *more])
    torch.set_num_threads(threads)


def test_it_trains_tests_and_says_where_everything_came_from(run, folders):
    assert run() == 0
    names = [f"sequence.{name}.{way}_memory" for name in NETWORKS for way in ("with", "without")]
    figures = folders.percentages("sequence", {"sequence.ceiling", *names})
    result = folders.result("sequence")
    assert " ".join(NARROW[:4]) in result["command"] and "--parts 2,1" in result["command"]
    assert result["counts"] == {"examples": 60, "held_out": 8, "test": 30}
    assert result["task"]["digits"] == 2 and result["recipe"]["parts"] == [2, 1]
    for name in names:
        details = result["trainings"][name]
        assert len(details["held_out_by_epoch"]) == 2 and details["parameters"] > 1000
    assert (folders.runs / "sequence.png").stat().st_size > 1000
    # The same command again finds its checkpoints, and the same figures.
    assert run() == 0
    assert folders.result("sequence")["figures"] == figures


def test_there_are_as_many_examples_as_the_paper_has():
    options = sequence.BENCHMARK.parse([]).options
    assert options.test >= 2000 and options.examples == 40_000


def test_bad_numbers_are_refused_in_a_sentence(run, capsys):
    assert run("--digits", "9") == 1
    assert "a number of 9 digits does not fit into a length of 6" in capsys.readouterr().err


def test_the_curves_are_drawn(tmp_path):
    curves = {kind: [0.1, 0.5] for kind in KINDS}
    assert draw_curves(curves, 0.9, tmp_path / "curves.png").stat().st_size > 1000
