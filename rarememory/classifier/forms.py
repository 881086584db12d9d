"""Which form of the fitted reader answers: cosines to class means, or distances to the examples.

Cosines compare directions, which serves the features of neural networks best. Columns of a table
can have all they tell in how far an example is from another. Where classes have several examples,
leave-one-out finds out which it is: `answers_more`. Where every class has one example there is
nothing to leave out; then distances are used if the examples lie along very few directions, of
which cosines about their mean see little more than the sign.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.classifier.discriminant import Discriminant, LeftOut
from rarememory.classifier.kernel import KernelDiscriminant, fit_kernel
from rarememory.classifier.metric import class_weights, fitting
from rarememory.classifier.norms import norms_of
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


def better_form(
    discriminant: Discriminant,
    features: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
    distances: float | None = None,
) -> Form:
    """Of this and the kernel the one that answers more of the examples that are left out.

    Where that is not sure, cosines are taken for features of equal length, as they are made for
    them, and for few examples of many columns, which say little of how much each column counts.

    Args:
        discriminant: of the examples.
        features: of the examples, at their own length.
        values: integers of their classes.
        distances: 1 for the kernel wherever there is one, 0 for none.
    """
    if distances is not None:
        return (fit_kernel(features, values) if distances else None) or discriminant
    with fitting(features.device):
        equal = _are_equally_long(features)
        if equal and _directions(features) > _MANY_DIRECTIONS:
            # Then all are about as far from their mean.
            return discriminant
        kernel = fit_kernel(features, values)
        if kernel is None:
            return discriminant
        degrees = len(features) - len(discriminant.classes)
        few = features.shape[1] > _COLUMNS_PER_DEGREE * degrees
        forms: tuple[Form, Form] = (kernel, discriminant)
        if equal or few:
            forms = discriminant, kernel
        first, second = forms
        return second if answers_more(second.left_out, first.left_out) else first


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


def answers_more(one: LeftOut, other: LeftOut) -> bool:
    """Whether one reader answers more examples rightly than another, and not by chance.

    The difference, in which all classes count the same, must be greater than its standard error.
    An example that is alone in its class says nothing.

    Args:
        one: said of some examples.
        other: said of some examples too, in any order; those of both count.
    """
    order = other.samples.argsort()
    place = torch.searchsorted(other.samples, one.samples, sorter=order)
    place = order[place.clamp(max=len(order) - 1)]
    known = one.several & (other.samples[place] == one.samples)
    classes = one.classes[known]
    weights = class_weights(classes, torch.bincount(classes).to(one.logits))
    right = (one.unrefined.argmax(1) == one.classes)[known]
    other_right = (other.unrefined.argmax(1) == other.classes)[place[known]]
    gains = right.to(weights) - other_right.to(weights)
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
