"""The language model against the loops, and what it learns."""

import pytest
import torch

from rarememory.readers.language_model import (
    MemoryLanguageModel,
    continued,
    perplexity_of,
    train_language_model,
)
from tests.reader_oracle import added, dot, hinge, softmax


def test_the_logits_are_those_of_the_loops_with_gradients():
    model = MemoryLanguageModel(7, 3, hops=2, dim=5, seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8
    windows = torch.tensor([[1, 2, 3], [6, 6, 0]])
    found = model(windows)
    found.square().sum().backward()

    twin = MemoryLanguageModel(7, 3, hops=2, dim=5).double()
    twin.load_state_dict(model.state_dict())
    total = torch.zeros((), dtype=torch.float64)
    for row, window in enumerate(windows.tolist()):
        u = [torch.tensor(0.1, dtype=torch.float64)] * 5
        # The last word was said 0 words ago.
        ago = [2, 1, 0]
        keys = [
            added(list(twin.words[word, 0]), list(twin.times[t, 0]))
            for word, t in zip(window, ago, strict=True)
        ]
        values = [
            added(list(twin.words[word, 1]), list(twin.times[t, 1]))
            for word, t in zip(window, ago, strict=True)
        ]
        for _ in range(2):
            p = softmax([dot(u, key) for key in keys])
            u = [dot(list(line), u) for line in twin.between]
            for weight, value in zip(p, values, strict=True):
                u = added(u, [weight * one for one in value])
            u = u[:3] + [hinge(one) for one in u[3:]]
        for word in range(7):
            logit = dot(list(twin.answer[word]), u)
            torch.testing.assert_close(found[row, word].double(), logit, rtol=1e-4, atol=1e-5)
            total = total + logit**2
    total.backward()
    for mine, ours in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), ours.grad, rtol=1e-3, atol=1e-4)


def test_a_text_is_learnt_and_continued():
    line = "the cat sat on the mat and the dog lay by the door\n"
    model, found = train_language_model(
        line * 30, epochs=12, memory_size=6, hops=2, dim=16, batch=32, learning_rate=0.05
    )
    assert found.validation[-1] < 1.3 < 2 * found.validation[-1] < found.validation[0]
    said = line.split()[:6]
    assert continued(model, found.words, said, 4) == line.split()[6:10]


LINE = "the cat sat on the mat and the dog lay by the door\n"


def test_the_gradient_of_all_matrices_is_clipped_together():
    options = {"memory_size": 3, "hops": 1, "dim": 8}
    (before,), (after,) = (
        train_language_model(LINE * 9, epochs=1, clip=clip, **options)[1].validation
        for clip in (1e-9, 50.0)
    )
    assert after < before == pytest.approx(11, rel=0.05)


def test_the_learning_rate_falls_where_the_perplexity_does_not(monkeypatch):
    def trained(told):
        told = iter(told)
        monkeypatch.setattr(
            "rarememory.readers.language_model.perplexity_of", lambda *_: float(next(told))
        )
        options = {"memory_size": 3, "hops": 1, "dim": 8}
        return train_language_model(LINE * 9, epochs=3, **options)[0].words

    assert torch.equal(trained([9, 8, 7]), trained([9, 8, 8]))
    assert not torch.equal(trained([9, 8, 7]), trained([9, 9, 7]))


def test_an_untrained_model_finds_every_word_equally_likely():
    model = MemoryLanguageModel(20, 4, hops=1, dim=8)
    assert perplexity_of(model, torch.randint(20, (50, 5))) == pytest.approx(20, rel=0.05)


def test_what_cannot_be_learnt_or_continued_is_refused():
    with pytest.raises(ValueError, match="a text of 11 words is too short for a memory of 50"):
        train_language_model("a b c d e f g h i j")
    model = MemoryLanguageModel(2, 2, hops=1, dim=4)
    with pytest.raises(ValueError, match="the word 'c' was not in training"):
        continued(model, ("a", "b"), ("a", "c"), 1)
    with pytest.raises(ValueError, match="the memory has 2 words, and 1 were said"):
        continued(model, ("a", "b"), ("a",), 1)
