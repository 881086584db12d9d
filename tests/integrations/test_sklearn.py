import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.nn.functional import normalize

from rarememory import AverageOrReplace
from rarememory.integrations.pool import fit_kernel_ridge, fit_pool, pooled
from rarememory.integrations.sklearn import MemoryNeighbors


# Annotations are not checked: scikit-learn passes other types on purpose.
@pytest.mark.usefixtures("unchecked")
@parametrize_with_checks(
    [
        MemoryNeighbors(),
        MemoryNeighbors(1, memory_size=500),
        MemoryNeighbors(scale=None, reader="nearest"),
        MemoryNeighbors(reader="fitted"),
    ]
)
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def voting(n_neighbors=5, **settings):
    """The vote among neighbours in the columns as they are."""
    return MemoryNeighbors(n_neighbors, scale=None, reader="nearest", **settings)


def samples(count, seed=0, width=4):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)), random.choice(["kea", "weka", "kiwi"], count)


@settings(max_examples=50)
@given(st.integers(6, 40), st.integers(1, 5), st.integers(0, 100))
def test_neighbours_are_those_of_scikit_learn(count, k, seed):
    X, y = samples(count, seed)
    X[0] = 0
    reference = NearestNeighbors(n_neighbors=k, metric="cosine").fit(X)
    ours = voting(k).fit(X, y)
    queries = samples(7, seed + 1)[0]
    for theirs, mine in (
        (reference.kneighbors(queries), ours.kneighbors(queries)),
        (reference.kneighbors(), ours.kneighbors()),
    ):
        np.testing.assert_allclose(mine[0], theirs[0], atol=1e-6)
        # The sample of zeros is equally far from all others.
        nonzero = (theirs[0] < 1 - 1e-6).all(1)
        assert (mine[1] == theirs[1])[nonzero].all()


def test_one_neighbour_answers_as_that_of_scikit_learn():
    X, y = load_digits(return_X_y=True)
    reference = KNeighborsClassifier(1, metric="cosine").fit(X[:900], y[:900])
    ours = voting(1).fit(X[:900], y[:900])
    assert (reference.predict(X[900:]) == ours.predict(X[900:])).mean() > 0.998
    assert ours.score(X[900:], y[900:]) > 0.95


def test_learning_in_parts_is_learning_at_once():
    X, y = samples(60)
    whole, parts = voting().fit(X, y), voting()
    for part in np.array_split(np.arange(60), 7):
        parts.partial_fit(X[part], y[part])
    queries = samples(20, 1)[0]
    np.testing.assert_allclose(parts.predict_proba(queries), whole.predict_proba(queries))
    for mine, theirs in zip(parts.kneighbors(queries), whole.kneighbors(queries), strict=True):
        np.testing.assert_allclose(mine, theirs)
    np.testing.assert_array_equal(parts.kneighbors()[1], whole.kneighbors()[1])


def test_new_classes_are_sorted_into_classes_():
    ours = voting(1).partial_fit([[1.0, 0]], ["weka"])
    ours.partial_fit([[0, 1.0], [-1.0, 0]], ["a long name", "zebra finch"])
    assert ours.classes_.tolist() == ["a long name", "weka", "zebra finch"]
    assert ours.predict([[1, 0.1], [0.1, 1], [-1, 0.1]]).tolist() == [
        "weka", "a long name", "zebra finch"
    ]  # fmt: skip
    np.testing.assert_allclose(ours.predict_proba([[1.0, 0]]), [[0, 1, 0]])
    ours.partial_fit([[0, -1.0]], ["weka"], classes=["kea"])
    assert "kea" in ours.classes_ and ours.predict_proba([[1, 0]])[0, 1] == 0


def test_fitting_again_starts_from_nothing():
    ours = MemoryNeighbors(1).fit([[1.0, 0], [0, 1.0]], [1, 2]).fit([[1.0, 0, 0]], [7])
    assert ours.classes_.tolist() == [7] and ours.predict([[0, 1, 0]]).tolist() == [7]
    assert ours.n_features_in_ == 3 and ours.samples_.tolist() == [0]


