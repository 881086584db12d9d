"""Features that are hardly ever negative are compared by their square roots."""

import pytest
import torch
from torch.nn.functional import normalize

import rarememory
from rarememory.classifier.discriminant import Discriminant, fit_discriminant
from rarememory.classifier.roots import unit_roots
from tests.classifier.made_classes import shuffled, world


def rectified(counts: list[int], dim: int = 96, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes whose features are those of a ReLU."""
    features, labels = world(counts, dim=dim, seed=seed)
    return normalize(features.relu(), dim=1), labels


def mirrored(rows: torch.Tensor) -> torch.Tensor:
    """The same with some columns negated: every product of two rows is as it was."""
    return torch.cat([-rows[:, :40], rows[:, 40:]], 1)


def test_a_root_is_that_of_a_distribution() -> None:
    features = torch.rand(5, 7)
    distributions = features / features.sum(1, keepdim=True)
    found = unit_roots(normalize(features, dim=1))
    assert torch.allclose(found, distributions.sqrt(), atol=1e-6)
    # Bhattacharyya's coefficient, and the squared distance of Hellinger.
    coefficient = (distributions[0] * distributions[1]).sqrt().sum()
    assert torch.allclose(found[0] @ found[1], coefficient, atol=1e-6)
    assert torch.allclose((found[0] - found[1]).square().sum(), 2 - 2 * coefficient, atol=1e-6)


def test_roots_of_negative_numbers_have_their_sign_and_those_of_zeros_a_finite_gradient() -> None:
    rows = torch.tensor([[-0.6, 0.0, 0.8]], requires_grad=True)
    found = unit_roots(rows)
    assert found[0, 0] < 0 and found[0, 1] == 0 and found[0, 2] > 0
    found.sum().backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


@pytest.mark.parametrize("counts", [[3, 4, 5], [1, 1, 1, 1], [2, 9, 1]])
def test_a_reader_of_them_is_one_of_their_roots(counts: list[int]) -> None:
    keys, labels = rectified(counts)
    queries, _ = rectified([4, 4], seed=3)
    found = fit_discriminant(keys, labels)
    as_they_are = fit_discriminant(mirrored(unit_roots(keys)), labels)
    assert found.by_roots and not as_they_are.by_roots
    wanted = as_they_are.logits(mirrored(unit_roots(queries)))
    assert torch.allclose(found.logits(3 * queries), wanted, atol=0.03)
    # Of these a class may not have been learnt, and each is left out once.
    for one, other in zip(parts(found), parts(as_they_are), strict=True):
        assert torch.allclose(one, other, atol=0.03)


def parts(fitted: Discriminant) -> tuple[torch.Tensor, ...]:
    left_out, order = fitted.left_out, fitted.left_out.samples.argsort()
    return left_out.logits[order], left_out.foreign[order], fitted.feature_length


def test_a_negative_number_of_a_query_has_a_root_with_its_sign() -> None:
    keys, labels = rectified([3, 4, 5])
    found, queries = fit_discriminant(keys, labels), torch.rand(6, 96)
    queries[:, 2] *= -1
    as_they_are = fit_discriminant(mirrored(unit_roots(keys)), labels)
    wanted = as_they_are.logits(mirrored(unit_roots(normalize(queries, dim=1))))
    assert torch.allclose(found.logits(queries), wanted, atol=0.03)


def test_few_negative_numbers_do_not_change_how_features_are_compared() -> None:
    keys, labels = rectified([3, 4, 5])
    keys[0, 0] = -0.3
    assert fit_discriminant(keys, labels).by_roots
    keys[:2, 0] = -0.3
    assert not fit_discriminant(keys, labels).by_roots


def test_columns_of_a_table_are_compared_as_they_are() -> None:
    keys, labels = rectified([3, 4, 5], dim=64)
    assert not fit_discriminant(keys, labels).by_roots


def test_keys_that_are_tuned_are_compared_as_they_were() -> None:
    keys, labels = rectified([6] * 5)
    birds = rarememory.wrap(torch.nn.Identity(), host=False)
    birds.learn(keys, labels.tolist())
    with birds.tunable_keys() as tunable:
        optimizer = torch.optim.SGD(tunable.parameters(), lr=1e-2)
        tunable.loss(rectified([6] * 5, seed=2)[0], labels.tolist()).backward()
        optimizer.step()
    assert (birds.memory.keys < 0).any()
    used = birds.memory.state.occupied
    assert fit_discriminant(birds.memory.keys[used], birds.memory.values[used]).by_roots


def test_familiarity_has_the_cosines_of_the_features_themselves() -> None:
    keys, labels = rectified([3, 4, 5])
    means = torch.stack([keys[labels == label].mean(0) for label in range(3)])
    assert torch.allclose(fit_discriminant(keys, labels).plain.means, means, atol=1e-6)


@pytest.mark.parametrize("length", [1.0, 1e-10, 1e13])
def test_few_queries_are_read_as_many_are(length: float) -> None:
    found = fit_discriminant(*rectified([6, 5, 4, 7], dim=96))
    queries = length * torch.randn(40, 96)
    # Of some hardly a number is negative, and one is close to zero.
    queries[:20] = queries[:20].abs()
    queries[:, 3] *= 1e-12
    wanted = found.logits(queries)
    for row in range(0, 40, 4):
        few = found.logits_of_few(queries[row : row + 4])
        assert few is not None
        assert torch.allclose(few, wanted[row : row + 4], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("key_dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keys_of_any_dtype_are_compared_by_roots(key_dtype: torch.dtype) -> None:
    keys, labels = shuffled(*rectified([6, 5, 4, 7], dim=96))
    memory = rarememory.Memory(96, 64, key_dtype=key_dtype)
    birds = rarememory.wrap(torch.nn.Identity(), host=False, memory=memory)
    birds.learn(keys, labels.tolist())
    queries = 7 * rectified([8] * 4, dim=96, seed=4)[0]
    wanted = fit_discriminant(keys, labels).logits(queries).argmax(1)
    agreed = torch.tensor(birds.predict(queries)) == wanted
    assert agreed.double().mean() > 0.9


def test_classes_of_a_few_large_features_are_told_better() -> None:
    # In each class other columns are active, and now and then one of the others is large.
    random = torch.Generator().manual_seed(0)
    active = torch.rand(12, 96, generator=random) < 0.3

    def drawn(shots: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(12).repeat_interleave(shots)
        sizes = torch.rand(len(labels), 96, generator=random) * active[labels]
        large = torch.rand(len(labels), 96, generator=random) < 0.06
        return normalize(sizes + 4.0 * large + 0.05, dim=1), labels

    keys, labels = drawn(3)
    queries, right = drawn(40)
    by_roots = fit_discriminant(keys, labels).logits(queries).argmax(1) == right
    as_they_are = fit_discriminant(mirrored(keys), labels).logits(mirrored(queries))
    assert by_roots.double().mean() > (as_they_are.argmax(1) == right).double().mean() + 0.03
