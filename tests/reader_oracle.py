"""End-To-End Memory Networks (Sukhbaatar et al. 2015) in plain loops over numbers.

Every number is a torch scalar of float64, so that the loops have gradients; no tensor is ever
multiplied by another. It imports nothing of the package: it judges. "The code" is the authors'.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Vector = list[Tensor]
Words = list[int]


def dot(x: Vector, y: Vector) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(x, y, strict=True):
        total = total + a * b
    return total


def added(x: Vector, y: Vector) -> Vector:
    return [a + b for a, b in zip(x, y, strict=True)]


def softmax(scores: Vector) -> Vector:
    exponentials = [torch.exp(score) for score in scores]
    total = torch.zeros((), dtype=torch.float64)
    for one in exponentials:
        total = total + one
    return [one / total for one in exponentials]


def position_weight(k: int, j: int, d: int, J: int) -> float:
    """l_kj of the code: 1 + 4 (k - (d+1)/2) (j - (J+1)/2) / (d J), j and k from 1."""
    return 1 + 4 * (k - (d + 1) / 2) * (j - (J + 1) / 2) / (d * J)


def paper_position_weight(k: int, j: int, d: int, J: int) -> float:
    """l_kj of the paper, section 4.1."""
    return (1 - j / J) - (k / d) * (1 - 2 * j / J)


def embedded(sentence: Words, table: Tensor, encoding: str, J: int = 0) -> Vector:
    """sum_j l_j * A x_j; J is the length of the sentence, or one for all."""
    d, J = table.shape[1], J or len(sentence)
    total = [torch.zeros((), dtype=torch.float64) for _ in range(d)]
    for j, word in enumerate(sentence, 1):
        for k in range(1, d + 1):
            weight = position_weight(k, j, d, J) if encoding == "position" else 1.0
            total[k - 1] = total[k - 1] + weight * table[word, k - 1]
    return total


def answered(
    story: list[Words],
    question: Words,
    tables: Tensor,
    *,
    hops: int,
    n_words: int,
    tying: str = "adjacent",
    encoding: str = "position",
    temporal: bool = True,
    nonlinear: bool = False,
    linear: bool = False,
    between: Tensor | None = None,
    sentence_length: int = 0,
    empty: int = 0,
    times: list[int] | None = None,
) -> tuple[Vector, list[Vector]]:
    """The logits of all words, and of each hop the attention, of one question by one model.

    Args:
        story: the oldest sentence first.
        tables: [table, row, dim]; row n_words + i is of the time i.
        empty: slots of score 0 that hold nothing.
        times: of each sentence how long ago it was said; None for its place from the last.
    """
    if times is None:
        times = [len(story) - 1 - i for i in range(len(story))]
    u = embedded(question, tables[2 if tying == "layer-wise" else 0], encoding, sentence_length)
    attention = []
    for hop in range(hops):
        a, c = (tables[0], tables[1]) if tying == "layer-wise" else (tables[hop], tables[hop + 1])
        keys = [embedded(sentence, a, encoding, sentence_length) for sentence in story]
        values = [embedded(sentence, c, encoding, sentence_length) for sentence in story]
        if temporal:
            keys = [added(m, list(a[n_words + t])) for m, t in zip(keys, times, strict=True)]
            values = [added(m, list(c[n_words + t])) for m, t in zip(values, times, strict=True)]
        scores = [dot(u, m) for m in keys]
        nothing = [torch.zeros((), dtype=torch.float64)] * empty
        p = scores if linear else softmax([*scores, *nothing])[: len(scores)]
        if between is not None:
            u = [dot(list(row), u) for row in between]
        for weight, value in zip(p, values, strict=True):
            u = added(u, [weight * one for one in value])
        if nonlinear:
            u = [torch.maximum(one, torch.zeros_like(one)) for one in u]
        attention.append(p)
    answers = tables[3 if tying == "layer-wise" else hops]
    return [dot(list(answers[word]), u) for word in range(n_words)], attention


def negative_log_likelihood(logits: Vector, answer: int) -> Tensor:
    return -torch.log(softmax(logits)[answer])


def clipped(gradient: Tensor, clip: float) -> list[list[float]]:
    """The gradient of one matrix, shortened to this spectral norm if it has a greater one."""
    rows = [[float(x) for x in row] for row in gradient]
    direction = [1.0 + place for place in range(len(rows[0]))]
    norm = 0.0
    # How much longer the matrix makes a direction, at most: power iteration with G^T G.
    for _ in range(200):
        length = math.hypot(*direction)
        direction = [x / length for x in direction]
        image = [math.fsum(x * d for x, d in zip(row, direction, strict=True)) for row in rows]
        norm = math.hypot(*image)
        columns = zip(*rows, strict=True)
        direction = [math.fsum(x * y for x, y in zip(c, image, strict=True)) for c in columns]
    factor = clip / norm if norm > clip else 1.0
    return [[x * factor for x in row] for row in rows]


def hinge(x: Tensor) -> Tensor:
    return torch.maximum(x, torch.zeros_like(x))


def scored(x: Vector, y: Vector) -> Tensor:
    """s(x, y) of embedded x and y: Phi_x^T U^T U Phi_y (Weston et al. 2014, section 3.1)."""
    return dot(x, y)


def preferred(
    x: Vector, y: Vector, other: Vector, time: list[Vector], x_ago: int, ago: int, other_ago: int
) -> Tensor:
    """s_Ot(x, y, y') (section 3.4): how long ago something was said is its age."""
    total = scored(x, y) - scored(x, other)
    features = (x_ago > ago, x_ago > other_ago, ago > other_ago)
    for feature, row in zip(features, time, strict=True):
        if feature:
            total = total + dot(x, row)
    return total


def winner_keeps(count: int, beats: Callable[[int, int], bool]) -> int:
    """Section 3.4 in the place of argmax: the winner of one candidate after another."""
    best = 0
    for challenger in range(1, count):
        if beats(challenger, best):
            best = challenger
    return best


class Support(NamedTuple):
    """The weights of O (Weston et al. 2014, sections 3.1 and 3.4), and its options."""

    candidate: Tensor
    question: Tensor
    found: Tensor
    hop: Tensor
    time: Tensor
    end: Tensor
    nonlinear: bool
    adaptive: bool

    def candidates(self, story: list[Vector]) -> list[Vector]:
        return [squashed(projected(one, self.candidate), self.nonlinear) for one in story]

    def asked(self, question: Vector, found: list[Vector], hop: int) -> Vector:
        """U Phi_x of the question and of what was found: three parts of features, three tables."""
        x = added(projected(question, self.question), list(self.hop[hop]))
        for place, sentence in enumerate(found):
            x = added(x, projected(sentence, self.found[min(place, len(self.found) - 1)]))
        return squashed(x, self.nonlinear)

    def preferred(self, x: Vector, y: Vector, other: Vector, *times: int) -> Tensor:
        return preferred(x, y, other, [list(row) for row in self.time], *times)

    def beyond_end(self, x: Vector, y: Vector, x_ago: int, ago: int) -> Tensor:
        """How far y is above "no further sentence"; the one feature of time is x older than y."""
        score = scored(x, y) - scored(x, squashed(list(self.end), self.nonlinear))
        return score + dot(x, list(self.time[0])) if x_ago > ago else score


def projected(features: Vector, table: Tensor) -> Vector:
    total = [torch.zeros((), dtype=torch.float64) for _ in range(table.shape[1])]
    for feature, row in zip(features, table, strict=True):
        total = [a + feature * b for a, b in zip(total, row, strict=True)]
    return total


def squashed(x: Vector, nonlinear: bool) -> Vector:
    return [torch.tanh(one) for one in x] if nonlinear else x


def supported(weights: Support, question: Vector, story: list[Vector], hops: int) -> list[int]:
    """The places of the support in a story, the latest sentence first."""
    candidates, left, found, x_ago = weights.candidates(story), list(range(len(story))), [], -1
    for hop in range(hops):
        if not left:
            break
        x = weights.asked(question, [story[place] for place in found], hop)

        def beats(one: int, keeper: int, x=x, x_ago=x_ago) -> bool:
            old, new = left[one], left[keeper]
            return bool(weights.preferred(x, candidates[old], candidates[new], x_ago, old, new) > 0)

        best = left[winner_keeps(len(left), beats)]
        if weights.adaptive and hop and weights.beyond_end(x, candidates[best], x_ago, best) <= 0:
            break
        left.remove(best)
        found.append(best)
        x_ago = best
    return found


def support_loss(
    weights: Support,
    question: Vector,
    story: list[Vector],
    right: list[int],
    hops: int,
    margin: float,
) -> Tensor:
    """The ranking loss of all hops: of each right sentence against all that are left.

    With `adaptive`, also of it against "no further sentence", and of that, once all are found,
    against every sentence that is left.
    """
    total = torch.zeros((), dtype=torch.float64)
    candidates, left, x_ago = weights.candidates(story), list(range(len(story))), -1
    for hop, place in enumerate(right[:hops]):
        x = weights.asked(question, [story[one] for one in right[:hop]], hop)
        for other in left:
            if other != place:
                old, new = max(place, other), min(place, other)
                s = weights.preferred(x, candidates[old], candidates[new], x_ago, old, new)
                total = total + (hinge(margin - s) if old == place else hinge(margin + s))
        if weights.adaptive and hop:
            beyond = weights.beyond_end(x, candidates[place], x_ago, place)
            total = total + hinge(margin - beyond)
        left.remove(place)
        x_ago = place
    if weights.adaptive:
        x = weights.asked(question, [story[one] for one in right[:hops]], len(right[:hops]))
        for other in left:
            total = total + hinge(margin + weights.beyond_end(x, candidates[other], x_ago, other))
    return total


def response(
    question: Vector,
    support: list[Vector],
    tables: tuple[Tensor, Tensor, Tensor, Tensor],
    nonlinear: bool,
) -> Vector:
    """s_R of every answer: of the tables of the question, the support, its length, the answers."""
    of_question, of_found, of_count, of_answers = tables
    x = added(projected(question, of_question), list(of_count[len(support)]))
    for place, sentence in enumerate(support):
        x = added(x, projected(sentence, of_found[min(place, len(of_found) - 1)]))
    x = squashed(x, nonlinear)
    return [scored(x, list(row)) for row in of_answers]


def answer_loss(x: Vector, answers: list[Vector], right: int, margin: float) -> Tensor:
    """The ranking loss of R (section 3.1)."""
    total = torch.zeros((), dtype=torch.float64)
    for word, embedding in enumerate(answers):
        if word != right:
            total = total + hinge(margin - scored(x, answers[right]) + scored(x, embedding))
    return total
