"""End-To-End Memory Networks (Sukhbaatar et al. 2015) in plain loops over numbers.

Every number is a torch scalar of float64, so that the loops have gradients; no tensor is ever
multiplied by another. It imports nothing of the package: it judges. "The code" is the authors'.
"""

import math
from collections.abc import Callable

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


def support_loss(
    x: Vector,
    story: list[Vector],
    right: int,
    time: list[Vector],
    x_ago: int,
    margin: float,
) -> Tensor:
    """The ranking loss of one hop, of a right sentence against all others of its story.

    Args:
        story: embedded candidates, the latest first, so that a place is how long ago it was said.
    """
    total = torch.zeros((), dtype=torch.float64)
    for other in range(len(story)):
        if other == right:
            continue
        old, new = max(right, other), min(right, other)
        s = preferred(x, story[old], story[new], time, x_ago, old, new)
        total = total + (hinge(margin - s) if old == right else hinge(margin + s))
    return total


def answer_loss(x: Vector, answers: list[Vector], right: int, margin: float) -> Tensor:
    """The ranking loss of R (section 3.1)."""
    total = torch.zeros((), dtype=torch.float64)
    for word, embedding in enumerate(answers):
        if word != right:
            total = total + hinge(margin - scored(x, answers[right]) + scored(x, embedding))
    return total
