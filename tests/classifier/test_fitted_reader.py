"""The fitted reader: leave-one-out in closed form, one metric, old against new, forgetting."""

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier import class_scores, forms
from rarememory.classifier import discriminant as module
from rarememory.classifier import metric as metric_module
from rarememory.classifier.class_scores import ClassScores
from rarememory.classifier.discriminant import LeftOut, Settings, fit_discriminant
from rarememory.classifier.leave_one_out import left_out_products
from rarememory.classifier.rehearsal import (
    FOREIGN_QUANTILE,
    LONE_COSINE,
    host_level,
    new_class_offset,
)
from rarememory.memory import Memory
from tests import oracle


def world(
    counts: list[int], dim: int = 12, spread: float = 0.5, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around random centres, with noise that is greater along some axes."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(counts), dim, generator=random)
    scales = torch.linspace(0.2, 2.0, dim) * spread
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), dim, generator=random) * scales
    return nn.functional.normalize(centres[labels] + noise + 0.7, dim=1), labels


def shuffled(*parts: torch.Tensor, seed: int = 1) -> list[torch.Tensor]:
    order = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(seed))
    return [part[order] for part in parts]


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_the_scale_of_least_loss_is_found_from_wherever_the_search_begins(spread: float) -> None:
    random = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(40, 5, generator=random)
    labels = scores.add(torch.randn(40, 5, generator=random) * spread).argmax(1)
    weights, scales = torch.full((40,), 1 / 40), metric_module.SCALES
    losses = [nn.functional.cross_entropy(scale * scores, labels).item() for scale in scales]
    for begin in range(len(scales)):
        loss, place = metric_module.best_scale(scores, labels, weights, scales, begin)
        assert loss == pytest.approx(min(losses), rel=1e-5)
        assert losses[place] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("counts", [[3, 4, 2], [1, 5, 2, 1], [2, 2]])
@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_leaving_one_out_is_what_computing_all_without_it_gives(
    counts: list[int], shrinkage: float
) -> None:
    rows, labels = world(counts, dim=5)
    rows = rows.double()
    means = torch.stack([rows[labels == c].mean(0) for c in range(len(counts))])
    n = torch.tensor(counts).double()
    degrees = len(rows) - len(counts)
    residuals = rows - means[labels]
    variances, axes = torch.linalg.eigh(residuals.T @ residuals / degrees)
    precision = 1 / ((1 - shrinkage) * variances + shrinkage * variances.mean())
    products = left_out_products(
        rows @ axes, labels, means @ axes, n, precision, shrinkage, degrees
    )
    weights = (1 / n[labels]).where(n[labels] > 1, 0.0)
    variance = products.own_variance(labels, n, weights / weights.sum()).item()
    row, wanted = oracle.left_out_lengths(list(rows.numpy()), labels.tolist(), shrinkage, degrees)
    assert variance == pytest.approx(wanted, rel=1e-6)
    assert (weights / weights.sum() @ products.rows.squeeze(1).sqrt()) == pytest.approx(row)
    numbers = torch.tensor([2.0, 3.0, 1.5, 2.5]).double()
    found = products.scores(labels, n, ClassScores(*numbers))
    for place in range(len(rows)):
        for c in range(len(counts)):
            one = list(rows.numpy()), labels.tolist(), place, c, shrinkage, degrees
            wanted = oracle.left_out_score(*one, tuple(numbers.tolist()))
            assert found[place, c].item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("dim", [6, 40])
def test_logits_are_scores_in_the_inverse_of_the_shrunken_covariance(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REFINED", 0)
    monkeypatch.setattr(metric_module, "SCALES", (8.0,))
    keys, labels = world([4, 3, 5], dim=dim)
    queries, _ = world([2, 2, 2], dim=dim, seed=5)
    fitted = fit_discriminant(keys, labels, Settings(0.3))
    found = fitted.logits(3 * queries)

    unit = nn.functional.normalize
    mean = torch.stack([keys[labels == c].mean(0) for c in range(3)]).mean(0)
    rows = unit(keys - mean, dim=1)
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])
    residuals = rows - means[labels]
    scatter = residuals.T @ residuals / (len(keys) - 3)
    shrunken = 0.7 * scatter + 0.3 * scatter.trace() / dim * torch.eye(dim)
    metric = torch.linalg.inv(shrunken.double())
    x = (unit(queries - mean, dim=1) - means.mean(0)).double()
    m = (means - means.mean(0)).double()
    of_x, of_m = (((rows @ metric) * rows).sum(1).sqrt() for rows in (x, m))
    centred = list((rows - means.mean(0)).double().numpy())
    found_by_loops = oracle.left_out_lengths(centred, labels.tolist(), 0.3, len(keys) - 3)
    lengths = oracle.class_lengths(of_m.square().tolist(), [4, 3, 5], *found_by_loops)
    along = x @ metric @ m.T / of_x.unsqueeze(1)
    wanted = [
        [
            8 * oracle.class_score(float(one), float(length), n, lengths)
            for one, length, n in zip(some, of_m, [4, 3, 5], strict=True)
        ]
        for some in along
    ]
    assert torch.allclose(found, torch.tensor(wanted).float(), atol=2e-3)


