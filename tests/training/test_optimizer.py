"""Muon for matrices, convolutions among them, AdamW for the rest; one learning rate."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rarememory.training.optimizer import MuonAndAdamW
from tests.memories import NewTensors


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 5)
    )


def learn(model, optimizer, steps=3, learning_rate=0.01):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.rand(8, 1, 6, 6, generator=generator)
        optimizer.zero_grad()
        (model(images) - 1).square().mean().backward()
        optimizer.step(learning_rate=learning_rate)


def test_a_matrix_takes_a_step_of_equal_length_in_every_direction():
    layer = nn.Linear(7, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(3, 7)
    MuonAndAdamW(layer.parameters(), weight_decay=0.0).step(learning_rate=0.01)
    lengths = torch.linalg.svdvals(layer.weight.detach() - before)
    # Newton and Schulz stop early: singular values lie between 0.7 and 1.2 of the step.
    assert torch.all((lengths / (0.01 * 0.2 * 7**0.5) - 1).abs() < 0.35)


def test_a_convolution_is_a_matrix_whatever_its_layout_in_memory():
    plain = nn.Conv2d(3, 5, 3, bias=False)
    across = deepcopy(plain).to(memory_format=torch.channels_last)
    gradient = torch.randn(5, 3, 3, 3)
    for layer in (plain, across):
        layer.weight.grad = gradient.clone()
        MuonAndAdamW(layer.parameters(), weight_decay=0.0).step(learning_rate=0.01)
    assert across.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain.weight, across.weight, atol=2e-4, rtol=0)


def test_the_first_layer_norms_and_biases_are_stepped_by_adamw():
    model = network()
    before = deepcopy(model)
    learn(model, MuonAndAdamW(model.parameters(), weight_decay=0.0), steps=1)
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
    MuonAndAdamW(model.parameters(), weight_decay=0.5).step(learning_rate=0.1)
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(new, old * (0.95 if old.dim() > 1 else 1.0))


def test_it_learns():
    model = network()
    optimizer = MuonAndAdamW(model.parameters(), weight_decay=0.0)
    learn(model, optimizer, steps=100)
    images = torch.rand(8, 1, 6, 6)
    assert (model(images) - 1).square().mean() < 0.1


def test_two_halves_are_a_whole():
    whole, halves = network(), network()
    optimizer = MuonAndAdamW(whole.parameters(), weight_decay=0.1)
    learn(whole, optimizer)
    learn(whole, optimizer)
    first = MuonAndAdamW(halves.parameters(), weight_decay=0.1)
    learn(halves, first)
    second = MuonAndAdamW(halves.parameters(), weight_decay=0.1)
    second.load_state_dict(first.state_dict())
    learn(halves, second)
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layer", [nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)])
def test_there_may_be_matrices_alone_or_none(layer):
    before = deepcopy(layer.weight)
    optimizer = MuonAndAdamW(layer.parameters(), weight_decay=0.0)
    layer(torch.randn(4, 3)).sum().backward()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step(learning_rate=0.01)
    assert not torch.equal(layer.weight, before)
    optimizer.zero_grad()
    assert layer.weight.grad is None


def test_a_weight_without_a_gradient_stays():
    layer = nn.Linear(3, 2)
    before = deepcopy(layer)
    MuonAndAdamW(layer.parameters(), weight_decay=0.5).step(learning_rate=0.1)
    assert torch.equal(layer.weight, before.weight) and torch.equal(layer.bias, before.bias)


def on_a_chip(monkeypatch, has_instructions):
    asked = "rarememory.training.optimizer.computes_in_bfloat16"
    monkeypatch.setattr(asked, lambda device: has_instructions)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_nothing_is_rounded_to_bfloat16_where_the_chip_does_not_compute_so(
    has_instructions, monkeypatch
):
    on_a_chip(monkeypatch, has_instructions)
    model = network()
    with NewTensors() as made:
        learn(model, MuonAndAdamW(model.parameters(), weight_decay=0.0), steps=1)
    assert (torch.bfloat16 in made.dtypes) == has_instructions


def test_the_step_is_the_same_to_what_bfloat16_rounds(monkeypatch):
    rounded, plain = network(), network()
    for model, rounds in ((rounded, True), (plain, False)):
        on_a_chip(monkeypatch, rounds)
        learn(model, MuonAndAdamW(model.parameters(), weight_decay=0.0), steps=1)
    start = network()
    for one, other, before in zip(*(m.parameters() for m in (rounded, plain, start)), strict=True):
        length = (other - before).abs().max()
        assert (one - other).abs().max() < 0.05 * length
