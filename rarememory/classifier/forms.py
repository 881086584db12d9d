"""Which form of the fitted reader answers: class means ("cosines"), or distances to the examples.

Scores of class means compare mainly directions, which serves the features of neural networks best.
Columns of a table can have all they tell in how far an example is from another. Where classes have
several examples, leave-one-out finds out which it is: `answers_more`. Where every class has one
example there is nothing to leave out; then distances are used if the examples lie along very few
directions, of which cosines about their mean see little more than the sign.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.classifier.beside_keys import norms_of
from rarememory.classifier.discriminant import (
    Answered,
    Discriminant,
    Settings,
    fit_discriminant,
)
from rarememory.classifier.kernel import KernelDiscriminant, KernelTrial, fit_kernel
from rarememory.classifier.metric import class_weights, fitting
from rarememory.classifier.one_shot import OneShotDistances, one_shot_distances

ByDistance = KernelDiscriminant | OneShotDistances
Form = Discriminant | ByDistance

_FEW_DIRECTIONS = 2.5
"""So few that cosines about a mean tell little; features of networks have at least five."""
_MANY_DIRECTIONS = 12.0
"""Features of networks have more, columns of tables fewer."""
_COLUMNS_PER_DEGREE = 10
"""Columns for each example beyond the first of its class, up to which distances may be taken."""
_EQUAL_LENGTHS = 1e-2
"""Part of the longest by which lengths that are meant to be equal differ, in bfloat16 too."""
_SOME = 512
"""Examples that show how many directions there are."""


def form_of(
    keys: Float[Tensor, "examples key_dim"],
    features: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
    settings: Settings = Settings(),  # noqa: B008, a tuple
    foreign_host: bool = False,
) -> Form:
    """The form that answers for these examples.

    Args:
        keys: the features at unit length, in any float dtype.
        features: at their own length.
        values: integers of their classes, of at least two different ones.
        settings: that are not found from the examples.
        foreign_host: whether a host has classes of which there is no example.
    """
    discriminant = fit_discriminant(keys, values, settings)
    counts = discriminant.plain.counts
    if counts.max() == 1:
        return one_shot_form(discriminant, features, values)
    # The host's classes lie in directions that few examples say nothing of.
    if foreign_host and len(keys) - len(counts) < keys.shape[1]:
        return discriminant
    return better_form(discriminant, features, values, settings)


def better_form(
    discriminant: Discriminant,
    features: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
    settings: Settings = Settings(),  # noqa: B008, a tuple
) -> Form:
    """Of this and the kernel the one that answers more of the examples that are left out.

    Where that is not sure, distances are taken, but for features that cosines are made for: those
    of equal length or along many directions; and for few examples of many columns, which say little
    of how much each column counts. Where about 400 examples are sure of the one that is taken then,
    the others are not asked.

    Args:
        discriminant: of the examples.
        features: of the examples, at their own length.
        values: integers of their classes.
        settings: of the discriminant; `distances` is 1 for the kernel wherever there is one, 0 for
            none.
    """
    if settings.distances is not None:
        return (fit_kernel(features, values) if settings.distances else None) or discriminant
    with fitting(features.device):
        equal, many = _are_equally_long(features), _directions(features) > _MANY_DIRECTIONS
        # If both, all are about as far from their mean.
        trial = None if equal and many else KernelTrial.of(features, values)
        if trial is None:
            return discriminant
        degrees = len(features) - len(discriminant.classes)
        few = features.shape[1] > _COLUMNS_PER_DEGREE * degrees
        by_cosines = equal or many or few
        if trial.is_whole:
            answered = discriminant.left_out.answered
            kernel_is_better = _is_kernel_better(trial.answered, answered, by_cosines)
            return trial.fitted() if kernel_is_better else discriminant
        # Some examples against the same ones: fitted to all, it would know more.
        some = trial.answered.samples
        keys = normalize(features[some], dim=1)
        of_some = fit_discriminant(keys, values[some], settings).left_out.answered
        of_some = of_some._replace(samples=some[of_some.samples])
        if by_cosines and answers_more(of_some, trial.answered):
            return discriminant
        kernel = trial.fitted()
        if not by_cosines and answers_more(trial.answered, of_some):
            return kernel
        of_all = kernel.left_out.answered, discriminant.left_out.answered
        return kernel if _is_kernel_better(*of_all, by_cosines) else discriminant


def _is_kernel_better(kernel: Answered, cosines: Answered, by_cosines: bool) -> bool:
    """What is not sure is read by cosines, or not."""
    return answers_more(kernel, cosines) if by_cosines else not answers_more(cosines, kernel)


def one_shot_form(
    discriminant: Discriminant,
    features: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
) -> Form:
    """The same of classes with one example each.

    Distances serve them where directions are few: at most 2.5, and half of what is possible.
    """
    with fitting(features.device):
        # Of equal examples it is NaN, which is not greater.
        if _directions(features) > min(_FEW_DIRECTIONS, (len(features) - 1) / 2):
            return discriminant
        return one_shot_distances(features, values) or discriminant


def answers_more(one: Answered, other: Answered) -> bool:
    """Whether one reader answers more examples rightly than another, and not by chance.

    The difference, in which all classes count the same, must be greater than its standard error.
    An example that is alone in its class says nothing.

    Args:
        one: some examples.
        other: some examples too, in any order; those of both count.
    """
    order = other.samples.argsort()
    place = torch.searchsorted(other.samples, one.samples, sorter=order)
    place = order[place.clamp(max=len(order) - 1)]
    known = one.several & (other.samples[place] == one.samples)
    classes = one.classes[known]
    weights = class_weights(classes, torch.bincount(classes).float())
    gains = one.right[known].to(weights) - other.right[place[known]].to(weights)
    mean = (weights * gains).sum()
    error = (weights.square() * (gains - mean).square()).sum().sqrt()
    return bool(mean > error)


def _are_equally_long(features: Float[Tensor, "examples key_dim"]) -> bool:
    norms = norms_of(features)
    return bool(norms.amax() - norms.amin() <= _EQUAL_LENGTHS * norms.amax())


def _directions(features: Tensor) -> float:
    """How many directions unit features lie along, by up to 512 of them.

    (sum l)^2 / sum l^2, with the variances l along their principal axes; NaN where all are equal.
    """
    some = torch.linspace(0, len(features) - 1, min(len(features), _SOME)).long()
    rows = features[some.to(features.device)]
    rows = normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
    rows = rows - rows.mean(0)
    products = rows @ rows.T
    return (products.trace().square() / products.square().sum()).item()