@pytest.mark.parametrize("counts", [[1, 3], [2, 9, 4]])
def test_classes_of_the_same_examples_have_no_score_beyond_a_few_cosines(counts: list[int]) -> None:
    keys, _ = world([2], dim=6)
    features = torch.cat([keys.repeat(count, 1) for count in counts])
    labels = torch.arange(len(counts)).repeat_interleave(2 * torch.tensor(counts))
    found = fit_discriminant(features, labels)
    queries, _ = world([20], dim=6, seed=3)
    assert found.logits(queries).abs().max() <= 3 * found.found.scale
    assert found.left_out.logits.abs().max() <= 3 * found.found.scale


def test_classes_of_few_examples_are_found_beside_those_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The lengths of their means say less, and do not tell against them.
    found = []
    for weight in (0.0, 0.5):
        monkeypatch.setattr(class_scores, "WEIGHT", weight)
        hits: list[torch.Tensor] = []
        for seed in range(4):
            keys, labels = world([2, 12] * 12, dim=40, spread=1.5, seed=seed)
            queries, right = world([32] * 24, dim=40, spread=1.5, seed=seed)
            # The first of each class share their noise with what is learnt.
            queries, right = (
                part.view(24, 32, -1)[:, 12:].flatten(0, 1) for part in (queries, right)
            )
            answers = fit_discriminant(keys, labels).logits(queries).argmax(1)
            hits.append((answers == right.squeeze(1)).double().view(12, 2, 20).mean((0, 2)))
        found.append(torch.stack(hits).mean(0).tolist())
    (few_by_cosine, many_by_cosine), (few, many) = found
    assert few > few_by_cosine + 0.01 and many > many_by_cosine - 0.01


def test_refinement_starts_from_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, labels = world([3, 9, 4, 6])
    begun = []

    def refined(rows, base, *others):
        begun.append(base)
        return without_steps(rows, base, *others)

    without_steps = module.refined
    monkeypatch.setattr(module, "refined", refined)
    samples = fit_discriminant(keys, labels).left_out.samples
    monkeypatch.setattr(module, "_REFINED", 0)
    assert torch.allclose(begun[0], fit_discriminant(keys, labels).logits(keys[samples]), atol=1e-4)


def test_examples_and_queries_are_foreign_alike() -> None:
    keys, labels = world([3, 9, 4, 6])
    found = fit_discriminant(keys, labels)
    left_out = found.left_out
    foreign = found.foreign(keys[left_out.samples], left_out.classes)
    assert torch.allclose(left_out.foreign, foreign, atol=1e-4)


