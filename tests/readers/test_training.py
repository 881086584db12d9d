"""The training of End-To-End Memory Networks: linear start, clipping, noise, resuming."""

from dataclasses import replace

import pytest
import torch

from rarememory.data.babi import StoryQuestion
from rarememory.readers import MemN2N, Recipe, Training, Vocabulary, encode_questions, noisy_times
from rarememory.readers.training import Errors, errors_of, scaled
from tests.reader_oracle import clipped

PLACES = ("hall", "park", "shop", "pool", "barn")
PEOPLE = ("ann", "bob", "cid")


def drawn_questions(n: int, seed: int = 0) -> list[StoryQuestion]:
    """Who went where, and where is one of them now."""
    generator = torch.Generator().manual_seed(seed)

    def draw(of):
        return of[int(torch.randint(len(of), (), generator=generator))]

    found = []
    for _ in range(n):
        moves = [(draw(PEOPLE), draw(PLACES)) for _ in range(4)]
        who = draw([name for name, _ in moves])
        answer = [place for name, place in moves if name == who][-1]
        story = tuple(f"{name} went to the {place}." for name, place in moves)
        found.append(StoryQuestion(story, f"Where is {who}?", answer))
    return found


def untrained(recipe: Recipe, models: int = 3, n: int = 200, **options) -> Training:
    questions = drawn_questions(n)
    vocabulary = Vocabulary.of(questions)
    reader = MemN2N(len(vocabulary), 10, models=models, **options)
    return Training(reader, encode_questions(questions, vocabulary, 10), recipe)


def test_a_training_learns_where_everybody_is():
    training = untrained(Recipe(epochs=40, linear_epochs=10), n=600)
    training.train()
    vocabulary = Vocabulary.of(drawn_questions(600))
    new = encode_questions(drawn_questions(300, seed=1), vocabulary, 10)
    assert errors_of(training.reader, new).error.min() < 0.05


def test_models_trained_together_are_what_each_becomes_alone():
    recipe = Recipe(epochs=3, linear_epochs=2)
    together, alone = untrained(recipe), untrained(recipe, models=1)
    with torch.no_grad():
        alone.reader.tables.copy_(together.reader.tables[1:2])
    together.train()
    alone.train()
    torch.testing.assert_close(
        alone.reader.tables[0], together.reader.tables[1], rtol=1e-3, atol=1e-4
    )


def test_a_linear_start_has_no_softmax_until_its_epochs_are_over():
    training = untrained(Recipe(epochs=2, linear_epochs=3))
    flags = []
    training.train(watch=lambda epoch: flags.append(bool(epoch.linear.any())))
    assert flags == [True, True, False, False, False]


def test_without_validation_all_questions_are_learnt_and_the_linear_start_lasts_its_epochs():
    training = untrained(Recipe(epochs=1, linear_epochs=3, patience=1, validation_part=0.0), n=64)
    assert len(training.train_questions.answers) == 64
    flags = [bool(training.advance().linear.any()) for _ in range(4)]
    assert flags == [True, True, False, False]


def test_without_a_linear_start_the_softmax_is_there_from_the_first_epoch():
    training = untrained(Recipe(epochs=2, linear_epochs=0))
    assert not training.linear.any()
    training.train()
    assert training.epoch == 2


def test_the_softmax_comes_back_when_the_validation_loss_stops_falling(monkeypatch):
    losses = iter([[5.0, 5.0], [4.0, 6.0], [3.0, 7.0], [4.0, 0.0], [5.0, 0.0]])

    def told(reader, questions, linear):
        return type("", (), {"loss": torch.tensor(next(losses))})

    monkeypatch.setattr("rarememory.readers.training.errors_of", told)
    training = untrained(Recipe(epochs=9, linear_epochs=20, patience=2), models=2)
    flags = [training.advance().linear.tolist() for _ in range(5)]
    assert flags == [[True, True], [True, True], [True, False], [True, False], [False, False]]
    # Each model counts its own epochs since then, and so its own learning rate.
    assert training.softmax_epochs.tolist() == [0, 2]


def test_the_learning_rate_is_halved_every_so_many_epochs_of_softmax():
    training = untrained(Recipe(epochs=4, halve_every=2, linear_epochs=3, learning_rate=0.008))
    rates = []
    while not training.ended:
        rates.append(round(float(training.learning_rates[0]), 6))
        training.advance()
    assert rates == [0.008] * 3 + [0.008, 0.008, 0.004, 0.004]


@pytest.mark.parametrize(("above", "doubled"), [(0.0, 1), (1.0, 0)])
def test_what_is_unlearnt_when_the_rate_is_first_to_be_halved_gets_twice_the_epochs(above, doubled):
    recipe = Recipe(epochs=4, halve_every=2, linear_epochs=1, learning_rate=0.008)
    training, rates = untrained(replace(recipe, double_above=above)), []
    while not training.ended:
        rates.append(round(float(training.learning_rates[0]), 6))
        training.advance()
    assert min(min(errors) for errors in training.curve) > 0
    times = 2 * (1 + doubled)
    assert rates == [0.008] + [0.008] * times + [0.004] * times
    assert training.doubled.tolist() == [doubled] * 3