def test_a_bounded_memory_replaces_the_oldest():
    ours = voting(1, memory_size=2).fit([[1.0, 0], [0, 1.0]], [1, 2])
    ours.partial_fit([[-1.0, 0.1]], [3]).partial_fit([[0.1, -1.0]], [4])
    assert sorted(ours.samples_) == [2, 3]
    assert ours.predict([[-1.0, 0], [0, -1.0]]).tolist() == [3, 4]
    np.testing.assert_array_equal(ours.kneighbors([[-1.0, 0]], 1)[1], [[2]])


def test_of_more_samples_than_a_bounded_memory_holds_the_last_stay():
    X, y = samples(80)
    ours = voting(1, memory_size=30).fit(X, y)
    assert sorted(ours.samples_) == list(range(50, 80))
    np.testing.assert_array_equal(ours.kneighbors(X[50:], 1)[1][:, 0], np.arange(50, 80))


def test_votes_are_weighted_by_the_temperature():
    X, y = [[1.0, 0], [0.9, 0.5], [0.9, -0.5]], [0, 1, 1]
    assert voting(3, temperature=0.01).fit(X, y).predict([[1.0, 0]]).tolist() == [0]
    assert voting(3, temperature=10.0).fit(X, y).predict([[1.0, 0]]).tolist() == [1]
    scores = np.array([1, 0.9 / np.hypot(0.9, 0.5)])
    first, second = np.exp(scores / 0.5)
    probabilities = voting(3, temperature=0.5).fit(X, y).predict_proba([[1.0, 0]])
    np.testing.assert_allclose(probabilities[0, 0], first / (first + 2 * second))


def test_with_fewer_samples_than_neighbours_it_predicts_but_lists_none():
    ours = voting(9).fit([[1.0, 0], [0, 1.0]], [0, 1])
    np.testing.assert_allclose(ours.predict_proba([[1, 1]]), [[0.5, 0.5]])
    with pytest.raises(ValueError, match="between 1 and the 2 samples, not 9"):
        ours.kneighbors([[1, 1]])
    with pytest.raises(ValueError, match="between 1 and the 1 samples, not 2"):
        ours.kneighbors(n_neighbors=2)


def test_equal_samples_are_neighbours_of_each_other_but_none_of_itself():
    ours = voting(2).fit([[1.0, 0]] * 5, [0] * 5)
    numbers = ours.kneighbors(return_distance=False)
    assert all(own not in row and len(set(row)) == 2 for own, row in enumerate(numbers.tolist()))


def test_a_policy_and_a_lookup_of_choice_are_used():
    ours = voting(1, update=AverageOrReplace(), lookup="torch", memory_size=9)
    ours.fit([[1.0, 0]], [0]).partial_fit([[0.8, 0.6]], [0])
    assert len(ours.memory_) == 1 and ours.memory_.lookup.name == "torch"


def test_it_works_in_pipelines_and_grids():
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), MemoryNeighbors())
    assert cross_val_score(pipeline, X, y).mean() > 0.8
    grid = GridSearchCV(pipeline, {"memoryneighbors__n_neighbors": [1, 9]}, cv=3).fit(X, y)
    assert grid.best_score_ > 0.8
    assert clone(pipeline).fit(X, y).score(X, y) > 0.8


def test_a_pickle_has_the_same_state():
    X, y = samples(30)
    ours = MemoryNeighbors().fit(X, y)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))
    again.partial_fit(X, y)
    assert len(ours.memory_) == 30


