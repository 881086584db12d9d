"""Which of two Memory Networks a task keeps, by its validation questions."""

import pytest

from rarememory.data.babi import BabiTask, StoryQuestion
from rarememory.readers import SupportedRecipe, supported_babi, train_supported_babi

QUESTION = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
TASK = BabiTask(1, "single-supporting-fact", (QUESTION,) * 40, (QUESTION,) * 3)


@pytest.mark.parametrize(("errors", "kept"), [([0.2, 0.1], 3), ([0.1, 0.2], 1), ([0.1, 0.1], 1)])
def test_the_lower_validation_error_decides_and_the_test_error_has_no_say(
    monkeypatch, errors, kept
):
    asked = []

    def told(reader, questions):
        asked.append((reader.features.n_grams, len(questions)))
        return [*errors, 0.5][len(asked) - 1], 0.25

    monkeypatch.setattr(supported_babi, "supported_error", told)
    outcome = train_supported_babi(TASK, SupportedRecipe(epochs=1))
    # A tenth of the training questions, then the test questions, and these once.
    assert asked == [(1, 4), (3, 4), (kept, 3)]
    assert (outcome.n_grams, outcome.error, outcome.unsupported) == (kept, 50.0, 25.0)