def test_refinement_says_which_class_and_not_how_near(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, labels = world([12] * 8, spread=2.0)
    found = fit_discriminant(keys, labels)
    monkeypatch.setattr(module, "_REFINED", 0)
    means_alone = fit_discriminant(keys, labels)
    assert found.change is not None and means_alone.change is None
    assert torch.allclose(found.logits(keys).amax(1), means_alone.logits(keys).amax(1), atol=1e-4)
    assert not torch.allclose(found.logits(keys), means_alone.logits(keys), atol=1e-2)


def test_the_fit_does_not_depend_on_the_order_of_the_examples() -> None:
    keys, labels = world([3, 1, 6, 4])
    one = fit_discriminant(keys, labels)
    other = fit_discriminant(*shuffled(keys, labels))
    assert torch.equal(one.logits(keys), other.logits(keys))


def test_many_examples_are_told_apart_better_than_by_class_means() -> None:
    keys, labels = world([30] * 6, dim=20, spread=1.2)
    queries, right = world([200] * 6, dim=20, spread=1.2)
    fitted = fit_discriminant(keys, labels).logits(queries).argmax(1)
    means = nn.functional.normalize(
        torch.stack([keys[labels == c].mean(0) for c in range(6)]), dim=1
    )
    nearest = (queries @ means.T).argmax(1)
    assert (fitted == right).double().mean() > (nearest == right).double().mean() + 0.05


def classifier(host: bool, dim: int = 12, n_host: int = 4) -> rarememory.MemoryClassifier:
    torch.manual_seed(0)
    if not host:
        return rarememory.wrap(nn.Identity(), host=False)
    model = nn.Sequential(nn.Identity(), nn.Linear(dim, n_host))
    return rarememory.wrap(model, memory_size=256)


@pytest.mark.parametrize("host", [False, True])
def test_a_forgotten_class_leaves_the_answers_of_never_having_learnt_it(host: bool) -> None:
    keys, labels = world([5, 1, 4, 3, 6])
    queries, _ = world([3] * 5, seed=9)
    names = [f"class {c}" for c in labels.tolist()]
    gone = labels == 2
    kept = [name for name, is_gone in zip(names, gone.tolist(), strict=True) if not is_gone]
    never, forgot = classifier(host), classifier(host)
    never.learn(keys[~gone], kept)
    # It is met between the others, so that the slots differ.
    late = labels == 4
    forgot.learn(
        keys[~late], [n for n, is_late in zip(names, late.tolist(), strict=True) if not is_late]
    )
    forgot.forget("class 2")
    forgot.learn(keys[late], ["class 4"] * int(late.sum()))
    one, other = never.predict_proba(queries), forgot.predict_proba(queries)
    assert one.classes == other.classes
    assert torch.allclose(one.values, other.values, atol=1e-5)


def test_it_is_fitted_once_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []

    def counted(keys: torch.Tensor, *others: Any) -> module.Discriminant:
        fits.append(len(keys))
        return fit_discriminant(keys, *others)

    monkeypatch.setattr(forms, "fit_discriminant", counted)
    keys, labels = world([3, 3])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    assert not fits
    birds.predict(keys)
    birds.predict_proba(keys[0])
    birds.explain(keys)
    assert len(fits) == 1
    with torch.inference_mode():
        birds.predict(keys)
    assert len(fits) == 1
    birds.learn(keys[:1], [1])
    birds.predict(keys)
    birds.forget(1)
    birds.learn(keys[:1], [7])
    birds.predict(keys)
    assert len(fits) == 3


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


def test_rows_with_a_column_in_common_are_read_the_same_in_any_order() -> None:
    random = torch.Generator().manual_seed(0)
    places = torch.arange(16).repeat_interleave(38)
    rows = torch.randn(16, 10, generator=random)[places]
    rows = rows + 0.8 * torch.randn(608, 10, generator=random)
    rows = torch.cat([(torch.rand(608, 1, generator=random) > 0.5).float(), rows], 1)
    answers = []
    for seed in (1, 2):
        birds = rarememory.wrap(nn.Identity(), host=False)
        for some in shuffled(torch.arange(608), seed=seed)[0].split(50):
            birds.learn(rows[some], (places[some] % 4).tolist())
        found = birds.predict_proba(rows + 0.3)
        order = [birds.classes.index(label) for label in range(4)]
        answers.append(found.values[:, order])
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)


def test_one_class_and_one_example_answer_too() -> None:
    keys, _ = world([3, 3])
    birds = classifier(host=False)
    birds.learn(keys[:1], ["kea"])
    assert birds.predict(keys[3]) == "kea"
    assert birds.explain(keys[0])[0].weight == pytest.approx(1)
    birds.learn(keys[3:4], ["weka"])
    assert birds.predict(keys[[0, 3]]) == ["kea", "weka"]


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


def test_the_weights_of_an_explanation_add_up_to_what_the_memory_says() -> None:
    keys, labels = world([4, 3, 5])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist(), refs=list(range(len(keys))))
    query = keys[:1] + 0.05
    told = birds.explain(query, k=12)[0]
    assert [r.weight for r in told] == sorted((r.weight for r in told), reverse=True)
    probabilities = dict(
        zip(
            *(birds.predict_proba(query)._replace(values=birds.predict_proba(query).values[0])),
            strict=True,
        )
    )
    for label in (0, 1, 2):
        weight = sum(r.weight for r in told if r.label == label)
        assert weight == pytest.approx(probabilities[label].item(), abs=1e-4)


def test_features_have_a_gradient() -> None:
    keys, labels = world([4, 3, 5])
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    query = keys[:2].clone().requires_grad_()
    birds(query)[:, 0].sum().backward()
    assert query.grad is not None and query.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_keys_of_any_float_dtype_are_read(dtype: torch.dtype) -> None:
    keys, labels = world([6, 6, 6], spread=0.3)
    memory = Memory(12, 64, update=rarememory.FirstInFirstOut(), key_dtype=dtype)
    birds = rarememory.wrap(nn.Identity(), host=False, memory=memory)
    birds.learn(keys, labels.tolist())
    assert birds.predict(keys) == labels.tolist()