def unlike_scales(seed=0, count=60):
    """The first column tells the classes apart; the others are large and say nothing."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(count) % 2)
    telling = y + 0.1 * random.normal(size=count)
    return np.column_stack([telling, 1e4 + 1e4 * random.random((count, 2))]), y


@pytest.mark.parametrize("reader", ["auto", "nearest", "fitted"])
def test_a_chosen_scale_beats_columns_as_they_are(reader):
    (X, y), (queries, truth) = unlike_scales(), unlike_scales(1, 200)
    chosen = MemoryNeighbors(reader=reader).fit(X, y)
    as_they_are = MemoryNeighbors(reader=reader, scale=None).fit(X, y)
    assert chosen.score(queries, truth) > 0.95
    assert chosen.score(queries, truth) >= as_they_are.score(queries, truth)
    assert (as_they_are.mean_ == 0).all() and (as_they_are.scale_ == 1).all()
    if reader == "nearest":
        assert as_they_are.score(queries, truth) < 0.8
        np.testing.assert_allclose(chosen.mean_, X.mean(0))
        np.testing.assert_allclose(chosen.scale_, X.std(0))
        reference = NearestNeighbors(metric="cosine").fit((X - X.mean(0)) / X.std(0))
        np.testing.assert_array_equal(
            chosen.kneighbors(queries, 1)[1],
            reference.kneighbors((queries - X.mean(0)) / X.std(0), 1)[1],
        )


@pytest.mark.parametrize("reader", ["auto", "fitted"])
def test_fitting_in_parts_is_fitting_at_once(reader):
    X, y = load_wine(return_X_y=True)
    parts = np.array_split(np.random.default_rng(0).permutation(len(X))[:90], 5)
    whole = MemoryNeighbors(reader=reader, scale=None).fit(*both(X, y, np.concatenate(parts)))
    ours = MemoryNeighbors(reader=reader, scale=None)
    for part in parts:
        ours.partial_fit(X[part], y[part])
        ours.predict(X[:3])
    np.testing.assert_allclose(ours.predict_proba(X), whole.predict_proba(X), atol=1e-5)


def both(X, y, part):
    return X[part], y[part]


def test_parts_keep_the_scale_of_the_first_and_the_pool_reads_all_of_them():
    X, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    ours = MemoryNeighbors().fit(*both(X, y, order[:60]))
    mean, scale = ours.mean_, ours.scale_
    assert (scale != 1).all()
    ours.partial_fit(*both(X, y, order[60:120]))
    assert ours.mean_ is mean and ours.scale_ is scale
    whole = MemoryNeighbors().fit(*both(X, y, order[:120]))
    np.testing.assert_allclose(ours.predict_proba(X), whole.predict_proba(X), atol=1e-4)


def left_out_loss(logs, classes):
    return -logs.log_softmax(-1)[torch.arange(len(classes)), classes].sum().item()


@pytest.mark.parametrize("load", [load_wine, load_digits, load_iris])
def test_the_pool_is_about_as_good_as_its_best_reader_by_what_is_left_out(load):
    X, y = load(return_X_y=True)
    X, y = both(X, y, np.random.default_rng(0).permutation(len(X))[:120])
    keys = normalize(torch.tensor((X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)), dim=1)
    pool = fit_pool([keys], torch.from_numpy(y), 5, 0.1)
    truth = pool.classes[pool.judged]
    answers = pooled(pool.left_out, pool.weights).log()
    losses = [left_out_loss(logs, truth) for logs in pool.left_out]
    assert left_out_loss(answers, truth) <= min(losses) + 3
    accuracies = [(logs.argmax(1) == truth).double().mean() for logs in pool.left_out]
    assert (answers.argmax(1) == truth).double().mean() >= max(accuracies) - 0.02


def test_classes_that_differ_in_their_distance_from_the_mean_are_told_apart():
    random = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = random.normal(size=(400, 5)) * np.where(y == 1, 3.0, 1.0)[:, None] * [1, 1e3, 10, 1, 0.1]
    assert MemoryNeighbors().fit(X[:60], y[:60]).score(X[60:], y[60:]) > 0.85
    assert MemoryNeighbors(scale=None).fit(X[:60], y[:60]).score(X[60:], y[60:]) < 0.7


def test_columns_that_tell_classes_apart_count_more_than_others():
    random = np.random.default_rng(0)
    telling_columns, y = random.normal(size=(1000, 2)), np.arange(1000) % 4
    telling_columns += 2 * np.column_stack([y % 2, y // 2])
    X = np.column_stack([telling_columns, random.normal(size=(1000, 20))])
    assert MemoryNeighbors().fit(X[:80], y[:80]).score(X[80:], y[80:]) > 0.62


def test_a_pool_of_rows_asks_for_them():
    keys = torch.eye(2, dtype=torch.double).repeat(3, 1)
    pool = fit_pool([keys], torch.tensor([0, 1] * 3), 1, 0.1, rows=5 * keys)
    assert pool.probabilities([keys], 5 * keys).argmax(1).tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match="give rows"):
        pool.probabilities([keys])


def test_kernel_ridge_says_of_left_out_samples_what_it_says_in_another_order():
    random = torch.Generator().manual_seed(0)
    keys = torch.randn(30, 4, generator=random, dtype=torch.double)
    classes = torch.arange(30) % 3
    keys[:, 0] += 2 * classes
    order = torch.randperm(30, generator=random)
    found, other = (
        fit_kernel_ridge(keys, classes, 3),
        fit_kernel_ridge(keys[order], classes[order], 3),
    )
    torch.testing.assert_close(other.left_out, found.left_out[order])
    assert (found.left_out.argmax(1) == classes).double().mean() > 0.5
    weights = torch.tensor([4.0, 1.0, 1.0, 0.0]).double()
    weighted = fit_kernel_ridge(keys, classes, 3, weights)
    assert weighted.columns.tolist() == [2, 1, 1, 0]
    changed = keys.clone()
    changed[:, 3] += 9
    torch.testing.assert_close(weighted.logits(changed), weighted.logits(keys))


def test_more_samples_than_are_judged_are_read_all_the_same(monkeypatch):
    X, y = load_digits(return_X_y=True)
    monkeypatch.setattr("rarememory.integrations.pool.MOST_JUDGED", 100)
    ours = MemoryNeighbors().fit(X[:400], y[:400])
    assert ours.score(X[400:], y[400:]) > 0.88


@pytest.mark.parametrize("scale", ["auto", None])
@pytest.mark.parametrize("reader", ["auto", "nearest", "fitted"])
@pytest.mark.parametrize(
    ("X", "y"),
    [
        ([[1.0, 2.0]], [3]),
        ([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]], [3, 3, 3]),
        ([[1.0, 2.0], [2.0, 1.0]], [3, 4]),
        ([[1.0, 2.0], [2.0, 1.0], [1.0, 2.1]], [3, 4, 3]),
        ([[1.0, 5.0], [2.0, 5.0], [1.1, 5.0], [2.1, 5.0]], [3, 4, 3, 4]),
        ([[0.0, 0.0], [2.0, 1.0], [0.0, 0.0], [2.1, 1.0]], [3, 4, 3, 4]),
        ([[7.0, 7.0]] * 4, [3, 4, 3, 4]),
        ([[0.0, 0.0]] * 4, [3, 4, 3, 4]),
        ([[0.1 + 0.2, 1.0], [0.3, -1.0], [0.3, 1.1], [0.1 + 0.2, -1.1]], [3, 4, 3, 4]),
    ],
)
def test_scanty_samples_are_answered(scale, reader, X, y):
    ours = MemoryNeighbors(scale=scale, reader=reader).fit(X, y)
    found = ours.predict_proba([*X, [0.0, 0.0]])
    assert found.shape == (len(X) + 1, len(set(y)))
    np.testing.assert_allclose(found.sum(1), 1)
    ours.partial_fit([[-5.0, 1.0]], [9], classes=[8])
    found = ours.predict_proba([[-5.0, 1.0]])
    assert found.shape == (1, len(set(y)) + 2) and np.isfinite(found).all()
    assert found[0, -2] == 0


def test_a_bounded_memory_is_read_by_what_it_holds_now():
    X, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    ours = MemoryNeighbors(memory_size=60, scale=None).fit(*both(X, y, order[:80]))
    whole = MemoryNeighbors(scale=None).fit(*both(X, y, order[20:80]))
    np.testing.assert_allclose(ours.predict_proba(X), whole.predict_proba(X), atol=1e-4)
    ours.partial_fit(*both(X, y, order[80:140]))
    whole = MemoryNeighbors(scale=None).fit(*both(X, y, order[80:140]))
    np.testing.assert_allclose(ours.predict_proba(X), whole.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(("name", "value"), [("scale", "minmax"), ("reader", "mean")])
def test_what_is_not_listed_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        MemoryNeighbors(**{name: value}).fit([[1.0, 0], [0, 1.0]], [0, 1])
