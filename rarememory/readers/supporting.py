"""O of a memory network: the sentences that an answer rests on, one after another."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import relu

from rarememory.base.validation import check_count, check_positive

NONE = -1
"""No sentence: where the supporting sentences are over."""
ALWAYS = -1
"""How long ago a question was asked: after every sentence."""


class SupportScorer(nn.Module):
    """Scores sentences as support: the component O (Weston et al. 2014, sections 3.1 and 3.4).

    s_O(x, y) = Phi_x(x)^T U^T U Phi_y(y), where x is the question and the support found so far. Its
    features have three parts, each with rows of U of its own: of y, of the question in x, of the
    sentences in x. Two candidates are compared with three features of time,

        s_Ot(x, y, y') = s_O(x, y) - s_O(x, y') + Phi_x(x)^T U^T U Phi_t(x, y, y'),

    which are 1 if x is older than y, x is older than y', and y is older than y'. In the place of
    argmax, the winner of one comparison after another is kept, from the latest sentence to the
    oldest, so that y is always the older one. With `adaptive`, a candidate that means "no further
    sentence" ends the support (Weston et al. 2015, arXiv:1502.05698). With `nonlinear`, a tanh is
    applied to both embeddings; with `by_hop`, the sentences in x have rows of U for each hop.

    Args:
        n_features: of a sentence.
        hops: the most sentences of a support.
        dim: of the embeddings.
        adaptive: end the support where the model says so, rather than after `hops`.
        nonlinear: apply tanh to the embeddings.
        by_hop: tell the first supporting sentence from the second.
        seed: of the initial weights.

    Raises:
        ValueError: a number is less than 1.

    Example:
        >>> scorer = SupportScorer(n_features=4, hops=2)
        >>> bags = torch.eye(4)
        >>> stories, lengths = torch.tensor([[0, 1, 2]]), torch.tensor([3])
        >>> scorer.support(bags, bags[3:], stories, lengths).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        n_features: int,
        hops: int = 2,
        *,
        dim: int = 50,
        adaptive: bool = True,
        nonlinear: bool = False,
        by_hop: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (("n_features", n_features), ("hops", hops), ("dim", dim)):
            check_count(name, count)
        self.hops, self.adaptive, self.nonlinear = hops, adaptive, nonlinear
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(*shape, generator=generator))

        self.candidate = drawn(n_features, dim)
        self.question = drawn(n_features, dim)
        self.found = drawn(hops if by_hop else 1, n_features, dim)
        self.hop = drawn(hops + 1, dim)
        self.time = drawn(3, dim)
        self.end = drawn(dim)

    def embedded(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """tanh where nonlinear."""
        return x.tanh() if self.nonlinear else x

    def asking(
        self, questions: Float[Tensor, "questions features"]
    ) -> Float[Tensor, "questions dim"]:
        """U Phi_x of the questions alone, without tanh."""
        return questions @ self.question

    def having_found(
        self, sentences: Float[Tensor, "questions features"], hop: int
    ) -> Float[Tensor, "questions dim"]:
        """U Phi_x of the sentence that a hop found, to be added."""
        return sentences @ self.found[min(hop, len(self.found) - 1)]

    def at_hop(self, x: Float[Tensor, "questions dim"], hop: int) -> Float[Tensor, "questions dim"]:
        """The embedding of x that a hop scores by."""
        return self.embedded(x + self.hop[hop])

    def preference(
        self,
        x: Float[Tensor, "questions dim"],
        x_ago: Int64[Tensor, " questions"],
        score: Float[Tensor, "questions #pairs"],
        other_score: Float[Tensor, "questions #pairs"],
        ago: Int64[Tensor, "questions #pairs"],
        other_ago: Int64[Tensor, "questions #pairs"],
    ) -> Float[Tensor, "questions pairs"]:
        """s_Ot(x, y, y') for an older y and a later y'; positive if y is preferred.

        Args:
            x: its embeddings.
            x_ago: how long ago the last of x was said.
            score: s_O(x, y).
            other_score: s_O(x, y').
            ago: how long ago y was said.
            other_ago: how long ago y' was said.
        """
        by_time: Tensor = x @ self.time.T
        older, older_than_other, between = by_time.split(1, dim=1)
        x_ago = x_ago.unsqueeze(1)
        preferred: Tensor = score - other_score
        preferred = preferred + older * (x_ago > ago) + older_than_other * (x_ago > other_ago)
        preferred = preferred + between * (ago > other_ago)
        return preferred

    def end_score(self, x: Float[Tensor, "questions dim"]) -> Float[Tensor, " questions"]:
        """The score of "no further sentence"."""
        score: Tensor = x @ self.embedded(self.end)
        return score

    def alone(
        self,
        x: Float[Tensor, "questions dim"],
        x_ago: Int64[Tensor, " questions"],
        scores: Float[Tensor, "questions slots"],
    ) -> Float[Tensor, "questions slots"]:
        """Scores beside `end_score`: with the feature of time that needs no other sentence."""
        slots = torch.arange(scores.shape[1])
        return scores + (x @ self.time[:1].T) * (x_ago.unsqueeze(1) > slots)

    def support(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        lengths: Int64[Tensor, " questions"],
        candidates: Bool[Tensor, "questions hops slots"] | None = None,
    ) -> Int64[Tensor, "questions hops"]:
        """The places in the stories of the supporting sentences, in the order found; NONE after.

        Args:
            bags: features of every sentence.
            questions: features of every question.
            stories: rows of `bags`, the latest first.
            lengths: of the stories.
            candidates: the slots that each hop may find, as a hash chooses them; None for all.
        """
        values = self.embedded(bags @ self.candidate)[stories]
        free = torch.arange(stories.shape[1]) < lengths.unsqueeze(1)
        x, x_ago = self.asking(questions), torch.full_like(lengths, ALWAYS)
        going = torch.ones(len(stories), dtype=torch.bool)
        found = []
        for hop in range(self.hops):
            embedded = self.at_hop(x, hop)
            scores = torch.einsum("bd,bmd->bm", embedded, values)
            allowed = free if candidates is None else free & candidates[:, hop]
            best = self.winner(embedded, x_ago, scores, allowed)
            going = going & (best != NONE)
            place = best.clamp(min=0).unsqueeze(1)
            if self.adaptive and hop:
                score = self.alone(embedded, x_ago, scores).gather(1, place).squeeze(1)
                going = going & (score > self.end_score(embedded))
            found.append(best.masked_fill(~going, NONE))
            said = bags[stories.gather(1, place).squeeze(1)] * going.unsqueeze(1)
            x = x + self.having_found(said, hop)
            x_ago = torch.where(going, best, x_ago)
            free = free.scatter(1, place, free.gather(1, place) & ~going.unsqueeze(1))
        return torch.stack(found, 1)

    def winner(
        self,
        x: Float[Tensor, "questions dim"],
        x_ago: Int64[Tensor, " questions"],
        scores: Float[Tensor, "questions slots"],
        free: Bool[Tensor, "questions slots"],
    ) -> Int64[Tensor, " questions"]:
        """The slot that wins: each slot meets the winner of the later ones, who stays on a tie."""
        best = torch.full((len(scores),), NONE)
        for slot in range(scores.shape[1]):
            keeper = best.clamp(min=0).unsqueeze(1)
            ago = torch.full_like(keeper, slot)
            preferred = self.preference(
                x, x_ago, scores[:, slot : slot + 1], scores.gather(1, keeper), ago, keeper
            ).squeeze(1)
            wins = free[:, slot] & ((best == NONE) | (preferred > 0))
            best = best.masked_fill(wins, slot)
        return best

    def loss(
        self,
        bags: Float[Tensor, "sentences features"],
        questions: Float[Tensor, "questions features"],
        stories: Int64[Tensor, "questions slots"],
        lengths: Int64[Tensor, " questions"],
        support: Int64[Tensor, "questions support"],
        margin: float = 0.1,
        sampled: Bool[Tensor, "questions slots"] | None = None,
    ) -> Float[Tensor, " questions"]:
        """The margin ranking loss of every question, summed over the hops and the negatives.

        Of each hop: sum over y' of max(0, margin - s_Ot(x, y, y')) where the right y is older than
        y', and of max(0, margin + s_Ot(x, y', y)) where y' is; and of the same against "no further
        sentence", which is right after the last. x has the right sentences of the hops before.

        Args:
            bags: features of every sentence.
            questions: features of every question.
            stories: rows of `bags`, the latest first.
            lengths: of the stories.
            support: the right slots in their order; NONE after the last.
            margin: of the ranking.
            sampled: the negatives that count; None for all.

        Raises:
            ValueError: the margin is not positive.
        """
        check_positive("margin", margin)
        values = self.embedded(bags @ self.candidate)[stories]
        slots = torch.arange(stories.shape[1]).expand_as(stories)
        free = slots < lengths.unsqueeze(1)
        counts = free if sampled is None else free & sampled
        x, x_ago = self.asking(questions), torch.full_like(lengths, ALWAYS)
        total = questions.new_zeros(len(questions))
        for hop in range(min(self.hops, support.shape[1]) + 1):
            right = support[:, hop] if hop < support.shape[1] else torch.full_like(lengths, NONE)
            right = right if hop < self.hops else torch.full_like(lengths, NONE)
            has = (right != NONE).unsqueeze(1)
            place = right.clamp(min=0).unsqueeze(1)
            embedded = self.at_hop(x, hop)
            scores = torch.einsum("bd,bmd->bm", embedded, values)
            best = scores.gather(1, place)
            older = self.preference(embedded, x_ago, best, scores, place, slots)
            later = self.preference(embedded, x_ago, scores, best, slots, place)
            ranked = torch.where(place > slots, relu(margin - older), relu(margin + later))
            total = total + (ranked * (counts & has & (slots != place))).sum(1)
            if self.adaptive and hop:
                beyond = self.alone(embedded, x_ago, scores) - self.end_score(embedded).unsqueeze(1)
                ended = (relu(margin + beyond) * (counts & ~has)).sum(1)
                goes_on = relu(margin - beyond.gather(1, place)).squeeze(1)
                # A support that ended at an earlier hop says nothing of this one.
                ends_here = support[:, hop - 1] != NONE
                total = total + torch.where(has.squeeze(1), goes_on, ended * ends_here)
            said = bags[stories.gather(1, place).squeeze(1)] * has
            x = x + self.having_found(said, hop)
            x_ago = torch.where(has.squeeze(1), right, x_ago)
            taken = has & (slots == place)
            free, counts = free & ~taken, counts & ~taken
        return total
