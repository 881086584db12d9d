"""The comparison of policies: what is counted, and against what."""

import pytest
import torch

from benchmarks import budgets


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("name", sorted(budgets.policies(4, 5, 0)))
def test_a_row_is_answered_before_it_is_written_within_the_slots(name, slots):
    torch.manual_seed(0)
    queries, labels = torch.eye(8).repeat(4, 1), torch.arange(8).repeat(4)
    memory = budgets.policies(8, 8, 0)[name](slots)
    correct = list(budgets.answered(memory, (queries, labels), name, slots))
    assert len(memory.values) == 8 * slots and correct[:8] == [False] * 8
    if name.endswith(("per_class", "herding", "closest")):
        assert all(correct[8:]) and memory.stats()["slots_per_class_max"] <= slots


def test_a_figure_is_paired_with_the_papers_rule_at_the_same_slots_and_reader():
    found = [
        {"1.paper": 0.5, "1.paper.nearest": 0.2, "1.herding": 0.6, "1.herding.nearest": 0.5},
        {"1.paper": 0.3, "1.paper.nearest": 0.2, "1.herding": 0.5, "1.herding.nearest": 0.3},
    ]
    figures = budgets.figures_of("cifar100", found)
    assert figures["budgets.cifar100.1.herding"] == pytest.approx(55)
    assert figures["budgets.cifar100.1.herding.over_paper"] == pytest.approx(15)
    assert figures["budgets.cifar100.1.herding.nearest.over_paper"] == pytest.approx(20)
    assert figures["budgets.cifar100.1.paper.over_paper.interval"] == 0
