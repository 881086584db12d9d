"""Training a Memory Network with the supporting sentences of every answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.base.files import write_atomically
from rarememory.base.validation import check_count, check_positive, check_seed
from rarememory.data.babi import StoryQuestion
from rarememory.readers.memnn import MemNN, SupportedQuestions
from rarememory.readers.questions import UNKNOWN
from rarememory.readers.response import ranking_loss
from rarememory.readers.stored import load_checkpoint

_AT_ONCE = 100


@dataclass(frozen=True)
class SupportedRecipe:
    """How to train a Memory Network.

    Args:
        epochs: over all questions.
        batch: questions of a step.
        learning_rate: of Adam, falling to 0 in a straight line.
        margin: of both ranking losses.
        negatives: sampled sentences of each story that a step ranks the right ones above; None for
            all.
        hidden: part of the words that count as unseen in an epoch, if there are contexts.
        seed: of the order, the negatives and the hidden words.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> SupportedRecipe().margin
        0.1
    """

    epochs: int = 40
    batch: int = 32
    learning_rate: float = 0.01
    margin: float = 0.1
    negatives: int | None = None
    hidden: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_count("batch", self.batch)
        check_positive("learning_rate", self.learning_rate)
        check_positive("margin", self.margin)
        check_seed(self.seed)
        if self.negatives is not None:
            check_count("negatives", self.negatives)
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden must be at least 0 and less than 1, not {self.hidden}")


class SupportedTraining:
    """A training of O and R together; R is given the right support.

    Args:
        reader: changed in place.
        questions: with support and answers that the reader has.
        recipe: how.

    Raises:
        ValueError: an answer is none of the reader's, or a question has no supporting sentence.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> training = SupportedTraining(MemNN.of([question]), [question] * 32)
        >>> training.train()
        >>> training.epoch
        40
    """

    def __init__(
        self,
        reader: MemNN,
        questions: Sequence[StoryQuestion],
        recipe: SupportedRecipe | None = None,
    ) -> None:
        self.reader, self.recipe = reader, recipe or SupportedRecipe()
        self.questions = list(questions)
        for number, one in enumerate(self.questions, 1):
            if one.answer not in reader.answers:
                raise ValueError(f"the answer of question {number} is not one of the reader's")
            if not one.support:
                raise ValueError(f"question {number} has no supporting sentence")
        self.generator = Generator().manual_seed(self.recipe.seed)
        self.optimizer = torch.optim.Adam(reader.parameters(), self.recipe.learning_rate)
        self.numbers = reader.encoded(self.questions)
        self.epoch = 0
        self.seconds = 0.0

    def train(
        self, checkpoint: Path | None = None, watch: Callable[[int], object] = lambda epoch: None
    ) -> None:
        """Train to the end, from the checkpoint if there is one; it is written after every epoch.

        Raises:
            ValueError: the checkpoint is damaged, or of a training with another recipe, reader or
                number of questions.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load_state_dict(load_checkpoint(checkpoint), str(checkpoint))
        while self.epoch < self.recipe.epochs:
            begin = time.perf_counter()
            self.advance()
            self.seconds += time.perf_counter() - begin
            watch(self.epoch)
            if checkpoint is not None:
                state = self.state_dict()
                write_atomically(checkpoint, lambda path: torch.save(state, path), parents=True)  # noqa: B023

    def advance(self) -> None:
        """Train for one epoch."""
        recipe = self.recipe
        rate = recipe.learning_rate * (1 - self.epoch / recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        numbers = self._with_hidden_words()
        order = torch.randperm(len(self.questions), generator=self.generator)
        for rows in order.split(recipe.batch):
            self.optimizer.zero_grad()
            self.loss(numbers.at(rows)).backward()
            self.optimizer.step()
        self.epoch += 1

    def loss(self, batch: SupportedQuestions) -> Float[Tensor, ""]:
        """The sum of the ranking losses of O and R over a batch."""
        asked = batch.bags[batch.questions]
        sampled = None
        if self.recipe.negatives is not None:
            # So many of each story on average.
            chance = self.recipe.negatives / batch.lengths.clamp(min=1).unsqueeze(1)
            drawn = torch.rand(batch.stories.shape, generator=self.generator)
            sampled = drawn < chance
        ranked = self.reader.output.loss(
            batch.bags,
            asked,
            batch.stories,
            batch.lengths,
            batch.support,
            self.recipe.margin,
            sampled,
        )
        scores = self.reader.response(batch.bags, asked, batch.stories, batch.support)
        return (ranked + ranking_loss(scores, batch.answers, self.recipe.margin)).sum()

    def _with_hidden_words(self) -> SupportedQuestions:
        """The questions, with some words read by their contexts if the features have these."""
        features = self.reader.features
        if not features.contexts:
            return self.numbers
        words = sorted(features.words)
        drawn = torch.rand(len(words), generator=self.generator).tolist()
        hidden = frozenset(
            word for word, one in zip(words, drawn, strict=True) if one < self.recipe.hidden
        )
        return self.reader.encoded(self.questions, hidden)

    def state_dict(self) -> dict[str, Any]:
        """All that a training needs to go on, to the bit."""
        return {
            "facts": self._facts(),
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any], name: str = "the checkpoint") -> None:
        """Go on from such a state.

        Raises:
            ValueError: it is of a training with another recipe, reader or number of questions.
        """
        if state["facts"] != self._facts():
            raise ValueError(
                f"{name} is of {state['facts']}, and this training is of {self._facts()}: use the "
                "options of that one, or remove the file"
            )
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]

    def _facts(self) -> str:
        shapes = [tuple(one.shape) for one in self.reader.parameters()]
        return f"{asdict(self.recipe)}, {len(self.questions)} questions, weights of {shapes}"


@torch.no_grad()
def supported_error(reader: MemNN, questions: Sequence[StoryQuestion]) -> tuple[float, float]:
    """The parts of the questions with a wrong answer, and with a wrong support.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> supported_error(MemNN.of([question]), [question])
        (0.0, 0.0)
    """
    numbers = reader.encoded(questions)
    wrong = unsupported = 0
    for rows in torch.arange(len(questions)).split(_AT_ONCE):
        part = numbers.at(rows)
        answers, support = reader.predicted(part)
        wrong += int(((answers != part.answers) | (part.answers == UNKNOWN)).sum())
        unsupported += int((support != part.support).any(1).sum())
    return wrong / len(questions), unsupported / len(questions)
