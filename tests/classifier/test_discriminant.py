"""The discriminant: leave-one-out in closed form, one metric, refinement."""

import pytest
import torch
from torch import nn

from rarememory.classifier import class_scores
from rarememory.classifier import discriminant as module
from rarememory.classifier import metric as metric_module
from rarememory.classifier.class_scores import ClassScores
from rarememory.classifier.discriminant import Settings, fit_discriminant
from rarememory.classifier.leave_one_out import left_out_products
from tests import oracle
from tests.classifier.made_classes import shuffled, world


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
