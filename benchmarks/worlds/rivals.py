"""Other ways to learn classes from frozen features: each row is an estimator and a small grid.

What a rival leaves open is chosen on the held-out examples that `calibrate` gets too, and with it a
bias of new classes against old ones. Sources: nearest class mean (Mensink et al. 2013), FeCAM
(Goswami et al. 2023), RanPAC (McDonnell et al. 2023), Tip-Adapter (Zhang et al. 2022), kNN-LM
(Khandelwal et al. 2020; without a host, and with all neighbours, it is the attention of matching
networks, Vinyals et al. 2016), imprinted weights (Qi et al. 2018).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler, normalize
from sklearn.random_projection import GaussianRandomProjection

from benchmarks.worlds.draws import Task, share_correct

Array = NDArray[Any]


class ClassMeans(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine to the mean of the unit features of each class; `center` subtracts their mean."""

    def __init__(self, center: bool = False) -> None:
        self.center = center

    def fit(self, X: Array, y: Array) -> "ClassMeans":
        """Average each class."""
        self.mean_ = normalize(X).mean(0) if self.center else np.zeros(X.shape[1], X.dtype)
        self.means_ = normalize(class_means(self._rows(X), y))
        return self

    def decision_function(self, X: Array) -> Array:
        """Cosines."""
        return np.asarray(self._rows(X) @ self.means_.T)

    def _rows(self, X: Array) -> Array:
        return np.asarray(normalize(normalize(X) - self.mean_))


class Discriminant(LinearDiscriminantAnalysis):  # type: ignore[misc]
    """scikit-learn's, in which all classes are equally likely, however many examples they have."""

    def decision_function(self, X: Array) -> Array:
        """Log-likelihoods, up to a constant."""
        return np.asarray(super().decision_function(X) - np.log(self.priors_))


