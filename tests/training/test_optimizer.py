"""Muon for matrices, convolutions among them, AdamW for the rest; one torch optimizer."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from rarememory.training.optimizer import MuonAndAdamW
from tests.memories import NewTensors


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 5)
    )


def learn(model, optimizer, steps=3, scaler=None):
    generator = torch.Generator().manual_seed(1)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(steps):
        images = torch.rand(8, 1, 6, 6, generator=generator)
        optimizer.zero_grad()
        scaler.scale((model(images) - 1).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()


def learnt(steps=3, scaler=None, **settings):
    model = network()
    learn(model, MuonAndAdamW(model.parameters(), **settings), steps, scaler)
    return model


def assert_same(one, other):
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Both:
    """Torch's own optimizers, each with its part of a network's weights."""

    def __init__(self, model):
        *_, kernel, matrix = weights = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() == 1]
        groups = [{"params": weights[:1], "weight_decay": 0.1}, {"params": rest}]
        self.adamw = AdamW(groups, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
        self.kernel, self.seen = kernel, nn.Parameter(kernel.detach().flatten(1))
        options = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
        self.muon = Muon([self.seen, matrix], lr=0.01, **options)

    def zero_grad(self):
        for optimizer in (self.adamw, self.muon):
            optimizer.zero_grad()
        self.kernel.grad = None

    def step(self):
        self.seen.grad = self.kernel.grad.flatten(1)
        for optimizer in (self.adamw, self.muon):
            optimizer.step()


def test_every_step_is_that_of_torchs_own_optimizers(monkeypatch):
    on_a_device(monkeypatch, True)
    expected = network()
    learn(expected, Both(expected), 4)
    assert_same(learnt(4, lr=0.01, weight_decay=0.1), expected)


def test_a_matrix_takes_a_step_of_equal_length_in_every_direction():
    layer = nn.Linear(7, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(3, 7)
    MuonAndAdamW(layer.parameters(), lr=0.01).step()
    lengths = torch.linalg.svdvals(layer.weight.detach() - before)
    # Newton and Schulz stop early: singular values lie between 0.7 and 1.2 of the step.
    assert torch.all((lengths / (0.01 * 0.2 * 7**0.5) - 1).abs() < 0.35)


def test_a_convolution_is_a_matrix_whatever_its_layout_in_memory():
    contiguous = nn.Conv2d(3, 5, 3, bias=False)
    channels_last = deepcopy(contiguous).to(memory_format=torch.channels_last)
    gradient = torch.randn(5, 3, 3, 3)
    for layer in (contiguous, channels_last):
        layer.weight.grad = gradient.clone()
        MuonAndAdamW(layer.parameters(), lr=0.01).step()
    assert channels_last.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(contiguous.weight, channels_last.weight, atol=2e-4, rtol=0)


def test_the_first_layer_norms_and_biases_are_stepped_by_adamw():
    before, model = network(), learnt(steps=1, lr=0.01)
    for layer, old in ((model[0], before[0]), (model[1], before[1])):
        step = (layer.weight - old.weight).abs()
        # The first step of Adam is as long as the learning rate, whatever the gradient.
        assert torch.all((step[step > 1e-6] - 0.01).abs() < 1e-3)
    step = (model[4].weight - before[4].weight).abs()
    assert step.max() > 2 * step.median()


def test_weights_decay_and_biases_and_norms_do_not():
    model = network()
    before = deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MuonAndAdamW(model.parameters(), lr=0.1, weight_decay=0.5).step()
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(new, old * (0.95 if old.dim() > 1 else 1.0))


def test_it_learns():
    assert (learnt(100, lr=0.01)(torch.rand(8, 1, 6, 6)) - 1).square().mean() < 0.1


@pytest.mark.parametrize("copied", [False, True], ids=["state_dict", "deepcopy"])
def test_two_halves_are_a_whole(copied):
    whole, halves = network(), network()
    optimizer = MuonAndAdamW(whole.parameters(), weight_decay=0.1)
    learn(whole, optimizer)
    learn(whole, optimizer)
    first = MuonAndAdamW(halves.parameters(), weight_decay=0.1)
    learn(halves, first)
    if copied:
        halves, second = deepcopy((halves, first))
    else:
        second = MuonAndAdamW(halves.parameters())
        second.load_state_dict(first.state_dict())
    learn(halves, second)
    assert_same(whole, halves)


def test_schedulers_of_torch_change_the_length_of_every_step():
    model = network()
    optimizer = MuonAndAdamW(model.parameters(), lr=0.01)
    schedule = SequentialLR(
        optimizer, [LinearLR(optimizer, 0.5, 1.0, 2), CosineAnnealingLR(optimizer, 3)], [2]
    )
    lengths = []
    for _ in range(6):
        before = deepcopy(model[1].bias)
        # The gradient of every step has the same sign, so that Adam's step is its learning rate.
        model[1].bias.grad = torch.ones(4)
        optimizer.step()
        schedule.step()
        lengths.append((before - model[1].bias).mean().item())
    assert lengths == pytest.approx([0.005, 0.0075, 0.01, 0.0075, 0.0025, 0.0], abs=1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.0025)] * 3


def test_scaled_gradients_are_those_that_were_not():
    # A power of two, so that nothing is rounded.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert_same(learnt(scaler=scaler), learnt())


def test_a_closure_computes_gradients_and_its_loss_is_returned():
    layer = nn.Linear(2, 2, bias=False)
    before = deepcopy(layer)

    def closure():
        loss = layer(torch.ones(1, 2)).sum()
        loss.backward()
        return loss

    assert MuonAndAdamW(layer.parameters()).step(closure) == before(torch.ones(1, 2)).sum()
    assert not torch.equal(layer.weight, before.weight)


def test_the_state_of_another_kind_of_optimizer_is_refused():
    optimizer = MuonAndAdamW(network().parameters())
    with pytest.raises(ValueError, match="a state of adamw, muon is not of this optimizer, or of"):
        optimizer.load_state_dict({"adamw": {}, "muon": {}})


@pytest.mark.parametrize("layer", [nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)])
def test_there_may_be_matrices_alone_or_none(layer):
    before = deepcopy(layer.weight)
    optimizer = MuonAndAdamW(layer.parameters())
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    optimizer.zero_grad()
    assert layer.weight.grad is None


def test_a_weight_without_a_gradient_stays_and_has_no_state():
    layer = nn.Linear(3, 2)
    before = deepcopy(layer)
    optimizer = MuonAndAdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert_same(layer, before)
    assert not optimizer.state


def on_a_device(monkeypatch, has_instructions):
    asked = "rarememory.training.optimizer.computes_in_bfloat16"
    monkeypatch.setattr(asked, lambda device: has_instructions)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_nothing_is_rounded_to_bfloat16_where_the_device_does_not_compute_so(
    has_instructions, monkeypatch
):
    on_a_device(monkeypatch, has_instructions)
    with NewTensors() as made:
        learnt(steps=1)
    assert (torch.bfloat16 in made.dtypes) == has_instructions


def test_the_step_is_the_same_to_what_bfloat16_rounds(monkeypatch):
    on_a_device(monkeypatch, True)
    rounded = learnt(steps=1)
    on_a_device(monkeypatch, False)
    exact = learnt(steps=1)
    models = (rounded, exact, network())
    for one, other, before in zip(*(model.parameters() for model in models), strict=True):
        length = (other - before).abs().max()
        assert (one - other).abs().max() < 0.05 * length
