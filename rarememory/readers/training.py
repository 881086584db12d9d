"""Training End-To-End Memory Networks: every model of a module at once, epoch by epoch."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from rarememory.base.files import write_atomically
from rarememory.base.validation import check_count, check_finite, check_positive, check_seed
from rarememory.readers.memn2n import MemN2N
from rarememory.readers.noise import noisy_times
from rarememory.readers.questions import UNKNOWN, Questions
from rarememory.readers.stored import load_checkpoint

_AT_ONCE = 256


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are those of Sukhbaatar et al. 2015 for one task.

    Args:
        epochs: with the softmax in every hop, after the linear start.
        halve_every: epochs after which the learning rate is halved.
        double_above: where every model answers a greater part of the training questions wrongly
            when the learning rate is first to be halved, `epochs` and `halve_every` are doubled; 1
            for never, as in the paper.
        linear_epochs: at most so many epochs of linear start, without the softmax of the hops; 0
            for none.
        patience: a linear start ends before, after so many epochs without a lower validation loss.
        batch: questions of a step.
        learning_rate: of plain stochastic gradient descent on the sum of a batch's losses.
        clip: the greatest spectral norm of the gradient of one matrix.
        noise: empty memories that may be put into a story, as part of its length.
        validation_part: of the training questions, which are not trained on; they decide when the
            linear start ends. With 0 it ends after `linear_epochs`.
        shuffle: choose the validation questions at random, rather than the last.
        solved_epochs: stop when a model has answered every training question rightly in so many
            epochs on end; 0 for never.
        seed: of the order of the questions, and of the noise.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> Recipe().learning_rate
        0.005
    """

    epochs: int = 100
    halve_every: int = 25
    double_above: float = 1.0
    linear_epochs: int = 20
    patience: int = 20
    batch: int = 32
    learning_rate: float = 0.005
    clip: float = 40.0
    noise: float = 0.1
    validation_part: float = 0.1
    shuffle: bool = False
    solved_epochs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "halve_every", "patience", "batch"):
            check_count(name, getattr(self, name))
        for name in ("double_above", "linear_epochs", "noise", "solved_epochs"):
            check_finite(name, getattr(self, name))
        check_positive("learning_rate", self.learning_rate)
        check_positive("clip", self.clip)
        check_seed(self.seed)
        if not 0 <= self.validation_part < 1:
            raise ValueError(
                f"validation_part must be at least 0 and less than 1, not {self.validation_part}"
            )


class Errors(NamedTuple):
    """How each model answered.

    Attributes:
        error: part of the questions that it answered wrongly.
        loss: mean cross-entropy, of UNKNOWN answers 0.

    Example:
        >>> Errors(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 2.0])).best
        1
    """

    error: Float[Tensor, " models"]
    loss: Float[Tensor, " models"]

    @property
    def best(self) -> int:
        """The model of the lowest error; of equal ones that of the lowest loss."""
        ranked = sorted(
            zip(self.error.tolist(), self.loss.tolist(), range(len(self.error)), strict=True)
        )
        return ranked[0][2]


@torch.no_grad()
def errors_of(
    reader: MemN2N, questions: Questions, linear: Bool[Tensor, " models"] | None = None
) -> Errors:
    """The error and the loss of every model, over all of the questions.

    Args:
        reader: the models.
        questions: with answers.
        linear: models that attend without the softmax.

    Example:
        >>> from rarememory.data.babi import StoryQuestion
        >>> from rarememory.readers import Vocabulary, encode_questions
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> vocabulary = Vocabulary.of([question])
        >>> reader = MemN2N(len(vocabulary), memory_size=50, models=2)
        >>> errors_of(reader, encode_questions([question], vocabulary, 50)).error.shape
        torch.Size([2])
    """
    wrong, loss = torch.zeros(2, reader.models)
    bags = reader.bags(questions.sentences)
    for rows in torch.arange(len(questions.answers)).split(_AT_ONCE):
        part = questions.at(rows)
        reading = reader(part, linear=linear, bags=bags)
        wrong += (reading.prediction != part.answers).sum(1)
        loss += _losses(reading.logits, part.answers)
    return Errors(wrong / len(questions.answers), loss / len(questions.answers))


def _losses(
    logits: Float[Tensor, "models questions words"], answers: Int64[Tensor, " questions"]
) -> Float[Tensor, " models"]:
    models, questions, _ = logits.shape
    each = cross_entropy(
        logits.flatten(0, 1), answers.repeat(models), reduction="none", ignore_index=UNKNOWN
    )
    return each.view(models, questions).sum(1)