class Mahalanobis(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """FeCAM with one covariance: shrunken, as a correlation, of features to a power."""

    def __init__(self, shrinkage: float = 1.0, power: float = 0.5) -> None:
        self.shrinkage, self.power = shrinkage, power

    def fit(self, X: Array, y: Array) -> "Mahalanobis":
        """Means, and the precision within classes."""
        rows = self._rows(X)
        self.means_ = class_means(rows, y)
        spread = rows - self.means_[y]
        covariance = spread.T @ spread / max(1, len(X) - len(self.means_))
        level = covariance.diagonal().mean() or 1.0
        np.fill_diagonal(covariance, covariance.diagonal() + self.shrinkage * level)
        scale = np.sqrt(covariance.diagonal())
        self.precision_ = np.linalg.inv(covariance / scale / scale[:, None])
        return self

    def decision_function(self, X: Array) -> Array:
        """Squared distances, negated, up to a constant of each row."""
        weights = self.means_ @ self.precision_
        return np.asarray(2 * self._rows(X) @ weights.T - (weights * self.means_).sum(1))

    def _rows(self, X: Array) -> Array:
        return np.asarray(normalize(np.sign(X) * np.abs(X) ** self.power))


class ByExamples(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What keeps the examples at unit length, and the class of each."""

    def fit(self, X: Array, y: Array) -> Self:
        """Keep everything."""
        self.keys_, self.values_ = normalize(X), np.eye(y.max() + 1, dtype=X.dtype)[y]
        return self


class Cache(ByExamples):
    """Tip-Adapter: the host's logits + alpha sum_i exp(-beta (1 - s_i)) onehot(y_i)."""

    def __init__(self, head: Any = None, alpha: float = 1.0, beta: float = 5.5) -> None:
        self.head, self.alpha, self.beta = head, alpha, beta

    def decision_function(self, X: Array) -> Array:
        """New classes have no logits: 0 in their place, and the bias that is chosen."""
        affinity = np.exp(-self.beta * (1 - normalize(X) @ self.keys_.T))
        scores = self.alpha * affinity @ self.values_
        if self.head is not None:
            weights, bias = self.head
            scores[:, : len(bias)] += X @ weights.T + bias
        return np.asarray(scores)


class NeighborMixture(ByExamples):
    """kNN-LM: w p_k(y) + (1 - w) p_host(y), p_k a soft-max over the k nearest cosines."""

    def __init__(
        self, head: Any = None, k: int | None = None, temperature: float = 0.1, weight: float = 0.5
    ) -> None:
        self.head, self.k, self.temperature, self.weight = head, k, temperature, weight

    def decision_function(self, X: Array) -> Array:
        """The logarithm of the mixture."""
        scores = normalize(X) @ self.keys_.T / self.temperature
        if self.k is not None and self.k < len(self.keys_):
            least = np.partition(scores, -self.k, axis=1)[:, -self.k, None]
            scores = np.where(scores >= least, scores, -np.inf)
        p = softmax(scores, axis=1) @ self.values_
        if self.head is not None:
            weights, bias = self.head
            p *= self.weight
            p[:, : len(bias)] += (1 - self.weight) * softmax(X @ weights.T + bias, axis=1)
        return np.asarray(np.log(np.maximum(p, 1e-30)))


class Imprinted(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The host's head, and a row of the mean length for each new class: its mean."""

    def __init__(self, head: Any = None, scale: float = 1.0) -> None:
        self.head, self.scale = head, scale

    def fit(self, X: Array, y: Array) -> "Imprinted":
        """Add the rows."""
        weights, bias = self.head
        length = self.scale * np.linalg.norm(weights, axis=1).mean()
        new = normalize(class_means(normalize(X), y)[len(bias) :]) * length
        self.weights_ = np.concatenate([weights, new])
        self.bias_ = np.concatenate([bias, np.full(len(new), bias.mean())])
        return self

    def decision_function(self, X: Array) -> Array:
        """Logits."""
        return np.asarray(X @ self.weights_.T + self.bias_)


class Rival(NamedTuple):
    """An estimator whose defaults are its natural ones, and the values that are tried beside them.

    Attributes:
        least: examples of every class that it needs.
        hosted: whether it reads the head of a host; None if it does where there is one.
    """

    name: str
    estimator: Any
    grid: Sequence[dict[str, Sequence[Any]]]
    least: int = 1
    hosted: bool | None = False


NEIGHBORS = "kneighborsclassifier__n_neighbors"
UNIT, STANDARD = [Normalizer()], [StandardScaler()]
RIVALS = (
    Rival("class_mean", ClassMeans(), [{"center": [True]}]),
    Rival(
        "lda", Discriminant(solver="lsqr", shrinkage="auto"), [{"shrinkage": [0.1, 0.5]}], least=2
    ),
    Rival(
        "logistic",
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3)),
        [
            {"standardscaler": UNIT, "logisticregression__C": [10, 100]},
            {"standardscaler": STANDARD, "logisticregression__C": [0.01, 0.1]},
            {"logisticregression__C": [0.01], "logisticregression__class_weight": ["balanced"]},
        ],
    ),
    Rival(
        "ridge",
        make_pipeline(Normalizer(), RidgeClassifier()),
        [
            {"normalizer": UNIT, "ridgeclassifier__alpha": [0.1, 10]},
            {"normalizer": STANDARD, "ridgeclassifier__alpha": [10, 1000]},
            {"ridgeclassifier__alpha": [1, 10], "ridgeclassifier__class_weight": ["balanced"]},
        ],
    ),
    Rival(
        "ranpac",
        make_pipeline(
            Normalizer(),
            GaussianRandomProjection(2000, random_state=0),
            FunctionTransformer(partial(np.maximum, 0)),
            RidgeClassifier(0.1),
        ),
        [
            {"normalizer": UNIT, "ridgeclassifier__alpha": [0.01, 1]},
            {"normalizer": STANDARD, "ridgeclassifier__alpha": [1, 100]},
        ],
    ),
    Rival(
        "fecam", Mahalanobis(), [{"shrinkage": [0.1, 10]}, {"power": [1], "shrinkage": [0.1, 1]}]
    ),
    Rival(
        "tip_adapter",
        Cache(),
        [{"alpha": [1, 10, 100], "beta": [5.5, 20, 60]}],
        hosted=None,
    ),
    Rival(
        "knn_lm",
        NeighborMixture(),
        [{"k": [8, 64, None], "temperature": [0.01, 0.03, 0.1], "weight": [0.2, 0.5, 0.8]}],
        hosted=None,
    ),
    Rival("imprinted", Imprinted(), [{"scale": [0.5, 2, 4]}], hosted=True),
    Rival(
        "knn",
        make_pipeline(Normalizer(), KNeighborsClassifier(1, weights="distance")),
        [{NEIGHBORS: [3, 10]}, {"normalizer": STANDARD, NEIGHBORS: [1, 5]}],
    ),
)
"""Ridge and a random ReLU expansion are RanPAC's read-out (2,000 wide here, 10,000 there)."""


def answers(rival: Rival, task: Task) -> dict[str, Array]:
    """What it answers as it comes, and tuned on the held-out examples (`<name>.tuned`)."""
    found, best = {}, -1.0
    for settings in ({}, *ParameterGrid(rival.grid)):
        if settings.get(NEIGHBORS, 1) > len(task.labels):
            continue
        estimator = clone(rival.estimator).set_params(**settings)
        if rival.hosted is not False and task.head is not None:
            estimator.set_params(head=task.head)
        with warnings.catch_warnings():
            # Of classes of one example, of more projections than columns, of few iterations.
            warnings.simplefilter("ignore")
            estimator.fit(task.examples, task.labels)
        bias, merit = best_bias(decision(estimator, task.held_out), task)
        if settings and merit <= best:
            continue
        scores, best = decision(estimator, task.queries), merit
        if not settings:
            found[rival.name] = scores.argmax(1)
        scores[:, task.n_old :] += bias
        found[f"{rival.name}.tuned"] = scores.argmax(1)
    return found


def fitting(task: Task, rivals: Sequence[Rival] = RIVALS) -> list[Rival]:
    """Those that this task has what they need for."""
    least = np.bincount(task.labels).min()
    if task.head is None:
        return [one for one in rivals if one.hosted is not True and one.least <= least]
    # A host's classes have several examples each, or none: then its head is all that is known.
    return [one for one in rivals if least or one.hosted is not False]


def decision(estimator: Any, X: Array) -> Array:
    """A score of every class."""
    name = "decision_function" if hasattr(estimator, "decision_function") else "predict_proba"
    scores = np.array(getattr(estimator, name)(X), dtype=np.float64)
    return scores if scores.ndim == 2 else np.stack([-scores, scores], 1)


def best_bias(scores: Array, task: Task) -> tuple[float, float]:
    """What to add to scores of new classes, and the accuracy that this gives, of held-out examples.

    With a host the accuracy is the harmonic mean of that of old and of new classes.
    """
    labels, n_old = task.held_out_labels, task.n_old
    if not n_old:
        return 0.0, share_correct(scores.argmax(1), labels, 0)["all"]
    old, new = scores[:, :n_old], scores[:, n_old:]
    gaps = old.max(1) - new.max(1)
    best = np.where(labels < n_old, old.argmax(1), n_old + new.argmax(1))
    edges = np.unique(np.quantile(gaps, np.linspace(0, 1, 101)))
    found = []
    for bias in (edges[:-1] + edges[1:]) / 2 if len(edges) > 1 else edges:
        answered = np.where((gaps > bias) == (labels < n_old), best, -1)
        found.append((share_correct(answered, labels, n_old)["all"], float(bias)))
    merit = max(found)[0]
    return float(np.median([bias for one, bias in found if one == merit])), merit


def class_means(rows: Array, y: Array) -> Array:
    """The mean of the rows of each class."""
    return np.stack([rows[y == label].mean(0) for label in range(y.max() + 1)])