def test_each_matrix_is_clipped_by_itself():
    """One long gradient must not shorten the others: a norm over all of them would."""
    gradient = torch.tensor([[[[30.0, 40.0], [20.0, 5.0]], [[0.3, 0.0], [0.0, 0.4]]]])
    found = scaled(gradient, 10.0, torch.tensor([0.5]))
    for table in range(2):
        expected = 0.5 * torch.tensor(clipped(gradient[0, table], 10.0))
        torch.testing.assert_close(found[0, table], expected)


def test_gradients_of_one_row_are_clipped_however_long_they_are():
    """In float32 the eigenvalues of a few of these do not converge."""
    lengths = torch.logspace(-4, 4, 512)[:, None, None]
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(512, 1, 100, generator=generator).relu() * lengths
    found = torch.linalg.vector_norm(scaled(gradient, 1.0, torch.ones(512)), dim=(1, 2))
    expected = torch.linalg.vector_norm(gradient, dim=(1, 2)).clamp(max=1.0)
    torch.testing.assert_close(found, expected)


def test_a_step_descends_by_the_clipped_gradient_of_the_summed_loss():
    training = untrained(Recipe(epochs=1, linear_epochs=0, clip=0.5, noise=0.0, batch=180))
    before = training.reader.tables.detach().clone()
    training.advance()
    moved = (training.reader.tables.detach() - before) / 0.005
    norms = torch.linalg.matrix_norm(moved, 2)
    # Of so many questions the sum is far beyond the clip, and the mean would not be.
    torch.testing.assert_close(norms, torch.full_like(norms, 0.5), rtol=1e-2, atol=0)


def test_noise_leaves_the_order_of_sentences_and_adds_at_most_a_tenth_of_empty_ones():
    lengths = torch.tensor([1, 2, 10, 50] * 200)
    times = noisy_times(lengths, 50, 0.1, torch.Generator().manual_seed(0))
    shifts = set()
    for row, length in zip(times.tolist(), lengths.tolist(), strict=True):
        said = row[:length]
        most = min(49, length - 1 + -(-length // 10))
        assert said == sorted(said)
        assert len(set(said)) >= length - 5
        assert said[0] >= 0
        assert said[-1] <= most
        shifts.add(said[-1] - (length - 1))
    assert {0, 1} <= shifts


def test_a_training_puts_its_noise_into_the_times():
    tables = []
    for noise in (0.0, 0.5):
        training = untrained(Recipe(epochs=1, linear_epochs=0, noise=noise))
        training.advance()
        tables.append(training.reader.tables)
    assert not torch.equal(*tables)


def test_without_noise_the_times_are_the_columns():
    times = noisy_times(torch.tensor([3, 5]), 5, 0.0, torch.Generator())
    assert times[1].tolist() == [0, 1, 2, 3, 4]


def test_a_resumed_training_ends_as_one_that_was_not_interrupted(tmp_path):
    recipe = Recipe(epochs=4, linear_epochs=2)
    whole = untrained(recipe)
    whole.train()

    class Interrupted(Exception): ...

    def stop(epoch):
        if epoch.number == 3:
            raise Interrupted

    first, second = untrained(recipe), untrained(recipe)
    with pytest.raises(Interrupted):
        first.train(tmp_path / "run.pt", every=1, watch=stop)
    second.train(tmp_path / "run.pt")
    assert second.curve == whole.curve
    assert torch.equal(second.reader.tables, whole.reader.tables)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    untrained(Recipe(epochs=1, linear_epochs=0)).train(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="use the options of that one, or remove the file"):
        untrained(Recipe(epochs=2, linear_epochs=0)).train(tmp_path / "run.pt")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "run.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"run.pt is no checkpoint: remove the file"):
        untrained(Recipe()).train(tmp_path / "run.pt")
    torch.save({"epoch": 3}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run.pt is no checkpoint of a reader"):
        untrained(Recipe()).train(tmp_path / "run.pt")


def test_of_restarts_of_equal_error_the_one_of_the_lowest_loss_is_the_best():
    error = torch.tensor([0.5, 0.2, 0.2, 0.2])
    assert Errors(error, torch.tensor([0.0, 3.0, 1.0, 2.0])).best == 2
    assert Errors(error, torch.tensor([0.0, 1.0, 1.0, 2.0])).best == 1


def test_a_solved_task_ends_its_training():
    training = untrained(Recipe(epochs=100, linear_epochs=0, solved_epochs=2), n=40)
    training.train_questions = training.train_questions.at(torch.zeros(64, dtype=torch.int64))
    training.train()
    assert training.epoch < 50
    assert min(training.curve[-1]) == min(training.curve[-2]) == 0


def test_a_task_is_not_solved_in_a_linear_start():
    training = untrained(Recipe(epochs=3, linear_epochs=40, solved_epochs=2), n=40)
    training.train_questions = training.train_questions.at(torch.zeros(64, dtype=torch.int64))
    training.train()
    assert [min(errors) for errors in training.curve[18:]].count(0) > 2
    assert training.softmax_epochs.max() >= 1


def test_an_answer_that_is_no_word_cannot_be_trained_on():
    questions = drawn_questions(60)
    vocabulary = Vocabulary.of(questions)
    odd = [*questions[:-1], questions[-1]._replace(answer="moon")]
    reader = MemN2N(len(vocabulary), 10)
    with pytest.raises(ValueError, match="the answer of question 60 is not in the vocabulary"):
        Training(reader, encode_questions(odd, vocabulary, 10), Recipe())


def test_too_few_questions_are_refused():
    with pytest.raises(ValueError, match="20 questions are too few for batches of 32"):
        untrained(Recipe(), n=20)
