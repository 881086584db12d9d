"""Several threads may use one model at once: each gets its own features, and modes come back."""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import pytest
import torch
from torch import nn

from rarememory import wrap
from rarememory.classifier.modes import evaluation_mode

# Of 8 x 1250 calls more than 200 were wrong; of these few it was at least one in each run.
THREADS, CALLS = 8, 40
IMAGES = torch.rand(THREADS, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def often_switching():
    """Threads take turns after each few instructions, so that a race is met in a short test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def in_threads(task):
    """What each thread's task gives; all begin at once."""
    barrier = Barrier(THREADS)

    def run(place):
        barrier.wait()
        return task(place)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("training", [False, True])
def test_no_thread_gets_the_features_of_another(training):
    model = network().train(training)
    model[2].eval()
    classifier = wrap(model, memory_size=8)
    expected = [classifier.features(image[None]) for image in IMAGES]
    statistics = model[1].running_mean.clone()

    def wrong(place):
        image = IMAGES[place][None]
        found = (classifier.features(image) for _ in range(CALLS))
        return sum(not torch.equal(each, expected[place]) for each in found)

    assert sum(in_threads(wrong)) == 0
    assert [module.training for module in model] == [training, training, False, training]
    assert torch.equal(model[1].running_mean, statistics)
    assert not any(module._forward_pre_hooks for module in model)


def test_what_is_learnt_beside_predictions_is_right():
    model = network().train()
    classifier = wrap(model, memory_size=8)
    expected = classifier.features(IMAGES)

    def task(place):
        for image, label in zip(IMAGES, "abcdefgh", strict=True):
            if place == 0:
                classifier.learn(image, label)
            else:
                classifier.features(IMAGES[place][None])

    in_threads(task)
    keys = classifier.memory.keys
    torch.testing.assert_close(keys, nn.functional.normalize(expected))


def test_a_user_thread_may_call_the_model_meanwhile():
    model = network().eval()
    classifier = wrap(model, memory_size=8)
    expected = [model(image[None]) for image in IMAGES]

    def wrong(place):
        if place % 2:
            classifier.predict(IMAGES[place].repeat(2, 1))
        return sum(not torch.equal(model(IMAGES[place][None]), expected[place]) for _ in range(60))

    assert sum(in_threads(wrong)) == 0


def test_evaluation_reaches_parts_that_are_shared_and_those_beside_parts_that_are_none():
    shared = nn.Dropout()
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared, nn.Dropout()))
    model[0].register_module("none", None)
    model.insert(0, nn.Module())
    model[0].register_module("none", None)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_evaluation_reaches_a_module_that_holds_its_holder_and_one_that_is_shared_many_times():
    holder, shared = nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout())
    holder[0].holder = holder
    for _ in range(40):
        shared = nn.Sequential(shared, shared)
    for model in (holder, shared):
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
        assert all(module.training for module in model.modules())


def test_evaluation_ends_for_all_at_the_end_of_the_last_block():
    model = network().train()
    model[1].eval()
    blocks = [evaluation_mode(model) for _ in range(3)]
    for block in blocks:
        block.__enter__()
    for block, following in pairwise(blocks):
        block.__exit__(None, None, None)
        assert not any(module.training for module in model.modules()), following
    blocks[-1].__exit__(None, None, None)
    assert [module.training for module in model] == [True, False, True, True]
