"""I of a memory network: what a sentence is made of, as a sparse vector of features."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.base.validation import check_count
from rarememory.data.babi import words_of

CONTEXT = 1
"""Words to the left and to the right of a word that make its context."""


class InputFeatures:
    """A bag of words, or of n-grams, for every sentence: the component I (Weston et al. 2014).

    A word that was not in training has the features of its context instead (section 3.5): the words
    beside it, once for each side. `unseen` must then be trained for, by `hide`.

    Args:
        sentences: of the training; their n-grams and contexts are the features.
        n_grams: the longest n-gram.
        contexts: add features of contexts, so that unseen words can be read.

    Raises:
        ValueError: `n_grams` is less than 1, or no sentence has a word.

    Example:
        >>> features = InputFeatures(["Mary went home.", "Bob sat."], n_grams=2)
        >>> features.of(["Mary went home."]).sum()
        tensor(5.)
    """

    def __init__(
        self, sentences: Iterable[str], *, n_grams: int = 1, contexts: bool = False
    ) -> None:
        check_count("n_grams", n_grams)
        self.n_grams, self.contexts = n_grams, contexts
        self.words: set[str] = set()
        rows: dict[str, int] = {}
        for sentence in sentences:
            words = words_of(sentence)
            self.words.update(words)
            names = [*_n_grams(words, n_grams)]
            if contexts:
                names += [name for place in range(len(words)) for name in _context(words, place)]
            for name in names:
                rows.setdefault(name, len(rows))
        if not rows:
            raise ValueError("there is no word in any sentence")
        self._rows = rows

    def __len__(self) -> int:
        """The number of features."""
        return len(self._rows)

    def row_of(self, word: str) -> int:
        """The place of a word among the features.

        Raises:
            ValueError: it was not in training.
        """
        if word not in self.words:
            raise ValueError(f"the word {word!r} was not in training")
        return self._rows[word]

    def of(
        self, sentences: Iterable[str], hidden: frozenset[str] = frozenset()
    ) -> Float[Tensor, "sentences features"]:
        """How often each feature occurs in each sentence.

        Args:
            sentences: to describe; an empty one has no features.
            hidden: words that count as unseen.

        Raises:
            ValueError: a word was not in training, and there are no features of contexts.
        """
        sentences = list(sentences)
        bags = torch.zeros(len(sentences), len(self))
        for row, sentence in enumerate(sentences):
            words = words_of(sentence)
            unseen = [word not in self.words or word in hidden for word in words]
            if any(unseen) and not self.contexts:
                word = words[unseen.index(True)]
                raise ValueError(
                    f"the word {word!r} was not in training, and without contexts=True nothing is "
                    "known of it"
                )
            known = tuple("" if new else word for word, new in zip(words, unseen, strict=True))
            names = [*_n_grams(known, self.n_grams)]
            for place, new in enumerate(unseen):
                names += _context(words, place) if new else []
            for name in names:
                # An n-gram that training did not have says nothing.
                if name in self._rows:
                    bags[row, self._rows[name]] += 1
        return bags


def _n_grams(words: tuple[str, ...], longest: int) -> list[str]:
    return [
        " ".join(words[start : start + n])
        for n in range(1, longest + 1)
        for start in range(len(words) - n + 1)
        if "" not in words[start : start + n]
    ]


def _context(words: tuple[str, ...], place: int) -> list[str]:
    """The words to the left and to the right of a word, as features of their own."""
    left = words[max(0, place - CONTEXT) : place]
    right = words[place + 1 : place + 1 + CONTEXT]
    return [*(f"<{word}" for word in left), *(f">{word}" for word in right)]
