"""Sentences as weighted sums of their words: bags of words, and position encoding."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.readers.questions import PADDING

ENCODINGS = ("position", "bag")
"""Position encoding, and a bag of words."""


class Bags(NamedTuple):
    """How often each word occurs in each sentence, and at what positions.

    Position encoding is m = sum_j l_j * (A x_j). Sukhbaatar et al. 2015, section 4.1, has
    l_kj = (1 - j/J) - (k/d) (1 - 2j/J) for word j of J and dimension k of d. This is what their
    code computes, which is twice that but for what gives it the mean 1, as a bag of words has:
    l_kj = 1 + s_k z_j with s_k = 4 (k - (d+1)/2) / d and z_j = (j - (J+1)/2) / J.
    So m is the sum of two products of matrices: one with the counts, one with the sums of z.

    Attributes:
        counts: how often a word occurs.
        positions: the sum of z over its occurrences.
        slope: s; zero for a bag of words.

    Example:
        >>> Bags.of(torch.tensor([[2, 1]]), n_words=3, encoding="position", dim=2).positions
        tensor([[ 0.0000,  0.2500, -0.2500]])
    """

    counts: Float[Tensor, "sentences words"]
    positions: Float[Tensor, "sentences words"]
    slope: Float[Tensor, " dim"]

    @classmethod
    def of(
        cls,
        sentences: Int64[Tensor, "sentences longest"],
        n_words: int,
        encoding: str,
        dim: int,
        length: int = 0,
    ) -> "Bags":
        """The bags of sentences, which are filled up with PADDING.

        Args:
            sentences: as numbers of words.
            n_words: of the vocabulary.
            encoding: one of ENCODINGS.
            dim: d.
            length: J of all sentences, as in the authors' code; 0 for the words of each.

        Raises:
            ValueError: there is no such encoding.

        Example:
            >>> Bags.of(torch.tensor([[2, 2, 1, 0]]), n_words=3, encoding="bag", dim=2).counts
            tensor([[0., 1., 2.]])
        """
        if encoding not in ENCODINGS:
            raise ValueError(f"the encoding is {' or '.join(ENCODINGS)}, not {encoding!r}")
        said = (sentences != PADDING).float()
        lengths = said.sum(1, keepdim=True).clamp(min=1)
        lengths = torch.full_like(lengths, length) if length else lengths
        z = (torch.arange(1, sentences.shape[1] + 1) - (lengths + 1) / 2) / lengths
        k = torch.arange(1, dim + 1) - (dim + 1) / 2
        slope = 4 * k / dim if encoding == "position" else torch.zeros(dim)
        empty = torch.zeros(len(sentences), n_words)
        return cls(
            empty.scatter_add(1, sentences, said),
            empty.scatter_add(1, sentences, said * z),
            slope,
        )

    def at(self, rows: Int64[Tensor, " rows"]) -> "Bags":
        """The bags of these sentences only."""
        return Bags(self.counts[rows], self.positions[rows], self.slope)

    def sums(
        self, words: Float[Tensor, "models *tables words dim"]
    ) -> Float[Tensor, "models *tables sentences dim"]:
        """The weighted sum of the embedded words of each sentence, by every table of embeddings."""
        if not self.slope.any():
            return self.counts @ words
        both = torch.cat([self.counts, self.positions]) @ words
        counted, placed = both.unflatten(-2, (2, -1)).unbind(-3)
        return torch.addcmul(counted, placed, self.slope)
