"""The fitted reader where examples tell classes apart one by one.

    z_c = t (f(x) . b_c + 1 / C)        f, b: `rarememory.classifier.kernel_regression`

Here a class may lie in several places, or around another, where its mean says nothing of it.
Columns of a table are often like that, features of neural networks seldom. Which of the two forms
of the reader answers is found out by `rarememory.classifier.forms`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.discriminant import LeftOut
from rarememory.classifier.kernel_regression import (
    MOST,
    TRIED,
    Regression,
    Samples,
    fitted_settings,
    kernel,
    regressed,
    telling,
)
from rarememory.classifier.metric import Examples, fitting


@dataclass(frozen=True)
class KernelDiscriminant:
    """A fitted reader of remembered examples; its interface is that of `Discriminant`.

    Attributes:
        classes: integers of the classes, ascending.
        mean: of the class means of features.
        columns: what each column is multiplied with.
        regression: of the classes on the examples.
        scale: t.
        left_out: what is said of the examples it was fitted to.

    Example:
        >>> rows = torch.tensor([[1.0], [1.2], [3.0], [3.2], [5.0], [5.2]])
        >>> found = fit_kernel(rows, torch.tensor([3, 3, 7, 7, 3, 3]))
        >>> found.classes[found.logits(torch.tensor([[1.1], [3.1], [5.1]])).argmax(1)]
        tensor([3, 7, 3])
    """

    classes: Int64[Tensor, " classes"]
    mean: Float[Tensor, " key_dim"]
    columns: Float[Tensor, " key_dim"]
    regression: Regression
    scale: float
    left_out: LeftOut

    def logits(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch classes"]:
        """The z of every class."""
        return (self.scale * self.regression.values(self._scaled(features))).to(features.dtype)

    def foreign(
        self, features: Float[Tensor, "batch key_dim"], places: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """The z of every class, if the class in this place had never been learnt; -inf for that.

        What columns count, the width and the ridge stay as they are.
        """
        found = self.regression.foreign(self._scaled(features), places)
        return (self.scale * found).to(features.dtype)

    def similarities(
        self, queries: Float[Tensor, "batch key_dim"], features: Float[Tensor, "examples key_dim"]
    ) -> Float[Tensor, "batch examples"]:
        """The kernel of queries and examples."""
        rows, others = self._scaled(queries), self._scaled(features)
        return kernel(rows, others, self.regression.width).to(queries.dtype)

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.to(self.mean.dtype) - self.mean) * self.columns


def fit_kernel(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> KernelDiscriminant | None:
    """The reader of these examples; the same for the same examples, in whatever order they are.

    None where all features are equal, or no class has two examples, or there are so many classes
    that two of each are too many to find the width with.

    Args:
        features: in any float dtype.
        values: integers of their classes, of at least two different ones.
    """
    with fitting(features.device):
        examples, mean, rows, scales = scaled_columns(features, values)
        several = bool((examples.counts > 1).any())
        if not several or not scales.any() or 2 * len(examples.counts) > TRIED:
            return None
        columns = telling(rows, examples.places, examples.counts)
        known = rows, examples.places, len(examples.counts), columns
        width, ridge, scale = fitted_settings(Samples.of(*known, TRIED))
        regression = regressed(Samples.of(*known, MOST), width, ridge)
        scales = scales * columns.weights.sqrt()
        left_out = _left_out(examples, regression, scale, features.dtype)
        return KernelDiscriminant(examples.classes, mean, scales, regression, scale, left_out)


def scaled_columns(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> tuple[Examples, Tensor, Float[Tensor, "examples key_dim"], Float[Tensor, " key_dim"]]:
    """Examples; the mean of the class means; what is left, over the deviation; 1 over that."""
    # Kernels of examples that are close to each other have few digits to lose.
    wide = torch.float32 if features.device.type == "mps" else torch.float64
    examples = Examples.of(features.to(wide), values)
    mean = examples.class_means(examples.rows).mean(0)
    rows = examples.rows - mean
    deviations = rows.square().mean(0).sqrt()
    # A column that is the same everywhere tells nothing.
    scales = (1 / deviations).where(deviations > 1e-6 * deviations.max(), 0.0)
    return examples, mean, rows * scales, scales


def _left_out(
    examples: Examples, regression: Regression, scale: float, dtype: torch.dtype
) -> LeftOut:
    # As other readers say it: in the dtype of the features, float32 at least.
    dtype = torch.promote_types(dtype, torch.float32)
    judged = regression.samples.at(regression.judged)
    level = 1 / len(examples.counts)

    def foreign() -> Tensor:
        return (scale * regression.foreign(judged.rows, judged.places)).to(dtype)

    def one_shot(one: Tensor, other: Tensor) -> Tensor:
        squares = (judged.rows[one] - judged.rows[other]).square().sum(1)
        return (scale * (torch.exp(-regression.width * squares) + level)).to(dtype)

    logits = (scale * regression.left_out).to(dtype)
    samples, several = examples.samples[judged.examples], examples.counts[judged.places] > 1
    return LeftOut(logits, logits, foreign, samples, judged.places, several, one_shot)
