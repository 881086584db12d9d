"""Classes of a host against new ones: the level, and the offset of new classes."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier.discriminant import LeftOut, fit_discriminant
from rarememory.classifier.rehearsal import (
    FOREIGN_QUANTILE,
    LONE_COSINE,
    host_level,
    new_class_offset,
)
from tests.classifier.made_classes import classifier, world


def test_new_classes_are_answered_and_old_ones_kept_without_a_knob() -> None:
    keys, labels = world([20] * 16, dim=32, spread=0.5)
    queries, right = world([20] * 16, dim=32, spread=0.5)
    from sklearn.linear_model import LogisticRegression

    old = labels < 8
    head = LogisticRegression(C=10).fit(keys[old].numpy(), labels[old].numpy())
    linear = nn.Linear(32, 8)
    linear.weight.data = torch.tensor(head.coef_, dtype=torch.float32)
    linear.bias.data = torch.tensor(head.intercept_, dtype=torch.float32)
    for learnt in ([~old], [old, ~old]):
        birds = rarememory.wrap(nn.Sequential(nn.Identity(), linear))
        for some in learnt:
            birds.learn(keys[some], labels[some].tolist())
        hits = torch.tensor(birds.predict(queries)) == right
        assert hits[right >= 8].double().mean() > 0.6
        assert hits[right < 8].double().mean() > 0.6


def left_out(counts: list[int], of_host: torch.Tensor, seed: int = 0) -> LeftOut:
    keys, labels = world(counts, spread=0.9, seed=seed)
    return fit_discriminant(keys, labels).left_out


def test_the_offset_of_new_classes_has_the_best_harmonic_mean_of_all() -> None:
    of_host = torch.tensor([True] * 4 + [False] * 3)
    found = left_out([20] * 4 + [3] * 3, of_host)

    def harmonic(offset: float) -> float:
        answers = (found.logits + offset * ~of_host).argmax(1)
        right = (answers == found.classes).double()
        is_old = of_host[found.classes]
        old, new = right[is_old].mean(), right[~is_old].mean()
        return (2 * old * new / (old + new).clamp(min=1e-12)).item()

    chosen = harmonic(new_class_offset(found, of_host))
    best = max(harmonic(offset) for offset in np.linspace(-40, 40, 801))
    assert chosen >= best - 0.02


def test_new_classes_of_one_example_are_rehearsed_by_the_hosts() -> None:
    of_host = torch.tensor([True] * 4 + [False] * 3)
    few = [new_class_offset(left_out([20] * 4 + [1] * 3, of_host, s), of_host) for s in range(8)]
    many = [new_class_offset(left_out([20] * 7, of_host, s), of_host) for s in range(8)]
    # A mean of one example is farther from others of its class than a mean of twenty.
    assert np.mean(few) > np.mean(many) + 0.5


def test_a_host_of_which_nothing_is_remembered_is_between_another_class_and_the_own() -> None:
    found = fit_discriminant(*world([5] * 6, spread=0.2)).left_out
    sure = torch.zeros(30)
    foreign = found.foreign.amax(1).quantile(FOREIGN_QUANTILE).item()
    own = found.logits.amax(1).median().item()
    assert foreign < own - 1
    assert host_level(found, sure) == pytest.approx(foreign + (own - foreign) / 6**0.5)
    # Less what the host itself says of them.
    assert host_level(found, sure - 3) == pytest.approx(host_level(found, sure) + 3)


def test_what_is_alone_in_its_class_says_nothing_of_own_examples() -> None:
    keys, labels = world([5, 5, 1, 1], spread=0.2)
    found = fit_discriminant(keys, labels).left_out
    foreign = found.foreign.amax(1).quantile(FOREIGN_QUANTILE).item()
    own = found.logits.amax(1)[found.several].median().item()
    level = host_level(found, torch.zeros(12))
    assert level == pytest.approx(min(own, (foreign + own) / 2))
    assert level != pytest.approx(foreign)
    alone = dataclasses.replace(found, several=torch.zeros(12, dtype=torch.bool))
    seen = alone.logits.amax(1).median().item()
    tenth = foreign + 0.1 * (seen - foreign) / 2
    assert host_level(alone, torch.zeros(12)) == pytest.approx(tenth) != pytest.approx(foreign)


def test_a_host_does_not_take_most_answers_where_two_of_few_classes_are_alike() -> None:
    keys, labels = world([8] * 6, spread=0.2)
    twins = keys[labels < 3] + 0.02 * torch.randn(
        24, 12, generator=torch.Generator().manual_seed(3)
    )
    keys = torch.cat([keys[labels < 3], nn.functional.normalize(twins, dim=1)])
    found = fit_discriminant(keys, labels).left_out
    level, own = host_level(found, torch.zeros(48)), found.logits.amax(1)
    assert found.foreign.amax(1).quantile(FOREIGN_QUANTILE) > own.median()
    assert level == pytest.approx(own.median().item())


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_host_that_is_never_sure_keeps_its_classes(classes: int) -> None:
    """Its logits are a tenth of what a host would have that is: its likeliest class is the same."""
    keys, labels = world([8] * (classes + 4), spread=0.2)
    centres = torch.stack([keys[labels == label].mean(0) for label in range(4)])
    answers = []
    for sure in (20.0, 1.0):
        host = nn.Linear(12, 4)
        with torch.no_grad():
            host.weight.copy_(sure * (centres - centres.mean(0)))
            host.bias.copy_(-host.weight @ centres.mean(0))
        birds = rarememory.wrap(host)
        new = (labels >= 4) & (torch.arange(len(labels)) % 8 < 5)
        birds.learn(keys[new], labels[new].tolist())
        assert birds.memory.get_buffer("confidences")[: int(new.sum())].lt(1).all()
        found = torch.tensor(birds.predict(keys))
        answers.append((found == labels)[~new].double())
    old = labels[~new] < 4
    for right in answers:
        assert right[old].mean() > 0.9 and right[~old].mean() > 0.6


@pytest.mark.parametrize("classes", [1, 2])
def test_one_or_two_classes_are_told_from_a_host_by_cosines(classes: int) -> None:
    keys, labels = world([4, 4], spread=0.2)
    birds = classifier(host=True)
    birds.learn(keys[labels < classes], labels[labels < classes].tolist())
    level, memory = birds.reader.host_score, birds.memory
    gaps = -memory.get_buffer("confidences")[: 4 * classes].log()
    cosines = 16 * memory.keys[: 4 * classes] @ memory.keys[: 4 * classes].T
    same = labels[:, None] == labels
    same = same[: 4 * classes, : 4 * classes]
    own = cosines.masked_fill(~same | torch.eye(4 * classes).bool(), -9).amax(1) + gaps
    foreign = 16 * LONE_COSINE - (-gaps).median()
    if classes == 2:
        other = cosines.masked_fill(same, -99).amax(1) + gaps
        foreign = max(foreign, other.quantile(FOREIGN_QUANTILE))
    wanted = (foreign + own.median()) / 2
    assert level(memory, birds.ensembler.host_ids) == pytest.approx(wanted.item(), abs=1e-4)


def test_of_fewer_classes_that_are_asked_about_a_host_is_surer() -> None:
    torch.manual_seed(0)
    host = nn.Linear(64, 1000)
    with torch.no_grad():
        host.weight.mul_(0.4)
    birds, centres = rarememory.wrap(host), torch.randn(20, 64)
    labels = torch.arange(20).repeat_interleave(5)
    names = [f"n{label}" for label in labels.tolist()]
    birds.learn(centres[labels] + 1.2 * torch.randn(100, 64), names)
    queries = centres[labels] + 1.2 * torch.randn(100, 64)
    for asked in (None, [0, *dict.fromkeys(names)]):
        assert np.mean(np.array(birds.predict(queries, among=asked)) == names) > 0.9
    birds.forget(*range(1, 1000))
    assert np.mean(np.array(birds.predict(queries)) == names) > 0.9


def test_two_classes_that_are_alike_say_how_foreign_others_are() -> None:
    keys, labels = world([4, 4], spread=0.2)
    birds = classifier(host=True)
    # Features of one sign are all alike, but for a part.
    birds.learn(keys + 0.5, labels.tolist())
    cosines = birds.memory.keys[:8] @ birds.memory.keys[:8].T
    same = labels[:, None] == labels
    gaps = -birds.memory.get_buffer("confidences")[:8].log() / 16
    other = (cosines.masked_fill(same, -9).amax(1) + gaps).quantile(FOREIGN_QUANTILE)
    own = (cosines.masked_fill(~same | torch.eye(8).bool(), -9).amax(1) + gaps).median()
    assert LONE_COSINE + gaps.max() < other < own
    level = birds.reader.host_score(birds.memory, birds.ensembler.host_ids)
    assert level == pytest.approx(8 * (other + own).item(), abs=1e-4)


def test_one_new_class_beside_a_host_is_told_from_it() -> None:
    keys, _ = world([8, 8], dim=12, spread=0.2)
    birds = classifier(host=True)
    birds.learn(keys[:5], ["kea"] * 5)
    assert birds.predict(keys[5:8]) == ["kea"] * 3
    assert "kea" not in birds.predict(keys[8:])


def test_two_new_classes_beside_a_host_are_told_from_it_and_from_each_other() -> None:
    by_host = []
    for seed in range(6):
        keys, labels = world([8, 8, 8], dim=12, spread=0.2, seed=seed)
        birds = classifier(host=True)
        new = (labels < 2) & (torch.arange(24) % 8 < 5)
        birds.learn(keys[new], labels[new].add(10).tolist())
        rest = ~new & (labels < 2)
        answers = torch.tensor(birds.predict(keys[rest]))
        assert (answers == labels[rest] + 10).double().mean() >= 0.6
        by_host.append(np.mean([answer < 4 for answer in birds.predict(keys[labels == 2])]))
    # In some worlds the third class is hardly another one.
    assert np.median(by_host) == 1 and np.mean(by_host) > 0.6
