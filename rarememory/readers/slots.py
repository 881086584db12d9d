"""G of a memory network: sentences in slots, found by a hash, forgotten when there is no room."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.validation import check_count, check_seed
from rarememory.data.babi import words_of

Hash = Callable[[str], frozenset[Any]]
"""Buckets of a sentence; a question looks only at sentences that share a bucket with it."""


def word_hash(sentence: str) -> frozenset[Any]:
    """A bucket for each word (Weston et al. 2014, section 3.3).

    >>> sorted(word_hash("Mary went."))
    ['mary', 'went']
    """
    return frozenset(words_of(sentence))


class ClusterHash:
    """A bucket for each cluster of words (Weston et al. 2014, section 3.3).

    K-means clusters the embeddings of the words, U_O; a sentence is in the clusters of its words.

    Args:
        words: that are clustered.
        embeddings: of these words, a row each.
        clusters: how many.
        seed: of the first centres.

    Raises:
        ValueError: there are more clusters than words, or a number is wrong.

    Example:
        >>> cluster = ClusterHash(["a", "b", "c"], torch.tensor([[0.0], [0.1], [9.0]]), clusters=2)
        >>> cluster("a") == cluster("b"), cluster("a") == cluster("c")
        (True, False)
    """

    def __init__(
        self,
        words: Iterable[str],
        embeddings: Float[Tensor, "words dim"],
        clusters: int,
        seed: int = 0,
    ) -> None:
        words = list(words)
        check_count("clusters", clusters)
        check_seed(seed)
        if clusters > len(words):
            raise ValueError(f"{clusters} clusters are more than the {len(words)} words")
        places = k_means(embeddings, clusters, seed).tolist()
        self._clusters = dict(zip(words, places, strict=True))

    def __call__(self, sentence: str) -> frozenset[Any]:
        """The clusters of its words; a word that was not clustered has none."""
        return frozenset(
            self._clusters[word] for word in words_of(sentence) if word in self._clusters
        )


def k_means(
    points: Float[Tensor, "points dim"], clusters: int, seed: int = 0, rounds: int = 100
) -> Int64[Tensor, " points"]:
    """The cluster of each point by Lloyd's algorithm, the first centres drawn as by k-means++.

    >>> k_means(torch.tensor([[0.0], [0.1], [9.0]]), 2).tolist() in ([0, 0, 1], [1, 1, 0])
    True
    """
    generator = torch.Generator().manual_seed(seed)
    points = points.detach()
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    while len(chosen) < clusters:
        squares = torch.cdist(points, points[chosen]).min(1).values ** 2
        # Points that equal a centre are drawn only if there are no others.
        weights = squares if squares.sum() > 0 else torch.ones(len(points))
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    centres = points[chosen]
    nearest = torch.cdist(points, centres).argmin(1)
    for _ in range(rounds):
        members = torch.nn.functional.one_hot(nearest, clusters).to(points.dtype)
        counts = members.sum(0).unsqueeze(1)
        centres = torch.where(counts > 0, members.T @ points / counts.clamp(min=1), centres)
        again = torch.cdist(points, centres).argmin(1)
        if torch.equal(again, nearest):
            break
        nearest = again
    return nearest


def oldest(slots: "StorySlots") -> int:
    """The slot that was written before all others: what `StorySlots` forgets by default.

    >>> slots = StorySlots(2)
    >>> slots.write("a"), slots.write("b"), oldest(slots)
    (0, 1, 0)
    """
    return min(range(len(slots.written)), key=slots.written.__getitem__)


class StorySlots:
    """A memory of sentences: the component G (Weston et al. 2014, sections 2.1 and 3.3).

    A sentence goes into the next free slot; when there is none, a slot is forgotten.

    Args:
        memory_size: number of slots.
        hash_: buckets of a sentence; None to look at every sentence.
        forget: chooses the slot that is overwritten when all are full.

    Raises:
        ValueError: `memory_size` is less than 1.

    Example:
        >>> slots = StorySlots(memory_size=2, hash_=word_hash)
        >>> for sentence in ("Mary sat.", "Bob sat.", "Bob left."):
        ...     _ = slots.write(sentence)
        >>> slots.story, slots.candidates("Where is Bob?")
        (('Bob sat.', 'Bob left.'), ('Bob sat.', 'Bob left.'))
    """

    def __init__(
        self,
        memory_size: int,
        *,
        hash_: Hash | None = None,
        forget: Callable[["StorySlots"], int] = oldest,
    ) -> None:
        check_count("memory_size", memory_size)
        self.memory_size, self.hash_, self.forget = memory_size, hash_, forget
        self.sentences: list[str] = []
        self.written: list[int] = []
        self._buckets: dict[Any, set[int]] = {}
        self._clock = 0

    def write(self, sentence: str) -> int:
        """Write a sentence, and return its slot.

        Raises:
            ValueError: it has no word.
        """
        if not words_of(sentence):
            raise ValueError(f"there is no word in {sentence!r}")
        if len(self.sentences) < self.memory_size:
            slot = len(self.sentences)
            self.sentences.append(sentence)
            self.written.append(self._clock)
        else:
            slot = self.forget(self)
            for bucket in self._of(self.sentences[slot]):
                self._buckets[bucket].discard(slot)
            self.sentences[slot], self.written[slot] = sentence, self._clock
        for bucket in self._of(sentence):
            self._buckets.setdefault(bucket, set()).add(slot)
        self._clock += 1
        return slot

    @property
    def story(self) -> tuple[str, ...]:
        """Its sentences in the order of writing."""
        return tuple(self.sentences[slot] for slot in self._in_order(range(len(self.sentences))))

    def candidates(self, question: str) -> tuple[str, ...]:
        """The sentences that share a bucket with a question, in the order of writing.

        All of them without a hash, or if no sentence shares a bucket.
        """
        return tuple(self.sentences[slot] for slot in self.reached(question))

    def reached(self, *texts: str) -> list[int]:
        """The slots of the sentences that share a bucket with one of the texts, as `candidates`.

        The texts of the first hop are the question; those of a later one also what was found.
        """
        buckets = [self._buckets.get(bucket, set()) for text in texts for bucket in self._of(text)]
        found: set[int] = set().union(*buckets)
        return self._in_order(found or range(len(self.sentences)))

    def _of(self, sentence: str) -> frozenset[Any]:
        return frozenset() if self.hash_ is None else self.hash_(sentence)

    def _in_order(self, slots: Iterable[int]) -> list[int]:
        return sorted(slots, key=self.written.__getitem__)
