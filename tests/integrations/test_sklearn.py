import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from rarememory import AverageOrReplace
from rarememory.integrations.sklearn import MemoryNeighbors


# Annotations are not checked: scikit-learn passes other types on purpose.
@pytest.mark.usefixtures("unchecked")
@parametrize_with_checks([MemoryNeighbors(), MemoryNeighbors(1, memory_size=500)])
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def samples(count, seed=0, width=4):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)), random.choice(["kea", "weka", "kiwi"], count)


@settings(max_examples=50)
@given(st.integers(6, 40), st.integers(1, 5), st.integers(0, 100))
def test_neighbours_are_those_of_scikit_learn(count, k, seed):
    X, y = samples(count, seed)
    X[0] = 0
    reference = NearestNeighbors(n_neighbors=k, metric="cosine").fit(X)
    ours = MemoryNeighbors(k).fit(X, y)
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
    ours = MemoryNeighbors(1).fit(X[:900], y[:900])
    assert (reference.predict(X[900:]) == ours.predict(X[900:])).mean() > 0.998
    assert ours.score(X[900:], y[900:]) > 0.95


def test_learning_in_parts_is_learning_at_once():
    X, y = samples(60)
    whole, parts = MemoryNeighbors().fit(X, y), MemoryNeighbors()
    for part in np.array_split(np.arange(60), 7):
        parts.partial_fit(X[part], y[part])
    queries = samples(20, 1)[0]
    np.testing.assert_allclose(parts.predict_proba(queries), whole.predict_proba(queries))
    for mine, theirs in zip(parts.kneighbors(queries), whole.kneighbors(queries), strict=True):
        np.testing.assert_allclose(mine, theirs)
    np.testing.assert_array_equal(parts.kneighbors()[1], whole.kneighbors()[1])


def test_new_classes_are_sorted_into_classes_():
    ours = MemoryNeighbors(1).partial_fit([[1.0, 0]], ["weka"])
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
    ours = MemoryNeighbors(1, memory_size=2).fit([[1.0, 0], [0, 1.0]], [1, 2])
    ours.partial_fit([[-1.0, 0.1]], [3]).partial_fit([[0.1, -1.0]], [4])
    assert sorted(ours.samples_) == [2, 3]
    assert ours.predict([[-1.0, 0], [0, -1.0]]).tolist() == [3, 4]
    np.testing.assert_array_equal(ours.kneighbors([[-1.0, 0]], 1)[1], [[2]])


def test_votes_are_weighted_by_the_temperature():
    X, y = [[1.0, 0], [0.9, 0.5], [0.9, -0.5]], [0, 1, 1]
    assert MemoryNeighbors(3, temperature=0.01).fit(X, y).predict([[1.0, 0]]).tolist() == [0]
    assert MemoryNeighbors(3, temperature=10.0).fit(X, y).predict([[1.0, 0]]).tolist() == [1]
    scores = np.array([1, 0.9 / np.hypot(0.9, 0.5)])
    first, second = np.exp(scores / 0.5)
    probabilities = MemoryNeighbors(3, temperature=0.5).fit(X, y).predict_proba([[1.0, 0]])
    np.testing.assert_allclose(probabilities[0, 0], first / (first + 2 * second))


def test_with_fewer_samples_than_neighbours_it_predicts_but_lists_none():
    ours = MemoryNeighbors(9).fit([[1.0, 0], [0, 1.0]], [0, 1])
    np.testing.assert_allclose(ours.predict_proba([[1, 1]]), [[0.5, 0.5]])
    with pytest.raises(ValueError, match="between 1 and the 2 samples, not 9"):
        ours.kneighbors([[1, 1]])
    with pytest.raises(ValueError, match="between 1 and the 1 samples, not 2"):
        ours.kneighbors(n_neighbors=2)


def test_equal_samples_are_neighbours_of_each_other_but_none_of_itself():
    ours = MemoryNeighbors(2).fit([[1.0, 0]] * 5, [0] * 5)
    numbers = ours.kneighbors(return_distance=False)
    assert all(own not in row and len(set(row)) == 2 for own, row in enumerate(numbers.tolist()))


def test_a_policy_and_a_lookup_of_choice_are_used():
    ours = MemoryNeighbors(1, update=AverageOrReplace(), lookup="torch", memory_size=9)
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
