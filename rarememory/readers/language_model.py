"""The language model of End-To-End Memory Networks: the memory is the words before."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from rarememory.base.validation import check_count, check_positive, check_seed

QUERY = 0.1
"""The first u, in every dimension: a language model has no question."""


class MemoryLanguageModel(nn.Module):
    """Predicts the next word from the words before (Sukhbaatar et al. 2015, section 5).

    Each word before is a slot. The hops share A and C, u becomes H u + o, ReLU is applied to half
    of the dimensions of u after each hop, and the first u is the constant QUERY.

    Args:
        n_words: of the vocabulary.
        memory_size: words before the one that is predicted.
        hops: how many.
        dim: of the embeddings.
        seed: of the initial weights, from a normal distribution of standard deviation 0.05.

    Raises:
        ValueError: a number is less than 1.

    Example:
        >>> model = MemoryLanguageModel(n_words=9, memory_size=4, hops=2, dim=6)
        >>> model(torch.tensor([[1, 2, 3, 4]])).shape
        torch.Size([1, 9])
    """

    def __init__(
        self, n_words: int, memory_size: int = 100, *, hops: int = 6, dim: int = 150, seed: int = 0
    ) -> None:
        super().__init__()
        counts = {"n_words": n_words, "memory_size": memory_size, "hops": hops, "dim": dim}
        for name, number in counts.items():
            check_count(name, number)
        check_seed(seed)
        self.n_words, self.memory_size, self.hops, self.dim = n_words, memory_size, hops, dim
        generator = Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.05 * torch.randn(*shape, generator=generator))

        # A and C, T_A and T_C side by side.
        self.words, self.times = drawn(n_words, 2, dim), drawn(memory_size, 2, dim)
        self.between, self.answer = drawn(dim, dim), drawn(n_words, dim)

    def forward(
        self, words: Int64[Tensor, "windows memory_size"]
    ) -> Float[Tensor, "windows n_words"]:
        """The logits of the word after each window; the last column is the latest word."""
        # Time is how long ago a word was said.
        ago = self.times.flip(0)
        keys, values = (self.words[words] + ago).unbind(2)
        u = torch.full((len(words), self.dim), QUERY)
        linear = self.dim - self.dim // 2
        for _ in range(self.hops):
            p = (keys @ u.unsqueeze(2)).squeeze(2).softmax(1)
            u = u @ self.between.T + (p.unsqueeze(1) @ values).squeeze(1)
            u = torch.cat([u[:, :linear], u[:, linear:].relu()], 1)
        return u @ self.answer.T


class Perplexities(NamedTuple):
    """How a language model was trained.

    Attributes:
        train: perplexity while it learnt, of each epoch.
        validation: perplexity after each epoch.
        words: of the vocabulary.

    Example:
        >>> Perplexities([9.0], [8.0], ("a", "b")).validation
        [8.0]
    """

    train: list[float]
    validation: list[float]
    words: tuple[str, ...]


def train_language_model(
    text: str,
    *,
    epochs: int = 10,
    memory_size: int = 50,
    hops: int = 3,
    dim: int = 64,
    batch: int = 64,
    learning_rate: float = 0.02,
    clip: float = 50.0,
    validation_part: float = 0.1,
    seed: int = 0,
    watch: Callable[[int, float], object] = lambda epoch, perplexity: None,
) -> tuple[MemoryLanguageModel, Perplexities]:
    """Train on the words of a text, of which the last part is for validation.

    Stochastic gradient descent on the sum of a batch's losses, the norm of the whole gradient
    clipped, the learning rate divided by 1.5 when the validation perplexity does not fall.

    Args:
        text: words between spaces; a line's end counts as a word.
        epochs: over all words.
        memory_size: words before the predicted one.
        hops: of the model.
        dim: of the model.
        batch: words that a step predicts.
        learning_rate: the first.
        clip: the greatest norm of the gradient.
        validation_part: of the words.
        seed: of the weights and the order.
        watch: called after each epoch with its number and validation perplexity.

    Raises:
        ValueError: a number is out of its range, or the text is too short.

    Example:
        >>> text = "a b c " * 40
        >>> model, found = train_language_model(text, epochs=2, memory_size=3, hops=1, dim=8)
        >>> len(found.validation), model.n_words
        (2, 4)
    """
    for name, number in (("epochs", epochs), ("batch", batch)):
        check_count(name, number)
    check_positive("learning_rate", learning_rate)
    check_positive("clip", clip)
    said = [word for line in text.splitlines() for word in (*line.split(), "\n")]
    words = tuple(sorted(set(said)))
    places = {word: place for place, word in enumerate(words)}
    held = int(validation_part * len(said))
    if min(held, len(said) - held) <= memory_size:
        raise ValueError(
            f"a text of {len(said)} words is too short for a memory of {memory_size} words and a "
            f"validation part of {validation_part}"
        )
    ids = torch.tensor([places[word] for word in said])
    train, validation = (part.unfold(0, memory_size + 1, 1) for part in ids.split(
        [len(said) - held, held]
    ))  # fmt: skip
    model = MemoryLanguageModel(len(words), memory_size, hops=hops, dim=dim, seed=seed)
    generator = Generator().manual_seed(seed)
    found = Perplexities([], [], words)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(train), generator=generator).split(batch):
            loss = _loss(model, train[rows])
            model.zero_grad()
            loss.backward()
            clip_grad_norm_(model.parameters(), clip)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(learning_rate * parameter.grad)
            total += loss.item()
        found.train.append(math.exp(total / len(train)))
        perplexity = perplexity_of(model, validation)
        if found.validation and perplexity >= min(found.validation):
            learning_rate /= 1.5
        found.validation.append(perplexity)
        watch(epoch, perplexity)
    return model, found


@torch.no_grad()
def perplexity_of(model: MemoryLanguageModel, windows: Int64[Tensor, "windows columns"]) -> float:
    """exp of the mean cross-entropy of the last word of each window, given those before it.

    Example:
        >>> model = MemoryLanguageModel(n_words=9, memory_size=2, hops=1, dim=6)
        >>> round(perplexity_of(model, torch.tensor([[1, 2, 3]])))
        9
    """
    losses = [_loss(model, part).item() for part in windows.split(512)]
    return math.exp(sum(losses) / len(windows))


def _loss(
    model: MemoryLanguageModel, windows: Int64[Tensor, "windows columns"]
) -> Float[Tensor, ""]:
    return cross_entropy(model(windows[:, :-1]), windows[:, -1], reduction="sum")


def continued(
    model: MemoryLanguageModel, words: Sequence[str], said: Sequence[str], length: int
) -> list[str]:
    """The likeliest words after some that were said.

    Args:
        model: that was trained.
        words: its vocabulary.
        said: at least as many words as the memory holds.
        length: how many words to add.

    Raises:
        ValueError: too few words were said, or one is not in the vocabulary.

    Example:
        >>> model = MemoryLanguageModel(n_words=2, memory_size=2, hops=1, dim=4)
        >>> len(continued(model, ("a", "b"), ("a", "b"), length=3))
        3
    """
    unseen = [word for word in said if word not in words]
    if unseen:
        raise ValueError(f"the word {unseen[0]!r} was not in training")
    if len(said) < model.memory_size:
        raise ValueError(f"the memory has {model.memory_size} words, and {len(said)} were said")
    ids = [list(words).index(word) for word in said]
    with torch.no_grad():
        for _ in range(length):
            logits = model(torch.tensor([ids[-model.memory_size :]]))
            ids.append(int(logits[0].argmax()))
    return [words[place] for place in ids[len(said) :]]
