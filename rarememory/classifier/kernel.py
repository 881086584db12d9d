"""The fitted reader where examples tell classes apart one by one.

    z_c = t (f(x) . b_c + 1 / C)        f, b: `rarememory.classifier.kernel_regression`

Here a class may lie in several places, or around another, where its mean says nothing of it.
Columns of a table are often like that, features of neural networks seldom. Which of the two forms
of the reader answers is found out by `rarememory.classifier.forms`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.discriminant import Answered, LeftOut
from rarememory.classifier.kernel_regression import (
    JUDGED,
    MOST,
    TRIED,
    FittedSettings,
    Regression,
    Samples,
    Telling,
    balanced,
    fitted_settings,
    kernel,
    regressed,
    telling,
)
from rarememory.classifier.metric import Examples, fitting

MOST_CLASSES = 500
"""Two examples of each are 1,000, with which it takes seconds to find the width."""


@dataclass(frozen=True)
class KernelDiscriminant:
    """A fitted reader of remembered examples; its interface is that of `Discriminant`.

    Attributes:
        classes: integers of the classes, ascending.
        mean: of the class means of features.
        columns: what each column is multiplied with.
        regression: of the classes on the examples.
        scale: t.
        find_left_out: gives `left_out`.

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
    find_left_out: Callable[[], LeftOut]

    @cached_property
    def left_out(self) -> LeftOut:
        """What is said of examples it was fitted to; found when it is first asked for."""
        with fitting(self.mean.device):
            return self.find_left_out()

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


@dataclass(frozen=True)
class KernelTrial:
    """How some examples are answered by a kernel that is fitted to them, each of them left out.

    Attributes:
        examples: all of them; the rows are scaled as they tell the classes apart.
        mean: of the class means of features.
        scales: what is left of features is multiplied with.
        columns: what was found of their squared differences.
        samples: the examples of this trial.
        found: by them.
        dtype: of the features, or float32 if that is wider.
    """

    examples: Examples
    mean: Float[Tensor, " key_dim"]
    scales: Float[Tensor, " key_dim"]
    columns: Telling
    samples: Samples
    found: FittedSettings
    dtype: torch.dtype

    @classmethod
    def of(
        cls, features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
    ) -> "KernelTrial | None":
        """The trial with about 400 examples, or two of each class.

        None where all features are equal, or no class has two examples, or there are more than
        `MOST_CLASSES`.
        """
        examples, mean, scales = scaled_columns(features, values)
        several = bool((examples.counts > 1).any())
        if not several or not scales.any() or len(examples.counts) > MOST_CLASSES:
            return None
        columns = telling(examples.rows, examples.places, examples.counts)
        examples = examples._replace(rows=examples.rows * columns.roots)
        most = max(TRIED, 2 * len(examples.counts))
        samples = Samples.of(examples.rows, examples.places, len(examples.counts), most)
        found = fitted_settings(samples, columns.without(samples.rows, samples.places))
        dtype = torch.promote_types(features.dtype, torch.float32)
        return cls(examples, mean, scales * columns.roots, columns, samples, found, dtype)

    @property
    def is_whole(self) -> bool:
        """Whether these are all examples."""
        return len(self.samples.examples) == len(self.examples.samples)

    @property
    def answered(self) -> Answered:
        """Which of its examples are answered rightly."""
        places = self.samples.places
        return Answered(
            self.examples.samples[self.samples.examples],
            places,
            self.examples.counts[places] > 1,
            self.found.left_out.argmax(1) == places,
        )

    def fitted(self) -> KernelDiscriminant:
        """The reader of all examples."""
        examples, (width, ridge, scale, _) = self.examples, self.found
        samples = Samples.of(examples.rows, examples.places, len(examples.counts), MOST)
        regression = regressed(samples, width, ridge)
        # Not the examples themselves, of which there may be many more than samples.
        known = examples.samples, examples.counts, self.columns, self.dtype
        left_out = partial(_left_out, regression, scale, *known)
        return KernelDiscriminant(
            examples.classes, self.mean, self.scales, regression, scale, left_out
        )


def fit_kernel(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> KernelDiscriminant | None:
    """The reader of these examples; the same for the same examples, in whatever order they are.

    None where `KernelTrial.of` has none.

    Args:
        features: in any float dtype.
        values: integers of their classes, of at least two different ones.
    """
    with fitting(features.device):
        trial = KernelTrial.of(features, values)
        return None if trial is None else trial.fitted()


def scaled_columns(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> tuple[Examples, Float[Tensor, " key_dim"], Float[Tensor, " key_dim"]]:
    """Examples less the mean of the class means, over the deviation; that mean; 1 over that."""
    # Kernels of examples that are close to each other have few digits to lose.
    wide = torch.float32 if features.device.type == "mps" else torch.float64
    examples = Examples.of(features.to(wide), values)
    mean = examples.class_means(examples.rows).mean(0)
    rows = examples.rows - mean
    deviations = rows.square().mean(0).sqrt()
    # A column that is the same everywhere tells nothing.
    scales = (1 / deviations).where(deviations > 1e-6 * deviations.max(), 0.0)
    return examples._replace(rows=rows * scales), mean, scales


def _left_out(
    regression: Regression,
    scale: float,
    origins: Int64[Tensor, " examples"],
    counts: Float[Tensor, " classes"],
    columns: Telling,
    dtype: torch.dtype,
) -> LeftOut:
    """As other readers say it: in this dtype."""
    judged = regression.samples.at(balanced(regression.samples.places, JUDGED))
    level = 1 / len(counts)

    def foreign() -> Tensor:
        return (scale * regression.foreign(judged.rows, judged.places)).to(dtype)

    def one_shot(one: Tensor, other: Tensor) -> Tensor:
        squares = (judged.rows[one] - judged.rows[other]).square().sum(1)
        return (scale * (torch.exp(-regression.width * squares) + level)).to(dtype)

    own = columns.without(judged.rows, judged.places)
    logits = (scale * regression.left_out(judged, own)).to(dtype)
    samples, several = origins[judged.examples], counts[judged.places] > 1
    return LeftOut(logits, logits, foreign, samples, judged.places, several, one_shot)
