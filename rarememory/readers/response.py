"""R of a memory network: from a question and its supporting sentences to the answer."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from rarememory.base.validation import check_count, check_positive
from rarememory.readers.supporting import NONE


class WordResponse(nn.Module):
    """Answers by one word: the component R (Weston et al. 2014, section 3.1).

    s_R(x, w) = Phi_x(x)^T U_R^T U_R Phi_y(w) of every answer w, where x is the question and its
    supporting sentences, with rows of U_R of their own. `nonlinear` and `by_hop` are as in
    `SupportScorer`. How many supporting sentences there are is a feature of x too.

    Args:
        n_features: of a sentence.
        n_answers: that there are.
        hops: the most supporting sentences.
        dim: of the embeddings.
        nonlinear: apply tanh to the embedding of x.
        by_hop: tell the first supporting sentence from the second.
        seed: of the initial weights.

    Raises:
        ValueError: a number is less than 1.

    Example:
        >>> response = WordResponse(n_features=4, n_answers=3, hops=2)
        >>> bags, stories = torch.eye(4), torch.tensor([[0, 1, 2]])
        >>> response(bags, bags[3:], stories, torch.tensor([[1, -1]])).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        n_features: int,
        n_answers: int,
        hops: int = 2,
        *,
        dim: int = 50,
        nonlinear: bool = False,
        by_hop: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"n_features": n_features, "n_answers": n_answers, "hops": hops, "dim": dim}
        for name, count in counts.items():
            check_count(name, count)
        self.nonlinear = nonlinear
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(*shape, generator=generator))

        self.question = drawn(n_features, dim)
        self.found = drawn(hops if by_hop else 1, n_features, dim)
        self.count = drawn(hops + 1, dim)
        self.answer = drawn(n_answers, dim)

    def embedded(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        support: Int64[Tensor, "questions hops"],
    ) -> Float[Tensor, "questions dim"]:
        """U_R Phi_x of every question and its support."""
        x = questions @ self.question + self.count[(support != NONE).sum(1)]
        for hop, places in enumerate(support.unbind(1)):
            said = bags[stories.gather(1, places.clamp(min=0).unsqueeze(1)).squeeze(1)]
            there = (places != NONE).unsqueeze(1)
            x = x + there * (said @ self.found[min(hop, len(self.found) - 1)])
        return x.tanh() if self.nonlinear else x

    def forward(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        support: Int64[Tensor, "questions hops"],
    ) -> Float[Tensor, "questions answers"]:
        """The score of every answer.

        Args:
            bags: features of every sentence.
            questions: features of every question.
            stories: rows of `bags`, the latest first.
            support: slots of the supporting sentences in their order; NONE after the last.
        """
        return self.embedded(bags, questions, stories, support) @ self.answer.T


def ranking_loss(
    scores: Float[Tensor, "questions answers"],
    answers: Int64[Tensor, " questions"],
    margin: float = 0.1,
) -> Float[Tensor, " questions"]:
    """The sum over the wrong answers w of max(0, margin - s_R(x, r) + s_R(x, w)), of each question.

    Raises:
        ValueError: the margin is not positive.

    Example:
        >>> ranking_loss(torch.tensor([[1.0, 0.95, 0.5]]), torch.tensor([0]))
        tensor([0.0500])
    """
    check_positive("margin", margin)
    right = scores.gather(1, answers.unsqueeze(1))
    wrong = torch.arange(scores.shape[1]) != answers.unsqueeze(1)
    return (relu(margin - right + scores) * wrong).sum(1)


class SentenceResponse(nn.Module):
    """Answers by a sentence, word by word: an RNN as R (Weston et al. 2014, section 3.1).

    A recurrent network begins with what `WordResponse` embeds of the question and its support, and
    is given the word that it said last; word 0 begins and ends a sentence.

    Args:
        n_features: of a sentence.
        n_words: that it may say, word 0 among them.
        hops: the most supporting sentences.
        dim: of the state.
        seed: of the initial weights.

    Raises:
        ValueError: a number is less than 1.

    Example:
        >>> response = SentenceResponse(n_features=4, n_words=5)
        >>> bags, stories = torch.eye(4), torch.tensor([[0, 1, 2]])
        >>> response.said(bags, bags[3:], stories, torch.tensor([[1, -1]]), longest=3).shape
        torch.Size([1, 3])
    """

    def __init__(
        self, n_features: int, n_words: int, hops: int = 2, *, dim: int = 50, seed: int = 0
    ) -> None:
        super().__init__()
        self.reading = WordResponse(
            n_features, n_words, hops, dim=dim, nonlinear=True, by_hop=True, seed=seed
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.word = nn.Embedding(n_words, dim)
            self.cell = nn.GRUCell(dim, dim)

    def forward(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        support: Int64[Tensor, "questions hops"],
        words: Int64[Tensor, "questions longest"],
    ) -> Float[Tensor, "questions longest words"]:
        """The logits of each word of the right sentences, given the words before it."""
        state = self.reading.embedded(bags, questions, stories, support)
        before = torch.zeros_like(words[:, 0])
        logits = []
        for right in words.unbind(1):
            state = self.cell(self.word(before), state)
            logits.append(state @ self.reading.answer.T)
            before = right
        return torch.stack(logits, 1)

    def loss(
        self,
        logits: Float[Tensor, "questions longest words"],
        words: Int64[Tensor, "questions longest"],
    ) -> Float[Tensor, ""]:
        """The mean cross-entropy of the words, up to the 0 that ends each sentence."""
        # The first 0 is to be said; what follows it fills the sentence up.
        ended = ((words == 0).cumsum(1) > 1).flatten()
        targets = words.flatten().masked_fill(ended, -1)
        return cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1)

    @torch.no_grad()
    def said(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        support: Int64[Tensor, "questions hops"],
        longest: int = 10,
    ) -> Int64[Tensor, "questions longest"]:
        """The likeliest words one after another; 0 from the end of a sentence.

        Raises:
            ValueError: `longest` is less than 1.
        """
        check_count("longest", longest)
        state = self.reading.embedded(bags, questions, stories, support)
        word = torch.zeros(len(questions), dtype=torch.int64)
        going = torch.ones(len(questions), dtype=torch.bool)
        words = []
        for _ in range(longest):
            state = self.cell(self.word(word), state)
            word = (state @ self.reading.answer.T).argmax(1) * going
            going = going & (word != 0)
            words.append(word)
        return torch.stack(words, 1)
