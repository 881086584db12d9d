"""End-To-End Memory Networks against the loops of tests/reader_oracle.py."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from rarememory.readers import MemN2N
from rarememory.readers.questions import Questions
from tests.reader_oracle import (
    answered,
    negative_log_likelihood,
    paper_position_weight,
    position_weight,
)

N_WORDS, MEMORY = 9, 6
# Rows 1 to 5 are sentences of a story, 6 and 7 questions.
SENTENCES = [[], [1, 2, 3], [4, 5], [6, 6, 7, 8], [2], [8, 1, 4, 2], [3, 8], [5, 1, 2]]
# The oldest first.
STORIES = [[1, 2, 3, 1], [4], [5, 2]]
ASKED = [6, 7, 6]
ANSWERS = [3, 8, 1]


def filled(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def questions() -> Questions:
    return Questions(
        filled(SENTENCES),
        filled([story[::-1] for story in STORIES]),
        torch.tensor([len(story) for story in STORIES]),
        torch.tensor(ASKED),
        torch.tensor(ANSWERS),
    )


def by_loops(reader: MemN2N, model: int, tables: torch.Tensor, between, linear=False, times=None):
    """Of one model the logits [questions, words], the attention, and the sum of the losses."""
    logits, attention = [], []
    for row, (story, asked) in enumerate(zip(STORIES, ASKED, strict=True)):
        found = answered(
            [SENTENCES[i] for i in story],
            SENTENCES[asked],
            tables[model],
            hops=reader.hops,
            n_words=N_WORDS,
            tying=reader.tying,
            encoding=reader.encoding,
            temporal=reader.temporal,
            nonlinear=reader.nonlinear,
            linear=linear,
            between=None if between is None else between[model],
            sentence_length=reader.sentence_length,
            empty=MEMORY - len(story) if reader.empty_slots else 0,
            times=None if times is None else times[row],
        )
        logits.append(found[0])
        attention.append(found[1])
    losses = [negative_log_likelihood(*pair) for pair in zip(logits, ANSWERS, strict=True)]
    return logits, attention, sum(losses[1:], losses[0])


KINDS = [
    {},
    {"hops": 1},
    {"hops": 2, "nonlinear": True},
    {"encoding": "bag"},
    {"temporal": False},
    {"sentence_length": 5, "empty_slots": True},
    {"tying": "layer-wise"},
    {"tying": "layer-wise", "hops": 2, "nonlinear": True, "encoding": "bag"},
]


@pytest.mark.parametrize("linear", [False, True], ids=["softmax", "linear"])
@pytest.mark.parametrize(
    "kind",
    KINDS,
    ids=lambda kind: "-".join(f"{name}={value}" for name, value in kind.items()) or "default",
)
def test_every_model_answers_as_the_equations_do_with_their_gradients(kind, linear):
    reader = MemN2N(N_WORDS, MEMORY, dim=4, models=2, **kind, seed=3)
    with torch.no_grad():
        reader.tables *= 4
    flags = torch.tensor([linear, False])
    reading = reader(questions(), linear=flags)
    answers = torch.tensor(ANSWERS).repeat(2)
    cross_entropy(reading.logits.flatten(0, 1), answers, reduction="sum").backward()

    tables = reader.tables.detach().double().requires_grad_()
    between = reader.between
    between = None if between is None else between.detach().double().requires_grad_()
    for model in range(2):
        logits, attention, loss = by_loops(reader, model, tables, between, bool(flags[model]))
        for row, length in enumerate(map(len, STORIES)):
            found = reading.logits[model, row].double()
            torch.testing.assert_close(found, torch.stack(logits[row]), rtol=1e-4, atol=1e-5)
            for hop in range(reader.hops):
                # The oracle has the oldest sentence first.
                p = torch.stack(attention[row][hop]).flip(0)
                found = reading.attention[hop, model, row].double()
                torch.testing.assert_close(found[:length], p, rtol=1e-4, atol=1e-5)
                assert (found[length:] == 0).all()
        loss.backward()
    torch.testing.assert_close(reader.tables.grad.double(), tables.grad, rtol=1e-3, atol=1e-4)
    if between is not None:
        found = reader.between.grad.double()
        torch.testing.assert_close(found, between.grad, rtol=1e-3, atol=1e-4)


def test_given_times_are_those_of_the_sentences():
    reader = MemN2N(N_WORDS, MEMORY, dim=4, seed=1)
    # Latest first, as the columns of a story are.
    times = torch.tensor([[0, 2, 3, 5], [1, 0, 0, 0], [1, 4, 0, 0]])
    oldest_first = [[5, 3, 2, 0], [1], [4, 1]]
    reading = reader(questions(), times)
    logits, _, _ = by_loops(reader, 0, reader.tables.double(), None, times=oldest_first)
    for row in range(3):
        expected = torch.stack(logits[row]).float()
        torch.testing.assert_close(reading.logits[0, row], expected, rtol=1e-4, atol=1e-5)


def test_the_time_index_is_reversed_so_that_the_latest_sentence_has_time_zero():
    reader = MemN2N(N_WORDS, MEMORY, hops=1, dim=4)
    with torch.no_grad():
        reader.tables.zero_()
        reader.tables[:, :, 1:N_WORDS] = 0.1
        # Attends to the time 0 only.
        reader.tables[:, 0, N_WORDS] = 100
    weights = reader(questions()).attention[0, 0]
    assert weights[:, 0].tolist() == [1, 1, 1]
    assert weights[:, 1:].sum() < 1e-6


def test_what_a_story_is_padded_with_changes_nothing():
    reader = MemN2N(N_WORDS, MEMORY, dim=4, models=3)
    together = reader(questions())
    for row in range(3):
        alone = reader(questions().at(torch.tensor([row])))
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, row])


def test_a_model_taken_alone_answers_as_it_did_among_the_others():
    reader = MemN2N(N_WORDS, MEMORY, dim=4, models=3, tying="layer-wise")
    together = reader(questions()).logits
    for model in range(3):
        torch.testing.assert_close(reader.only(model)(questions()).logits[0], together[model])


def test_the_position_weights_are_twice_the_papers_but_for_what_centres_them():
    d, J = 20, 6
    for k in range(1, d + 1):
        for j in range(1, J + 1):
            rest = position_weight(k, j, d, J) - 2 * paper_position_weight(k, j, d, J)
            assert rest == pytest.approx((d + J + 1 - 2 * k - 2 * j) / (d * J))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hops": 0}, "hops must be an integer of at least 1, not 0"),
        ({"tying": "none"}, "the tying is adjacent or layer-wise, not 'none'"),
        ({"encoding": "words"}, "the encoding is position or bag, not 'words'"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MemN2N(N_WORDS, MEMORY, **options)


def test_a_story_longer_than_the_memory_is_refused():
    with pytest.raises(ValueError, match="a story has 4 sentences, and the memory has 3 slots"):
        MemN2N(N_WORDS, 3)(questions())