class Epoch(NamedTuple):
    """What is known after an epoch.

    Attributes:
        number: of the epoch, from 1.
        error: part of the training questions that each model answered wrongly while it learnt.
        linear: models that are still in their linear start.

    Example:
        >>> Epoch(1, torch.tensor([0.5]), torch.tensor([True])).number
        1
    """

    number: int
    error: Float[Tensor, " models"]
    linear: Bool[Tensor, " models"]


class Training:
    """A training of all models of a reader on the same batches; what differs is how they began.

    Each model has its own linear start, learning rate and end.

    Args:
        reader: the models; changed in place.
        questions: to train on; `recipe.validation_part` of them are left out.
        recipe: how.

    Raises:
        ValueError: there are too few questions for a batch and a validation question, or an answer
            is UNKNOWN.

    Example:
        >>> from rarememory.data.babi import StoryQuestion
        >>> from rarememory.readers import Vocabulary, encode_questions
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> vocabulary = Vocabulary.of([question])
        >>> reader = MemN2N(len(vocabulary), memory_size=50)
        >>> numbers = encode_questions([question] * 20, vocabulary, 50)
        >>> training = Training(reader, numbers, Recipe(epochs=2, linear_epochs=0, batch=4))
        >>> training.train()
        >>> training.epoch
        2
    """

    def __init__(self, reader: MemN2N, questions: Questions, recipe: Recipe | None = None) -> None:
        self.reader, self.recipe = reader, recipe or Recipe()
        self.generator = Generator().manual_seed(self.recipe.seed)
        n = len(questions.answers)
        rows = (
            torch.randperm(n, generator=self.generator) if self.recipe.shuffle else torch.arange(n)
        )
        kept = n - int(n * self.recipe.validation_part)
        if kept < self.recipe.batch or (self.recipe.validation_part and kept == n):
            raise ValueError(
                f"{n} questions are too few for batches of {self.recipe.batch} and a validation "
                f"part of {self.recipe.validation_part}"
            )
        if (questions.answers == UNKNOWN).any():
            row = int((questions.answers == UNKNOWN).nonzero()[0, 0])
            raise ValueError(f"the answer of question {row + 1} is not in the vocabulary")
        self.train_questions, self.validation = questions.at(rows[:kept]), questions.at(rows[kept:])
        self.bags = reader.bags(questions.sentences)
        self.epoch = 0
        self.seconds = 0.0
        self.solved = torch.zeros(reader.models, dtype=torch.int64)
        self.curve: list[list[float]] = []
        self.linear = torch.full((reader.models,), self.recipe.linear_epochs > 0)
        self.softmax_epochs = torch.zeros(reader.models, dtype=torch.int64)
        self.doubled = torch.zeros(reader.models, dtype=torch.int64)
        self.lowest_loss = torch.full((reader.models,), torch.inf)
        self.waited = torch.zeros(reader.models, dtype=torch.int64)

    @property
    def learning_rates(self) -> Float[Tensor, " models"]:
        """Of each model: halved every so many epochs, and 0 once it has had all of them."""
        recipe = self.recipe
        halvings = self.softmax_epochs // (recipe.halve_every * (1 + self.doubled))
        return recipe.learning_rate * 0.5**halvings * (self.softmax_epochs < self._epochs)

    @property
    def _epochs(self) -> Int64[Tensor, " models"]:
        """With the softmax, of each model."""
        return self.recipe.epochs * (1 + self.doubled)

    @property
    def ended(self) -> bool:
        """Whether every model has had its epochs, or one has solved the task."""
        solved = self.recipe.solved_epochs and self.solved.max() >= self.recipe.solved_epochs
        return bool(solved or (self.softmax_epochs >= self._epochs).all())

    def train(
        self,
        checkpoint: Path | None = None,
        *,
        every: int = 10,
        watch: Callable[[Epoch], object] = lambda epoch: None,
    ) -> None:
        """Train to the end, from the checkpoint if there is one.

        Args:
            checkpoint: written every so many epochs and at the end.
            every: epochs between checkpoints.
            watch: called after every epoch.

        Raises:
            ValueError: the checkpoint is damaged, or of a training with another recipe or reader.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load_state_dict(load_checkpoint(checkpoint), str(checkpoint))
        while not self.ended:
            begin = time.perf_counter()
            epoch = self.advance()
            self.seconds += time.perf_counter() - begin
            watch(epoch)
            if checkpoint is not None and (self.ended or self.epoch % every == 0):
                state = self.state_dict()
                write_atomically(checkpoint, lambda path: torch.save(state, path), parents=True)  # noqa: B023

    def advance(self) -> Epoch:
        """Train for one epoch; the questions that fill no batch are left for another."""
        recipe, questions = self.recipe, self.train_questions
        order = torch.randperm(len(questions.answers), generator=self.generator)
        times = noisy_times(
            questions.lengths[order], self.reader.memory_size, recipe.noise, self.generator
        )
        rates, linear = self.learning_rates, self.linear
        wrong = torch.zeros(self.reader.models)
        steps = len(order) // recipe.batch
        for step in range(steps):
            rows = slice(step * recipe.batch, (step + 1) * recipe.batch)
            wrong += self._step(questions.at(order[rows]), times[rows], rates)
        self.epoch += 1
        self.softmax_epochs += ~self.linear
        if self.linear.any():
            self._end_linear_starts()
        # Without the softmax a task is not solved: the reader answers with it.
        self.solved = (self.solved + 1).masked_fill((wrong > 0) | linear, 0)
        error = wrong / (steps * recipe.batch)
        if error.min() > recipe.double_above:
            self.doubled |= (self.softmax_epochs == recipe.halve_every).long()
        self.curve.append([round(one, 5) for one in error.tolist()])
        return Epoch(self.epoch, error, self.linear)

    def step(self, batch: Questions) -> int:
        """Train on one batch, outside of any epoch; returns its number of questions."""
        slots = self.reader.memory_size
        times = noisy_times(batch.lengths, slots, self.recipe.noise, self.generator)
        self._step(batch, times, self.learning_rates)
        return len(batch.answers)

    def _step(
        self, batch: Questions, times: Int64[Tensor, "questions slots"], rates: Tensor
    ) -> Int64[Tensor, " models"]:
        """Descend by one batch; returns how many questions each model answered wrongly."""
        reading = self.reader(batch, times, self.linear, self.bags)
        loss = _losses(reading.logits, batch.answers).sum()
        parameters = list(self.reader.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(loss, parameters), strict=True
            ):
                parameter.sub_(scaled(gradient, self.recipe.clip, rates))
            wrong: Tensor = reading.prediction != batch.answers
            return wrong.sum(1)

    def _end_linear_starts(self) -> None:
        """Put the softmax back where the validation loss has stopped falling."""
        if self.recipe.validation_part:
            loss = errors_of(self.reader, self.validation, self.linear).loss
            lower = loss < self.lowest_loss
            self.lowest_loss = loss.minimum(self.lowest_loss)
            self.waited = (self.waited + 1).masked_fill(lower, 0)
        ends = (self.waited >= self.recipe.patience) | (self.epoch >= self.recipe.linear_epochs)
        self.linear = self.linear & ~ends

    def state_dict(self) -> dict[str, Any]:
        """All that a training needs to go on, to the bit."""
        return {
            "facts": self._facts(),
            "reader": self.reader.state_dict(),
            "generator": self.generator.get_state(),
            **{name: getattr(self, name) for name in _STATE},
        }

    def load_state_dict(self, state: dict[str, Any], name: str = "the checkpoint") -> None:
        """Go on from such a state.

        Raises:
            ValueError: it is of a training with another recipe or reader.
        """
        if state["facts"] != self._facts():
            raise ValueError(
                f"{name} is of {state['facts']}, and this training is of {self._facts()}: use the "
                "options of that one, or remove the file"
            )
        self.reader.load_state_dict(state["reader"])
        self.generator.set_state(state["generator"])
        for name in _STATE:
            setattr(self, name, state[name])

    def _facts(self) -> str:
        questions = len(self.train_questions.answers)
        return f"{self.reader.options}, {asdict(self.recipe)}, {questions} questions"


_STATE = (
    "epoch", "seconds", "solved", "curve", "linear", "softmax_epochs", "doubled", "lowest_loss",
    "waited",
)  # fmt: skip


def scaled(
    gradient: Float[Tensor, "models *tables rows dim"], clip: float, rates: Float[Tensor, " models"]
) -> Float[Tensor, "models *tables rows dim"]:
    """A step of descent: the gradient of each matrix clipped BY ITSELF, times its model's rate.

    The norm is the spectral one, the greatest singular value, as in the authors' code. The sum of
    squares is greater and clips more, of which a reader of one hop does not learn to count; and a
    norm over all matrices together makes the training of task 15 fail.

    Example:
        >>> scaled(torch.tensor([[[3.0, 4.0]], [[0.6, 0.8]]]), 2.0, torch.tensor([1.0, 0.5]))
        tensor([[[1.2000, 1.6000]],
        <BLANKLINE>
                [[0.3000, 0.4000]]])
    """
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=(-2, -1))
    # Never less than the spectral norm, and cheap.
    over = (norms > clip) & norms.isfinite()
    if over.any():
        some = gradient[over]
        # In float64: in float32 the solver does not converge for some matrices of low rank.
        squares = torch.linalg.eigvalsh((some.mT @ some).double())[:, -1]
        norms[over] = squares.clamp(min=0).sqrt().to(norms.dtype)
    by_model = rates.view(-1, *[1] * (gradient.dim() - 1))
    return gradient * (by_model * (clip / norms.clamp(min=clip))[..., None, None])
