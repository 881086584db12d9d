"""The networks of the sequence task, and the memory's part in what they say."""

from contextlib import nullcontext

import pytest
import torch

from benchmarks.sequence.measuring import accuracy, correct, fill_memory
from benchmarks.sequence.networks import rotated
from benchmarks.sequence.task import END, FIRST_SYMBOL
from benchmarks.sequence.training import NETWORKS, untrained
from tests.benchmarks.test_sequence import KINDS, QUICK, SMALL, both


@pytest.fixture(params=NETWORKS)
def translator(request):
    """Untrained, in full precision, with a memory of some examples."""
    translator = untrained(request.param, True, SMALL, QUICK)
    translator.precision = nullcontext
    fill_memory(translator, SMALL.draw(40)[0])
    return translator.eval()


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
