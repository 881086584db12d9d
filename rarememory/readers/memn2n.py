"""End-To-End Memory Networks (Sukhbaatar et al. 2015, arXiv:1503.08895), several models at once.

A model answers a question in hops: the question attends to the sentences of its story, what they
hold is added to it, and the sum attends again. All models of a module read the same questions in
one batch, which is how the restarts of a training cost little more than one of them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn

from rarememory.base.validation import check_count, check_seed
from rarememory.readers.encoding import ENCODINGS, Bags
from rarememory.readers.questions import Questions

TYINGS = ("adjacent", "layer-wise")
_OPTIONS = (
    "n_words", "memory_size", "hops", "dim", "models", "tying", "encoding", "temporal",
    "nonlinear", "sentence_length", "empty_slots",
)  # fmt: skip


class Reading(NamedTuple):
    """What the models answered.

    Attributes:
        logits: of every word of the vocabulary as the answer.
        attention: of each hop the weight of every sentence, the latest first; 0 beyond the story.

    Example:
        >>> Reading(torch.tensor([[[0.1, 0.9]]]), torch.ones(1, 1, 1, 1)).prediction
        tensor([[1]])
    """

    logits: Float[Tensor, "models questions words"]
    attention: Float[Tensor, "hops models questions slots"]

    @property
    def prediction(self) -> Int64[Tensor, "models questions"]:
        """The likeliest word, the lowest of equally likely ones."""
        return self.logits.max(dim=-1).indices


class MemN2N(nn.Module):
    """A memory network of K hops that is trained from answers alone.

    Hop k reads m_i = A^k x_i + T_A^k(i) and c_i = C^k x_i + T_C^k(i) of every sentence x_i
    (sections 2 and 4.1): p = softmax(u^T m), o = sum_i p_i c_i, and u + o, or H u + o in layer-wise
    tying, is the u of the next hop. u is B q at first, and the answer is softmax(W u) at last.

    `tables` holds A, C, B and W^T as the tying shares them. The rows of a table are the words and
    after them the times, by how long ago a sentence was said: the time index is reversed.

    Args:
        n_words: of the vocabulary, with one for padding.
        memory_size: sentences that a story may have.
        hops: K.
        dim: of the embeddings.
        models: how many are held, and trained, at once.
        tying: "adjacent" (A^(k+1) = C^k, W^T = C^K, B = A^1) or "layer-wise" (all hops have the
            same A and C, and a matrix H maps u between them).
        encoding: "position" or "bag": how the words of a sentence are weighed.
        temporal: add T_A and T_C.
        nonlinear: apply ReLU after each hop.
        sentence_length: J of the position encoding, the same for every sentence, as in the authors'
            code; 0 for the words of each sentence, as in the paper.
        empty_slots: let the slots that a story leaves empty take part in the softmax, as in the
            authors' code: their score is 0, and they hold nothing.
        seed: of the initial weights, from a normal distribution of standard deviation 0.1.

    Raises:
        ValueError: a number is less than 1, or there is no such tying or encoding.

    Example:
        >>> from rarememory.data.babi import StoryQuestion
        >>> from rarememory.readers import Vocabulary, encode_questions
        >>> question = StoryQuestion(("Mary is here.", "Bob is there."), "Where is Mary?", "here")
        >>> vocabulary = Vocabulary.of([question])
        >>> reader = MemN2N(len(vocabulary), memory_size=50, models=10)
        >>> reading = reader(encode_questions([question], vocabulary, memory_size=50))
        >>> reading.prediction.shape, reading.attention.shape
        (torch.Size([10, 1]), torch.Size([3, 10, 1, 2]))
    """

    def __init__(
        self,
        n_words: int,
        memory_size: int,
        *,
        hops: int = 3,
        dim: int = 20,
        models: int = 1,
        tying: str = "adjacent",
        encoding: str = "position",
        temporal: bool = True,
        nonlinear: bool = False,
        sentence_length: int = 0,
        empty_slots: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"n_words": n_words, "memory_size": memory_size, "hops": hops, "dim": dim}
        for name, number in {**counts, "models": models}.items():
            check_count(name, number)
        check_seed(seed)
        for name, value, choices in (("tying", tying, TYINGS), ("encoding", encoding, ENCODINGS)):
            if value not in choices:
                raise ValueError(f"the {name} is {' or '.join(choices)}, not {value!r}")
        self.n_words, self.memory_size = n_words, memory_size
        self.hops, self.dim, self.models = hops, dim, models
        self.tying, self.encoding = tying, encoding
        self.temporal, self.nonlinear = temporal, nonlinear
        self.sentence_length, self.empty_slots = sentence_length, empty_slots
        generator = Generator().manual_seed(seed)
        n_tables = hops + 1 if tying == "adjacent" else 4
        shape = (models, n_tables, n_words + memory_size, dim)
        self.tables = nn.Parameter(0.1 * torch.randn(shape, generator=generator))
        between = 0.1 * torch.randn(models, dim, dim, generator=generator)
        self.between = nn.Parameter(between) if tying == "layer-wise" else None

    @property
    def options(self) -> dict[str, int | str | bool]:
        """The arguments that it was made of, but for the seed."""
        return {name: getattr(self, name) for name in _OPTIONS}

    @property
    def key_tables(self) -> list[int]:
        """The place of A in `tables`, of each hop."""
        return [0] * self.hops if self.tying == "layer-wise" else list(range(self.hops))

    @property
    def value_tables(self) -> list[int]:
        """The place of C in `tables`, of each hop."""
        return [1] * self.hops if self.tying == "layer-wise" else list(range(1, self.hops + 1))

    @property
    def question_table(self) -> int:
        """The place of B in `tables`."""
        return 2 if self.tying == "layer-wise" else 0

    @property
    def answer_table(self) -> int:
        """The place of the transpose of W in `tables`."""
        return 3 if self.tying == "layer-wise" else self.hops

    def bags(self, sentences: Int64[Tensor, "sentences longest"]) -> Bags:
        """The bags of words that this reader embeds; `forward` takes them if they are at hand."""
        return Bags.of(sentences, self.n_words, self.encoding, self.dim, self.sentence_length)

    def only(self, model: int) -> "MemN2N":
        """A reader of this one of the models, with a copy of its weights."""
        one = MemN2N(**{**self.options, "models": 1})  # type: ignore[arg-type]
        with torch.no_grad():
            for mine, ours in zip(one.parameters(), self.parameters(), strict=True):
                mine.copy_(ours[model : model + 1])
        return one

    def forward(
        self,
        questions: Questions,
        times: Int64[Tensor, "questions slots"] | None = None,
        linear: Bool[Tensor, " models"] | None = None,
        bags: Bags | None = None,
    ) -> Reading:
        """Answer every question by every model.

        Args:
            questions: with stories of at most `memory_size` sentences.
            times: how long ago each sentence counts as said; None for its column.
            linear: models that attend without the softmax, as in the linear start.
            bags: of `questions.sentences`, if they are at hand.

        Raises:
            ValueError: a story has more sentences than `memory_size`.
        """
        longest = int(questions.lengths.max())
        if longest > self.memory_size:
            raise ValueError(
                f"a story has {longest} sentences, and the memory has {self.memory_size} slots"
            )
        bags = self.bags(questions.sentences) if bags is None else bags
        words, ago = self.tables.split([self.n_words, self.memory_size], 2)
        by_word = words.unbind(1)
        # A batch has the same sentences in many stories: each is embedded once.
        rows, stories = _distinct(questions.stories[:, :longest], len(questions.sentences))
        memory = bags.at(rows).sums(words)
        if self.temporal:
            slots = torch.arange(longest).expand_as(stories) if times is None else times
            stories = torch.cat([stories, len(rows) + slots[:, :longest]], 1)
            memory = torch.cat([memory, ago], 2)
        by_table = memory.unbind(1)
        held = torch.arange(longest) < questions.lengths.unsqueeze(1)
        places = stories.expand(self.models, *stories.shape)
        empty = self.memory_size - questions.lengths if self.empty_slots else None

        u = bags.at(questions.questions).sums(by_word[self.question_table])
        attention = []
        for a, c in zip(self.key_tables, self.value_tables, strict=True):
            p = _attention(u @ by_table[a].mT, places, held, linear, empty)
            u = self._between(u) + _weighted(p, places, by_table[c])
            if self.nonlinear:
                u = u.relu()
            attention.append(p)
        return Reading(u @ by_word[self.answer_table].mT, torch.stack(attention))

    def _between(
        self, u: Float[Tensor, "models questions dim"]
    ) -> Float[Tensor, "models questions dim"]:
        if self.between is None:
            return u
        mapped: Tensor = u @ self.between.mT
        return mapped


def _distinct(
    stories: Int64[Tensor, "questions slots"], n: int
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, "questions slots"]]:
    """The sentences that occur, of n, and the stories as numbers of these."""
    occurs = torch.zeros(n, dtype=torch.bool)
    occurs[stories] = True
    return occurs.nonzero().squeeze(1), (occurs.cumsum(0) - 1)[stories]


def _attention(
    scores: Float[Tensor, "models questions rows"],
    places: Int64[Tensor, "models questions places"],
    held: Bool[Tensor, "questions slots"],
    linear: Bool[Tensor, " models"] | None,
    empty: Int64[Tensor, " questions"] | None,
) -> Float[Tensor, "models questions slots"]:
    """Softmax over the sentences of each story; the scores themselves where linear."""
    # A slot has the score of its sentence, and of the time at which that was said.
    by_slot: Tensor = scores.gather(2, places).unflatten(2, (-1, held.shape[1])).sum(2)
    bare = by_slot * held
    if linear is not None and linear.all():
        return bare
    by_slot = by_slot.masked_fill(~held, -torch.inf)
    if empty is not None:
        # e^0 of each empty slot: one more column with the logarithm of their sum.
        beside = empty.log().expand(len(scores), -1).unsqueeze(2)
        by_slot = torch.cat([by_slot, beside], 2)
    soft = by_slot.softmax(-1)[:, :, : held.shape[1]]
    return soft if linear is None else torch.where(linear[:, None, None], bare, soft)


def _weighted(
    p: Float[Tensor, "models questions slots"],
    places: Int64[Tensor, "models questions places"],
    memory: Float[Tensor, "models rows dim"],
) -> Float[Tensor, "models questions dim"]:
    """The sum of p_i c_i, where c_i is of a sentence and of its time."""
    parts = places.shape[2] // p.shape[2]
    weights = p.new_zeros(*p.shape[:2], memory.shape[1])
    return weights.scatter_add(2, places, p.repeat(1, 1, parts)) @ memory
