"""Memory Networks (Weston et al. 2014, arXiv:1410.3916): I, G, O and R together."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from rarememory.base.validation import check_count
from rarememory.data.babi import StoryQuestion, words_of
from rarememory.readers.features import InputFeatures
from rarememory.readers.questions import UNKNOWN
from rarememory.readers.response import WordResponse
from rarememory.readers.slots import ClusterHash, StorySlots
from rarememory.readers.supporting import NONE, SupportScorer


class SupportedQuestions(NamedTuple):
    """Questions with their supporting sentences, in tensors.

    Attributes:
        bags: features of every different sentence and question once; row 0 is empty.
        stories: of each question the rows of its story, the LATEST FIRST.
        lengths: sentences of each story.
        questions: the row of each question.
        support: slots of the supporting sentences in their order; NONE after the last.
        answers: the place of each answer among those of the reader; UNKNOWN if it is not there.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> reader = MemNN.of([question])
        >>> reader.encoded([question]).support
        tensor([[0]])
    """

    bags: Float[Tensor, "sentences features"]
    stories: Int64[Tensor, "questions slots"]
    lengths: Int64[Tensor, " questions"]
    questions: Int64[Tensor, " questions"]
    support: Int64[Tensor, "questions hops"]
    answers: Int64[Tensor, " questions"]

    def at(self, rows: Int64[Tensor, " rows"]) -> "SupportedQuestions":
        """These questions only, with the sentences that they need."""
        lengths = self.lengths[rows]
        stories = self.stories[rows, : int(lengths.max())]
        needed, places = torch.cat([stories.flatten(), self.questions[rows]]).unique(
            return_inverse=True
        )
        return SupportedQuestions(
            self.bags[needed],
            places[: stories.numel()].view_as(stories),
            lengths,
            places[stories.numel() :],
            self.support[rows],
            self.answers[rows],
        )


class Answered(NamedTuple):
    """An answer and what it rests on.

    Attributes:
        answer: the word.
        support: the supporting sentences in the order found.

    Example:
        >>> Answered("here", ("Mary is here.",)).answer
        'here'
    """

    answer: str
    support: tuple[str, ...]


class MemNN(nn.Module):
    """A memory network that is trained with the supporting sentences of every answer.

    I turns sentences into features, G is a `StorySlots`, O (`self.output`) finds the supporting
    sentences, R (`self.response`) answers from the question and these.

    Args:
        features: the component I.
        answers: that there are.
        hops: the most supporting sentences.
        dim: of the embeddings U_O and U_R.
        adaptive: let the model end the support; see `SupportScorer`.
        nonlinear: apply tanh to the embeddings.
        by_hop: tell the first supporting sentence from the second.
        seed: of the initial weights.

    Raises:
        ValueError: there are no answers.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> reader, slots = MemNN.of([question]), StorySlots(memory_size=10)
        >>> _ = slots.write("Mary is here.")
        >>> reader.answer(slots, "Where is Mary?")
        Answered(answer='here', support=('Mary is here.',))
    """

    def __init__(
        self,
        features: InputFeatures,
        answers: Sequence[str],
        *,
        hops: int = 2,
        dim: int = 50,
        adaptive: bool = True,
        nonlinear: bool = False,
        by_hop: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not answers:
            raise ValueError("there are no answers to choose from")
        self.features, self.answers, self.hops = features, tuple(answers), hops
        self.output = SupportScorer(
            len(features),
            hops,
            dim=dim,
            adaptive=adaptive,
            nonlinear=nonlinear,
            by_hop=by_hop,
            seed=seed,
        )
        self.response = WordResponse(
            len(features),
            len(answers),
            hops,
            dim=dim,
            nonlinear=nonlinear,
            by_hop=by_hop,
            seed=seed + 1,
        )

    @classmethod
    def of(
        cls,
        questions: Iterable[StoryQuestion],
        *,
        n_grams: int = 1,
        contexts: bool = False,
        hops: int | None = None,
        **options: object,
    ) -> "MemNN":
        """A reader with the features and answers of these questions.

        Args:
            questions: to train on.
            n_grams: the longest n-gram that is a feature.
            contexts: whether unseen words are read by their contexts.
            hops: as many as the longest support has, if None.
            options: of `MemNN`.

        Raises:
            ValueError: a number is wrong, or there are no questions.

        Example:
            >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
            >>> MemNN.of([question], n_grams=3).hops
            1
        """
        questions = list(questions)
        check_count("number of questions", len(questions))
        sentences = dict.fromkeys(
            sentence for one in questions for sentence in (*one.story, one.question)
        )
        features = InputFeatures(sentences, n_grams=n_grams, contexts=contexts)
        answers = sorted({one.answer for one in questions})
        longest = max(1, *(len(one.support) for one in questions))
        return cls(features, answers, hops=longest if hops is None else hops, **options)  # type: ignore[arg-type]

    def encoded(
        self, questions: Sequence[StoryQuestion], hidden: frozenset[str] = frozenset()
    ) -> SupportedQuestions:
        """The questions in tensors.

        Args:
            questions: with or without support and answers.
            hidden: words that count as unseen.

        Raises:
            ValueError: a story is empty, or has an unseen word that cannot be read; a sentence or a
                question has no word.
        """
        rows: dict[str, int] = {"": 0}
        stories: list[list[int]] = []
        support: list[list[int]] = []
        for number, one in enumerate(questions, 1):
            if not one.story:
                raise ValueError(f"the story of question {number} is empty: {one.question!r}")
            latest_first = reversed(one.story)
            stories.append([rows.setdefault(sentence, len(rows)) for sentence in latest_first])
            support.append([len(one.story) - 1 - place for place in one.support][: self.hops])
        asked = [rows.setdefault(one.question, len(rows)) for one in questions]
        for text in [*rows][1:]:
            if not words_of(text):
                raise ValueError(f"there is no word in {text!r}")
        places = {answer: place for place, answer in enumerate(self.answers)}
        return SupportedQuestions(
            self.features.of(rows, hidden),
            _filled(stories, 0),
            torch.tensor([len(story) for story in stories]),
            torch.tensor(asked),
            _filled([*support, [NONE] * self.hops], NONE)[:-1],
            torch.tensor([places.get(one.answer, UNKNOWN) for one in questions]),
        )

    @torch.no_grad()
    def predicted(
        self,
        questions: SupportedQuestions,
        candidates: Bool[Tensor, "questions hops slots"] | None = None,
    ) -> tuple[Int64[Tensor, " questions"], Int64[Tensor, "questions hops"]]:
        """The place of each answer, and the slots of its support.

        Args:
            questions: to be answered.
            candidates: the slots that each hop may find; None for all.
        """
        bags, asked = questions.bags, questions.bags[questions.questions]
        support = self.output.support(bags, asked, questions.stories, questions.lengths, candidates)
        scores = self.response(bags, asked, questions.stories, support)
        return scores.max(dim=1).indices, support

    def answer(self, slots: StorySlots, question: str) -> Answered:
        """Answer from the sentences in memory.

        With a hash, the first hop looks at the sentences that share a bucket with the question, and
        a later one also at those that share one with what was found before.

        Raises:
            ValueError: the memory is empty, or a word is unseen and cannot be read.
        """
        reached: list[list[int]] = []
        answered = Answered("", ())
        for hop in range(self.hops):
            reached.append(slots.reached(question, *answered.support[:hop]))
            if hop == 0 or reached[-1] != reached[-2]:
                answered = self._answered(slots, question, reached)
        return answered

    def _answered(self, slots: StorySlots, question: str, reached: list[list[int]]) -> Answered:
        """The answer where each hop may find the slots that it reached, or the last before it."""
        order = sorted({slot for some in reached for slot in some}, key=slots.written.__getitem__)
        story = tuple(slots.sentences[slot] for slot in order)
        numbers = self.encoded([StoryQuestion(story, question, "")])
        latest_first = order[::-1]
        by_hop = [*reached, *[reached[-1]] * (self.hops - len(reached))]
        candidates = torch.tensor([[[one in some for one in latest_first] for some in by_hop]])
        places, support = self.predicted(numbers, candidates)
        found = [slots.sentences[latest_first[ago]] for ago in support[0].tolist() if ago != NONE]
        return Answered(self.answers[int(places[0])], tuple(found))

    def clusters(self, n: int, seed: int = 0) -> ClusterHash:
        """A hash by clusters of the words, as U_O embeds them in a sentence of the memory.

        Raises:
            ValueError: there are more clusters than words, or a number is wrong.

        Example:
            >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
            >>> len(MemNN.of([question]).clusters(2)("Where is Mary?")) in (1, 2)
            True
        """
        words = sorted(self.features.words)
        rows = [self.features.row_of(word) for word in words]
        return ClusterHash(words, self.output.candidate[rows], n, seed)


def _filled(rows: list[list[int]], value: int) -> Int64[Tensor, "rows longest"]:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