def test_a_copy_a_file_and_another_slot_answer_alike(tmp_path) -> None:  # type: ignore[no-untyped-def]
    keys, labels = world([4, 1, 3])
    birds = classifier(host=True)
    birds.learn(keys, [f"bird {c}" for c in labels.tolist()])
    wanted = birds.predict_proba(keys).values
    birds.save(tmp_path / "birds.safetensors")
    for other in (
        copy.deepcopy(birds),
        rarememory.MemoryClassifier.load(tmp_path / "birds.safetensors", birds.model),
    ):
        assert other.reader.name == "fitted"
        assert torch.equal(other.predict_proba(keys).values, wanted)


def test_a_checkpoint_is_read_as_it_was_and_an_old_one_by_the_nearest() -> None:
    keys, labels = world([4, 2, 3])
    nearest = rarememory.wrap(nn.Identity(), host=False, reader="nearest")
    nearest.learn(keys, labels.tolist())
    other = rarememory.wrap(nn.Identity(), host=False)
    other.load_state_dict(nearest.state_dict())
    assert other.reader.name == "nearest"
    assert torch.equal(other.predict_proba(keys).values, nearest.predict_proba(keys).values)
    state = nearest.state_dict()
    stored = json.loads(state["_extra_state"].numpy().tobytes())
    del stored["reader"]
    state["_extra_state"] = torch.tensor(list(json.dumps(stored).encode()), dtype=torch.uint8)
    third = rarememory.wrap(nn.Identity(), host=False)
    third.load_state_dict(state)
    assert third.reader.name == "nearest"


def test_there_is_no_other_reader() -> None:
    with pytest.raises(
        ValueError, match="there is no reader 'nearset': take 'fitted' or 'nearest'"
    ):
        rarememory.wrap(nn.Identity(), host=False, reader="nearset")


def test_a_threshold_says_what_it_is_expected_to_do() -> None:
    keys, labels = world([10] * 8, spread=0.5)
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    found = birds.fit_threshold(false_accept_rate=0.1)
    assert float(found) == pytest.approx(birds.threshold.item())
    assert found.false_accept_rate == 0.1
    assert found.known_accepted is not None and 0 < found.known_accepted <= 1
    assert found.alike is not None and 0 <= found.alike <= 1
    assert "known accepted" in str(found)
    strangers, _ = world([10] * 8, spread=0.5, seed=77)
    given = birds.fit_threshold(keys, unknown=strangers, false_accept_rate=0.1)
    assert given.alike is None and given.false_accept_rate <= 0.1
    accepted = [answer != "unknown" for answer in birds.predict(strangers)]
    assert np.mean(accepted) == pytest.approx(given.false_accept_rate)


def test_the_objective_decides_how_old_and_new_are_traded() -> None:
    keys, labels = world([10] * 6, spread=0.9)
    held_out, right = world([12] * 6, spread=0.9)
    birds = classifier(host=True)
    birds.learn(keys, labels.tolist())
    report = birds.calibrate(held_out, right.tolist())
    assert report.curve and report.base is not None and report.new is not None
    best = max(point.harmonic for point in report.curve)
    chosen = 2 * report.base * report.new / (report.base + report.new)
    assert chosen >= best - 0.02
    assert len(report.table(5).splitlines()) <= 6
    all_old = birds.calibrate(held_out, right.tolist(), keep=0.0)
    assert all_old.base is not None and all_old.base >= report.base - 1e-9
    with pytest.raises(ValueError, match="no objective 'f1'"):
        birds.calibrate(held_out, right.tolist(), objective="f1")


def test_the_curve_is_drawn(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    keys, labels = world([6] * 6, spread=0.9)
    birds = classifier(host=True)
    birds.learn(keys, labels.tolist())
    report = birds.calibrate(keys + 0.05, labels.tolist())
    report.plot(tmp_path / "curve.png")
    report.plot(tmp_path / "small.png", dpi=20)
    assert (tmp_path / "curve.png").stat().st_size > (tmp_path / "small.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="and of new ones"):
        report._replace(curve=()).plot(tmp_path / "none.png")


def test_what_is_left_out_says_which_key_it_is_and_what_is_said_before_refinement() -> None:
    keys, labels = shuffled(*world([3, 4, 5]))
    found = fit_discriminant(keys, labels)
    left_out = found.left_out
    assert sorted(left_out.samples.tolist()) == list(range(12))
    assert torch.equal(found.classes[left_out.classes], labels[left_out.samples])
    rows = found.rows(keys[left_out.samples])
    one, other = torch.tensor([0, 5]), torch.tensor([1, 4])
    wanted = found.found.scale * (rows[one] * rows[other]).sum(1)
    torch.testing.assert_close(left_out.one_shot(one, other), wanted)
    assert found.change is not None
    refined = torch.addmm(left_out.unrefined + found.more, rows, found.change)
    torch.testing.assert_close(left_out.logits.log_softmax(1), refined.log_softmax(1))
