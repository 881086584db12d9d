"""Asking a trained reader: the answer, and what every hop attended to."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from rarememory.data.babi import StoryQuestion
from rarememory.data.stories import draw_stories
from rarememory.readers.memn2n import MemN2N
from rarememory.readers.questions import Vocabulary, encode_questions
from rarememory.readers.training import Epoch, Recipe, Training, errors_of


class ReadAnswer(NamedTuple):
    """The answer of a reader.

    Attributes:
        answer: the likeliest word.
        probability: of it.
        sentences: that were read, the oldest first.
        attention: of each hop the weight of each sentence.
        left_out: how many sentences before these the memory has no slots for.

    Example:
        >>> ReadAnswer("kitchen", 0.9, ("Mary is in the kitchen.",), ((1.0,),), 0).answer
        'kitchen'
    """

    answer: str
    probability: float
    sentences: tuple[str, ...]
    attention: tuple[tuple[float, ...], ...]
    left_out: int


@torch.no_grad()
def ask(reader: MemN2N, vocabulary: Vocabulary, story: Sequence[str], question: str) -> ReadAnswer:
    """Answer a question about a story by the first model of a reader.

    Args:
        reader: that was trained.
        vocabulary: of its training.
        story: sentences, the oldest first; of a longer one than the memory the last are read.
        question: about it.

    Raises:
        ValueError: the story is empty, or a word was not in training.

    Example:
        >>> vocabulary = Vocabulary(["mary", "is", "here", "where"])
        >>> reader = MemN2N(len(vocabulary), memory_size=5)
        >>> len(ask(reader, vocabulary, ["Mary is here."], "Where is Mary?").attention)
        3
    """
    numbers = encode_questions(
        [StoryQuestion(tuple(story), question, "")], vocabulary, reader.memory_size
    )
    reading = reader(numbers)
    kept = tuple(story[-reader.memory_size :])
    place = int(reading.prediction[0, 0])
    # The reader has the latest sentence first.
    weights = reading.attention[:, 0, 0].flip(1)
    return ReadAnswer(
        vocabulary.words[place],
        float(reading.logits[0, 0].softmax(0)[place]),
        kept,
        tuple(tuple(hop.tolist()) for hop in weights),
        len(story) - len(kept),
    )


def train_on_stories(
    *,
    stories: int = 2000,
    epochs: int = 24,
    restarts: int = 3,
    seed: int = 0,
    watch: Callable[[Epoch], object] = lambda epoch: None,
) -> tuple[MemN2N, Vocabulary, float]:
    """A reader of drawn stories, its vocabulary, and its error on as many new ones.

    Args:
        stories: to train on.
        epochs: after a linear start of a third as many.
        restarts: the lowest training error is kept.
        seed: of the stories and the training.
        watch: called after every epoch.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> reader, vocabulary, error = train_on_stories(stories=60, epochs=1, restarts=1)
        >>> reader.hops, "apple" in vocabulary
        (3, True)
    """
    questions = draw_stories(2 * stories, seed=seed)
    vocabulary = Vocabulary.of(questions)
    numbers = encode_questions(questions, vocabulary, memory_size=20)
    rows = torch.arange(len(questions))
    longest = numbers.sentences.shape[1] + 1
    reader = MemN2N(
        len(vocabulary), 20, models=restarts, sentence_length=longest, empty_slots=True, seed=seed
    )
    recipe = Recipe(
        epochs=epochs, halve_every=max(1, epochs // 4), linear_epochs=epochs // 3, seed=seed
    )
    training = Training(reader, numbers.at(rows[:stories]), recipe)
    training.train(watch=watch)
    best = reader.only(errors_of(reader, training.train_questions).best)
    return best, vocabulary, float(errors_of(best, numbers.at(rows[stories:])).error)
