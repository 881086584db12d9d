"""The max logit of a host: what is not like its own examples is new."""

import numpy as np
import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier.blend import EXCLUDED
from rarememory.classifier.max_logit import MaxLogit, above_mean
from tests.classifier.made_classes import world


def test_what_all_logits_have_in_common_and_forgotten_classes_do_not_count() -> None:
    logits = torch.tensor([[4.0, 1.0, 1.0], [14.0, 11.0, 11.0]])
    assert above_mean(logits).tolist() == [2.0, 2.0]
    assert above_mean(torch.tensor([[4.0, EXCLUDED, 1.0]])).tolist() == [1.5]


def test_it_counts_in_deviations_of_new_examples_by_how_many_classes_there_are() -> None:
    found = torch.tensor([2.0, -1.0, 6.0, 4.0])
    weight, mean = MaxLogit.beside(found, torch.tensor([0, 1, 2, 2]))
    assert (weight, mean) == (pytest.approx(1 / 2 / 2), pytest.approx(4.0))
    weight, _ = MaxLogit.beside(found, torch.tensor([0, 1, 2, 3]))
    assert weight == pytest.approx(2 / 3 / 2)
    # Examples that are few may be alike by chance: of a deviation of 0.3 of their mean at least.
    weight, mean = MaxLogit.beside(torch.tensor([5.0, 5.0]), torch.tensor([0, 1]))
    assert (weight, mean) == (pytest.approx(1 / 2 / 1.5), 5.0)


@pytest.mark.parametrize("numbers", [[], [3.0, 1.0, 2.0], [3.0, -1.0, 2.0], [0.0, 0.0, 0.0]])
def test_one_class_says_nothing_of_how_much_examples_differ(numbers: list[float]) -> None:
    places = torch.tensor([0, 1, 0] if numbers[1:2] == [-1.0] else [0] * len(numbers)).long()
    if not any(numbers):
        places = torch.arange(len(numbers))
    assert MaxLogit.beside(torch.tensor(numbers), places) == MaxLogit()
    assert MaxLogit().terms(torch.ones(2)) is None
    assert MaxLogit().terms_of(torch.ones(2, 3), torch.ones(2, 4)) is None


def test_of_what_is_not_known_nothing_is_added() -> None:
    found = MaxLogit(weight=2.0, mean=1.0)
    terms, none = found.terms(torch.tensor([3.0, -1.0])), found.terms_of(torch.ones(1, 3), None)
    assert terms is not None and terms.tolist() == [4.0, 0.0] and none is None
    features, logits = torch.tensor([[3.0, 4.0]]), torch.tensor([[20.0, -10.0]])
    terms = found.terms_of(features, logits)
    assert terms is not None and terms.tolist() == pytest.approx([2 * (15 / 5 - 1)])


class Host(nn.Module):
    """As sure of every example, whose last number is its highest logit; the others go down."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        height = inputs[:, 12:]
        logits = torch.cat([height, height - 2, -height, -height], 1)
        return 0 * self.head(inputs[:, :12]) + logits


def with_height(rows: torch.Tensor, *heights: float) -> torch.Tensor:
    column = torch.tensor(heights).repeat(len(rows))[: len(rows)]
    return torch.cat([rows, column.unsqueeze(1)], 1)


def test_a_host_answers_what_has_a_higher_max_logit_than_new_examples() -> None:
    keys, labels = world([12] * 4, spread=0.4)
    names = [f"n{label}" for label in labels.tolist()]
    birds = rarememory.wrap(Host(), at="head")
    birds.learn(with_height(keys, 8.0, 12.0), names)

    def of_host(height: float, among: list[int | str] | None = None) -> float:
        queries = with_height(keys, height)
        answers = birds.predict(queries, among=among)
        # One by one they are answered in another way.
        assert [birds.predict(query, among=among) for query in queries] == answers
        return float(np.mean([answer in (0, 1) for answer in answers]))

    assert of_host(10.0) < 0.1 and of_host(800.0) == 1.0
    # The length of features says nothing of them.
    long = with_height(3 * keys, 800.0 * 3)
    more = birds.familiarity(with_height(keys, 800.0))
    assert torch.allclose(more, birds.familiarity(long), rtol=1e-3)
    assert (more - birds.familiarity(with_height(keys, 10.0))).min() > 5
    # That of some of its classes alone is not known.
    classes: list[int | str] = ["n0", "n1", "n2", "n3", 0, 1, 2, 3]
    assert of_host(800.0, classes) == 1.0 and of_host(800.0, classes[:-1]) < 0.1
    # Where examples of all its classes are remembered, these say what is like them.
    birds.learn(with_height(torch.eye(12)[:4], 10.0), [0, 1, 2, 3])
    assert of_host(800.0) < 0.1
