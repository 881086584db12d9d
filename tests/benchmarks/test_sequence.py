"""The sequence task: its strings, the networks, the memory's part in them, and the whole run."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.sequence import __main__ as sequence
from benchmarks.sequence import training as trainings
from benchmarks.sequence.batches import ordered_batches
from benchmarks.sequence.measuring import accuracy, correct, fill_memory
from benchmarks.sequence.networks import rotated
from benchmarks.sequence.plot import draw_curves
from benchmarks.sequence.task import END, FIRST_DIGIT, FIRST_SYMBOL, PAD, Task, known
from benchmarks.sequence.training import NETWORKS, Recipe, Training, untrained
from rarememory.evaluation import Accuracy

SMALL = Task(digits=2, symbols=20, length=6)
QUICK = Recipe(parts=(2, 1), batch=16, token_width=8, key_dim=8, memory_size=64, k=4)
NUMBERS = ["--digits", "2", "--symbols", "20", "--length", "6", "--examples", "60"]
QUICKLY = ["--held-out", "8", "--test", "30", "--parts", "2,1", "--batch", "16"]
NARROW = ["--token-width", "8", "--key-dim", "8", "--memory-size", "64", "--k", "4"]
KINDS = [(name, with_memory) for name in NETWORKS for with_memory in (True, False)]
both = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(params=NETWORKS)
def translator(request):
    """Untrained, in full precision, with a memory of some examples."""
    translator = untrained(request.param, True, SMALL, QUICK)
    translator.precision = nullcontext
    fill_memory(translator, SMALL.draw(40)[0])
    return translator.eval()


# The task


@pytest.mark.parametrize("task", [Task(), SMALL, Task(digits=1, symbols=2, length=1)])
def test_the_output_has_the_same_letters_and_the_number_translated(task):
    (examples,) = task.draw(300)
    for source, target, number in zip(*(field.tolist() for field in examples), strict=True):
        string = [token for token in source if token != PAD]
        assert source == string + [PAD] * (task.length - len(string))
        start = next(at for at, token in enumerate(string) if token >= FIRST_DIGIT)
        digits = string[start : start + task.digits]
        read = 0
        for digit in digits:
            read = 4 * read + digit - FIRST_DIGIT
        assert read == number and all(FIRST_DIGIT <= d < FIRST_DIGIT + 4 for d in digits)
        before, after = string[:start], string[start + task.digits :]
        assert set(before + after) <= {1, 2}
        said = [*before, int(task.function[number]), *after]
        assert target == said + [END] * (len(target) - len(said))
    assert examples.targets.shape[1] == task.length - task.digits + 2


def test_numbers_lengths_and_places_are_of_all_kinds():
    task = Task(digits=2, symbols=20, length=6)
    (examples,) = task.draw(4000)
    assert examples.numbers.bincount(minlength=16).min() > 150
    lengths = examples.lengths.bincount(minlength=7)
    assert lengths[:2].sum() == 0 and lengths[2:].min() > 600
    place = (examples.sources >= FIRST_DIGIT).int().argmax(dim=1)
    of_longest = place[examples.lengths == 6].bincount(minlength=5)
    assert of_longest.min() > 100
    letters = examples.sources[(examples.sources > 0) & (examples.sources < FIRST_DIGIT)]
    assert 0.45 < (letters == 1).float().mean() < 0.55


def test_symbols_are_those_of_the_paper():
    function = Task().function
    assert len(function) == 4**7
    # 2 ... 16,000, each as itself plus 1.
    assert function.min() >= 3 and function.max() <= 16_001 and Task().n_tokens == 16_002
    assert not torch.equal(function, replace(Task(), seed=1).function)


def test_a_seed_draws_the_same_parts_and_no_two_alike():
    first, second = SMALL.draw(50, 50)
    assert torch.equal(first.sources, SMALL.draw(50, 50)[0].sources)
    assert not torch.equal(first.sources, second.sources)
    assert not torch.equal(first.sources, replace(SMALL, seed=1).draw(50)[0].sources)


def test_steps_count_up_to_the_first_end_and_batches_are_cut_to_their_longest():
    (examples,) = SMALL.draw(30)
    letters = examples.lengths - SMALL.digits
    assert torch.equal(examples.mask.sum(dim=1), letters + 2)
    assert (examples.symbols.sum(dim=1) == 1).all()
    batches = list(examples.batches(7))
    assert sum(len(some.numbers) for some in batches) == 30
    lengths = torch.cat([some.lengths for some in batches])
    assert torch.equal(lengths, lengths.sort().values)
    for some in batches:
        assert some.sources.shape[1] == some.lengths.max()
        assert some.targets.shape[1] == some.mask.sum(dim=1).max()


def test_only_a_number_that_was_trained_on_can_be_known():
    train_on, test = SMALL.draw(5, 40)
    seen = set(train_on.numbers.tolist())
    assert known(test, train_on).tolist() == [n in seen for n in test.numbers.tolist()]
    # Of 16,384 numbers 40,000 examples leave out e^(-40,000/16,384).
    train_on, test = Task().draw(40_000, 4000)
    assert known(test, train_on).float().mean().item() == pytest.approx(0.913, abs=0.015)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digits": 7, "length": 6}, "a number of 7 digits does not fit into a length of 6"),
        ({"digits": 0}, "0 digits"),
        ({"symbols": 1}, "symbols is 1, and the first of them is 2"),
    ],
)
def test_a_task_without_numbers_or_symbols_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **change)


# The order of the examples


def test_every_epoch_shows_every_example_once_and_a_part_has_all_strings_of_its_numbers():
    (examples,) = SMALL.draw(100)
    found = ordered_batches(examples, parts=(3, 1), size=8, seed=0)
    ends = [at for at, batch in enumerate(found) if batch.ends_epoch]
    assert len(ends) == 2 and ends[-1] == len(found) - 1
    for epoch, count in zip((found[: ends[0] + 1], found[ends[0] + 1 :]), (3, 1), strict=True):
        assert sorted(torch.cat([batch.rows for batch in epoch]).tolist()) == list(range(100))
        starts = [at for at, batch in enumerate(epoch) if batch.clears]
        assert starts[0] == 0 and len(starts) == count
        parts = [
            {int(n) for batch in epoch[start:stop] for n in examples.numbers[batch.rows]}
            for start, stop in zip(starts, [*starts[1:], len(epoch)], strict=True)
        ]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert max(len(batch.rows) for batch in found) == 8


def test_batches_differ_by_seed_and_epoch_and_are_of_similar_length():
    (examples,) = SMALL.draw(400)
    one, other = (ordered_batches(examples, parts=(1, 1), size=8, seed=seed) for seed in (0, 1))
    assert not torch.equal(one[0].rows, other[0].rows)
    assert not torch.equal(one[0].rows, one[len(one) // 2].rows)
    again = ordered_batches(examples, parts=(1, 1), size=8, seed=0)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(one, again, strict=True))
    spread = [int(examples.lengths[batch.rows].max() - examples.lengths[batch.rows].min())
              for batch in one]  # fmt: skip
    assert sum(spread) / len(spread) < 1


# The networks


@both
def test_no_step_sees_what_comes_after_it(name):
    torch.manual_seed(0)
    network = NETWORKS[name](8, reach=2)
    (examples,) = SMALL.draw(5)
    previous = torch.randn(5, 6, 8)
    changed = previous.clone()
    changed[:, 4:] += 1
    for one, other in zip(
        network(examples.sources, previous), network(examples.sources, changed), strict=True
    ):
        torch.testing.assert_close(one[:, :4], other[:, :4])
        assert (one[:, 4:] - other[:, 4:]).abs().amax() > 1e-4


@both
def test_padding_is_not_attended_to(name):
    torch.manual_seed(0)
    network = NETWORKS[name](8, reach=2)
    (examples,) = SMALL.draw(5)
    previous = torch.randn(5, 6, 8)
    wider = torch.nn.functional.pad(examples.sources, (0, 3))
    for one, other in zip(
        network(examples.sources, previous), network(wider, previous), strict=True
    ):
        torch.testing.assert_close(one, other)


@both
def test_at_its_first_digit_a_number_looks_the_same_in_every_string(name):
    windows = NETWORKS[name](8, reach=3).windows
    number = [3, 5, 4]
    first = windows(torch.tensor([[1, 2, *number, 1]]))[0, 2]
    second = windows(torch.tensor([[*number, 2, 2, 1]]))[0, 0]
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, windows(torch.tensor([[1, 2, 4, 5, 4, 1]]))[0, 2])


def test_rotary_scores_depend_on_distance_alone():
    query, key = torch.randn(16), torch.randn(16)
    scores = rotated(query.expand(9, 16)) @ rotated(key.expand(9, 16)).T
    for distance in (-3, 0, 5):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert scores.diagonal(1)[0] != pytest.approx(scores.diagonal(2)[0].item())


# The memory's part


def test_reading_writes_nothing_and_padding_asks_nothing(translator):
    (examples,) = SMALL.draw(9)
    before = {name: buffer.clone() for name, buffer in translator.memory.named_buffers()}
    recall = translator(examples, learn=True).recall
    assert recall.slots.shape == (*examples.targets.shape, QUICK.k)
    assert (recall.prediction[~examples.mask] == -1).all()
    assert (recall.prediction[examples.mask] >= 0).all()
    for name, buffer in translator.memory.named_buffers():
        assert torch.equal(buffer, before[name])


def test_what_is_recalled_is_what_is_joined(translator):
    (examples,) = SMALL.draw(9)
    steps = translator(examples)
    with torch.no_grad():
        answer = translator.embedding(steps.recall.prediction.clamp(min=0))
        answer = answer * steps.recall.weights[..., :1]
        width = translator.network.width
        previous = torch.cat([torch.full((9, 1), END), examples.targets[:, :-1]], dim=1)
        outputs, contexts = translator.network(examples.sources, translator.embedding(previous))
        weight, bias = translator.join.weight, translator.join.bias
        own = torch.cat([outputs, contexts], dim=2) @ weight[:, : 2 * width].T
        joined = own + answer @ weight[:, 2 * width :].T + bias
    torch.testing.assert_close(steps.hidden, joined)


def test_an_empty_memory_adds_nothing(translator):
    (examples,) = SMALL.draw(9)
    translator.memory.clear()
    steps = translator(examples)
    with torch.no_grad():
        translator.embedding.weight[0] += 1  # the clamped answer, were it heard
        assert (steps.recall.confidence == 0).all()
    assert torch.isfinite(translator(examples, learn=True).hidden).all()


def test_the_labels_change_the_loss_alone(translator):
    (examples,) = SMALL.draw(9)
    without, learning = translator(examples), translator(examples, learn=True)
    assert without.recall.loss is None and learning.recall.loss > 0
    torch.testing.assert_close(without.hidden, learning.hidden)


def test_the_loss_is_that_of_all_steps_of_an_output(translator):
    (examples,) = SMALL.draw(9)
    steps = translator(examples, learn=True)
    kinds = translator.kinds(steps.hidden).log_softmax(dim=-1)
    table = translator.embedding.weight[FIRST_SYMBOL:]
    symbols = (steps.hidden @ table.T).log_softmax(dim=-1)
    wanted = steps.recall.loss * examples.mask.sum()
    for row, time in examples.mask.nonzero().tolist():
        token = int(examples.targets[row, time])
        wanted = wanted - kinds[row, time, min(token, FIRST_SYMBOL)]
        if token >= FIRST_SYMBOL:
            wanted = wanted - symbols[row, time, token - FIRST_SYMBOL]
    torch.testing.assert_close(translator.loss(steps, examples), wanted / 9)


@pytest.mark.parametrize(("name", "with_memory"), KINDS)
def test_every_weight_learns(name, with_memory):
    translator = untrained(name, with_memory, SMALL, QUICK)
    train_on, examples = SMALL.draw(40, 20)
    fill_memory(translator, train_on)
    translator.loss(translator(examples, learn=True), examples).backward()
    still = [
        name
        for name, parameter in translator.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert still == []


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


def test_an_answer_is_the_likeliest_kind_and_then_the_likeliest_symbol(translator):
    (examples,) = SMALL.draw(9)
    with torch.no_grad():
        hidden = translator(examples).hidden
        scores = translator.kinds(hidden)
        # So that it says symbols in about half of the steps.
        lag = scores[..., :FIRST_SYMBOL].amax(dim=-1) - scores[..., FIRST_SYMBOL]
        translator.kinds.bias[FIRST_SYMBOL] += lag.median()
        kinds = translator.kinds(hidden).argmax(dim=-1)
        symbols = (hidden @ translator.embedding.weight.T)[..., FIRST_SYMBOL:].argmax(dim=-1)
    wanted = torch.where(kinds == FIRST_SYMBOL, symbols + FIRST_SYMBOL, kinds)
    assert torch.equal(translator.answers(examples), wanted)
    assert (wanted >= FIRST_SYMBOL).any() and (wanted < FIRST_SYMBOL).any()


def test_the_memory_is_filled_anew(translator):
    (examples,) = SMALL.draw(10)
    fill_memory(translator, examples)
    values = translator.memory.state.values.tolist()
    assert set(values) - {-1} == set(examples.targets.flatten().tolist())


def test_all_of_an_output_must_be_right():
    class Says:
        def answers(self, examples):
            said = examples.targets.clone()
            said[~examples.mask] = 7  # past the end nobody listens
            said[examples.numbers == examples.numbers[0], 0] = 9
            return said

    (examples,) = SMALL.draw(30)
    wrong = (examples.numbers == next(iter(examples.batches(30))).numbers[0]).sum()
    assert (~correct(Says(), examples)).sum() == wrong
    assert accuracy(Says(), examples).mean == pytest.approx(1 - wrong.item() / 30)


# Training


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


# The whole benchmark


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
