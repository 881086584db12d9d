"""A mean and its interval, by Student's t."""

import math

import pytest
import scipy.stats
import torch

from rarememory.evaluation import Accuracy
from rarememory.evaluation.accuracy import student_t


def test_an_accuracy_is_a_mean_with_its_95_percent_interval():
    accuracy = Accuracy.of(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert accuracy.mean == 0.75
    assert accuracy.interval == pytest.approx(3.182446 * 0.5 / 2)
    assert str(accuracy) == "75.00 ± 79.56"


def test_one_episode_has_no_interval():
    assert Accuracy.of(torch.ones(1)).interval == math.inf


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 19, 20, 1999, 4000])
def test_the_quantile_is_that_of_students_distribution(degrees):
    assert student_t(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-9)


def test_an_interval_of_one_observation_is_refused():
    with pytest.raises(ValueError, match="degrees is 0: an interval needs at least 2"):
        student_t(0)
