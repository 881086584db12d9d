"""Stories and questions as tensors: every different sentence once, stories as rows of sentences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.data.babi import StoryQuestion, words_of

PADDING = 0
"""The word that fills up sentences, and the sentence that fills up stories: they hold nothing."""
UNKNOWN = -1
"""An answer that is no word of the vocabulary: no reader can give it, so it counts as wrong."""


class Vocabulary:
    """Numbers for words, from 1; PADDING is no word.

    Args:
        words: the words; a word that occurs again is left out.

    Example:
        >>> vocabulary = Vocabulary(["the", "apple", "the"])
        >>> len(vocabulary), vocabulary.ids(["apple"])
        (3, [2])
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = ("", *dict.fromkeys(words))
        self._ids = {word: index for index, word in enumerate(self.words)}

    @classmethod
    def of(cls, questions: Iterable[StoryQuestion]) -> "Vocabulary":
        """Every word and every answer of these questions, in alphabetic order.

        Example:
            >>> Vocabulary.of([StoryQuestion(("Mary is here.",), "Where is Mary?", "here")]).words
            ('', 'here', 'is', 'mary', 'where')
        """
        words: set[str] = set()
        sentences: set[str] = set()
        for one in questions:
            sentences.update((*one.story, one.question))
            words.add(one.answer)
        for sentence in sentences:
            words.update(words_of(sentence))
        return cls(sorted(words))

    def __len__(self) -> int:
        """The number of words, and one for PADDING."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        """Whether it has a number."""
        return word in self._ids

    def get(self, word: str) -> int:
        """The number of a word; UNKNOWN if it has none."""
        return self._ids.get(word, UNKNOWN)

    def ids(self, words: Iterable[str]) -> list[int]:
        """The numbers of these words.

        Raises:
            ValueError: one was not in training.
        """
        words = list(words)
        unseen = [word for word in words if word not in self._ids]
        if unseen:
            raise ValueError(
                f"the word {unseen[0]!r} was not in training, where there were "
                f"{len(self.words) - 1} words"
            )
        return [self._ids[word] for word in words]


class Questions(NamedTuple):
    """Questions about stories, in tensors.

    Attributes:
        sentences: every different sentence and question once, as numbers of words; row 0 is empty.
        stories: of each question the rows of its story in `sentences`, the LATEST FIRST, so that a
            column is how long ago a sentence was said.
        lengths: sentences of each story.
        questions: the row of each question in `sentences`.
        answers: the number of each answer; UNKNOWN if the vocabulary lacks it.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> numbers = encode_questions([question], Vocabulary.of([question]), memory_size=50)
        >>> numbers.stories, numbers.answers
        (tensor([[1]]), tensor([1]))
    """

    sentences: Int64[Tensor, "sentences words"]
    stories: Int64[Tensor, "questions slots"]
    lengths: Int64[Tensor, " questions"]
    questions: Int64[Tensor, " questions"]
    answers: Int64[Tensor, " questions"]

    def at(self, rows: Int64[Tensor, " rows"]) -> "Questions":
        """These questions only, with as many columns as the longest of their stories."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(rows) else 0
        return Questions(
            self.sentences,
            self.stories[rows, :longest],
            lengths,
            self.questions[rows],
            self.answers[rows],
        )


def encode_questions(
    questions: Sequence[StoryQuestion], vocabulary: Vocabulary, memory_size: int
) -> Questions:
    """The questions as tensors; of a longer story the last `memory_size` sentences.

    Raises:
        ValueError: a word of a story or a question is not in the vocabulary, a sentence or a
            question has no word, a story is empty, or there are no questions.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Bob?", "here")
        >>> encode_questions([question], Vocabulary(["mary", "is", "here", "where"]), 50)
        Traceback (most recent call last):
        ValueError: the word 'bob' was not in training, where there were 4 words
    """
    if not questions:
        raise ValueError("there are no questions to answer")
    # Row 0 is PADDING, which no sentence is.
    rows: dict[str | None, int] = {None: PADDING}
    stories = []
    asked = []
    for number, one in enumerate(questions, 1):
        if not one.story:
            raise ValueError(f"the story of question {number} is empty: {one.question!r}")
        kept = reversed(one.story[-memory_size:])
        stories.append([rows.setdefault(sentence, len(rows)) for sentence in kept])
        asked.append(rows.setdefault(one.question, len(rows)))
    sentences = [vocabulary.ids(_said(one)) if one is not None else [] for one in rows]
    return Questions(
        _filled(sentences),
        _filled(stories),
        torch.tensor([len(story) for story in stories]),
        torch.tensor(asked),
        torch.tensor([vocabulary.get(one.answer) for one in questions]),
    )


def _said(sentence: str) -> tuple[str, ...]:
    words = words_of(sentence)
    if not words:
        raise ValueError(f"there is no word in {sentence!r}")
    return words


def _filled(rows: list[list[int]]) -> Int64[Tensor, "rows longest"]:
    """The rows as one tensor, filled up with PADDING."""
    longest = max(map(len, rows))
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows])
