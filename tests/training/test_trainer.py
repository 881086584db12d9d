"""Training goes through the memory, and an interrupted one ends where the whole one does."""

import dataclasses
import math

import pytest
import torch

from rarememory import Memory
from rarememory.backbones import Conv4, PaperCNN
from rarememory.data import Jitter, draw_glyphs
from rarememory.training.ema import AveragedWeights
from rarememory.training.trainer import Recipe, Training, train
from tests.oracle import PaperMemory

GLYPHS = draw_glyphs(6, 4)


def training_of(encoder=None, images=GLYPHS.images, slots=8, families=None, **changes):
    torch.manual_seed(1)
    recipe = Recipe(**{"steps": 6, "n_way": 4, **changes})
    encoder = Conv4(8, width=4) if encoder is None else encoder()
    return Training(encoder, Memory(8, slots, temperature=0.1), images, recipe, families)


def flat(state):
    """Every tensor and number of a nested state, by its path; not the time it took."""
    if isinstance(state, dict):
        items = [(key, value) for key, value in state.items() if key != "seconds"]
    elif isinstance(state, list | tuple):
        items = list(enumerate(state))
    else:
        return {"": state}
    return {f"/{key}{path}": leaf for key, value in items for path, leaf in flat(value).items()}


def assert_same(one, other):
    one, other = flat(one.state_dict()), flat(other.state_dict())
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        same = torch.equal(leaf, other[path]) if torch.is_tensor(leaf) else leaf == other[path]
        assert same, path


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("encoder", "bfloat16"), [(None, None), (lambda: PaperCNN(8), False)], ids=["conv4", "dropout"]
)
def test_an_interrupted_training_ends_where_the_whole_one_does_to_the_bit(
    tmp_path, encoder, bfloat16
):
    whole, first, resumed = (training_of(encoder, bfloat16=bfloat16) for _ in range(3))
    train(whole)
    steps = []

    def watch(step):
        steps.append(step.step)
        if steps == [1, 2, 3, 4, 5]:
            raise Interrupted

    checkpoint = {"checkpoint": tmp_path / "runs" / "one.pt", "every": 2, "watch": watch}
    with pytest.raises(Interrupted):
        train(first, **checkpoint)
    # Whatever else drew from torch's own generator meanwhile is no matter.
    torch.rand(7)
    train(resumed, **checkpoint)
    assert steps == [1, 2, 3, 4, 5, 5, 6]
    assert_same(whole, resumed)


def test_a_finished_training_is_not_trained_further(tmp_path):
    train(training_of(steps=2), checkpoint=tmp_path / "one.pt")
    again = training_of(steps=2)
    train(again, checkpoint=tmp_path / "one.pt", watch=lambda step: pytest.fail("it trained on"))
    assert again.step == 2


def test_a_crash_while_saving_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    checkpoint = tmp_path / "one.pt"

    def crash(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    def watch(step):
        if step.step == 3:
            monkeypatch.setattr(torch, "save", crash)

    with pytest.raises(OSError, match="disk full"):
        train(training_of(), checkpoint=checkpoint, every=2, watch=watch)
    assert torch.load(checkpoint, weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.5}, r"other recipe, .*learning_rate=0\.003.*=0\.5"),
        ({"encoder": lambda: Conv4(8, width=5)}, r"other layers, .*Linear.in_features=36.*=45"),
        ({"images": 255 - GLYPHS.images}, r"other images, \[6, 4, 28, 28\] \w{12}, and this"),
    ],
    ids=["recipe", "layers", "images"],
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_changes(changes, said):
    other, untouched = training_of(**changes), training_of(**changes)
    with pytest.raises(ValueError, match=f"(?s){said}"):
        other.load_state_dict(training_of().state_dict())
    assert_same(other, untouched)


def test_a_checkpoint_of_an_older_version_is_refused_and_nothing_changes():
    other, untouched = training_of(), training_of()
    old = training_of().state_dict()
    old["lookalikes"] = old.pop("hard_classes")
    del old["schedule"]
    with pytest.raises(ValueError, match="has no hard_classes, schedule: it is of an older"):
        other.load_state_dict(old)
    assert_same(other, untouched)


def test_a_memory_that_cannot_hold_an_episode_is_refused():
    with pytest.raises(ValueError, match="7 slots, and an episode of 4 classes seen 2 times needs"):
        training_of(slots=7)


@pytest.mark.parametrize(
    ("margin_weight", "vote_weight", "both_ways"),
    [(1.0, 0.0, False), (0.0, 0.5, True), (1.0, 0.5, True)],
)
def test_the_loss_is_what_the_papers_memory_says_of_each_sighting(
    margin_weight, vote_weight, both_ways
):
    training = training_of(
        margin_weight=margin_weight, vote_weight=vote_weight, both_ways=both_ways
    )
    embeddings, labels = torch.randn(2, 4, 8), torch.stack([torch.randperm(4) for _ in range(2)])
    loss, _ = training._episode_loss(embeddings, labels)

    def one_way(queries, labels):
        oracle, total = PaperMemory(8, 8, temperature=0.1), 0.0
        for rows, targets in zip(queries.tolist(), labels.tolist(), strict=True):
            total += margin_weight * oracle.loss(rows, targets)
            for query, label in zip(rows, targets, strict=True):
                answer = oracle.read(query, 8)
                pairs = zip(answer.weights, answer.values, strict=True)
                votes = sum(weight for weight, value in pairs if value == label)
                total -= vote_weight * math.log(votes) / 4 if votes else 0.0
            oracle.write(rows, targets)
        return total

    expected = one_way(embeddings, labels)
    if both_ways:
        expected = (expected + one_way(embeddings.flip(0), labels.flip(0))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_learning_rate_rises_then_falls_to_zero():
    recipe = Recipe(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [recipe.learning_rate_at(step) for step in range(101)]
    assert rates[0] == 0 and rates[5] == pytest.approx(0.5) and rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)
    assert rates[55] == pytest.approx(0.5)


def test_the_optimizer_steps_by_the_recipes_rate():
    training = training_of(steps=4)
    for step in range(4):
        rates = {group["lr"] for group in training.optimizer.param_groups}
        assert rates == {training.recipe.learning_rate_at(step)}
        training.advance()


def test_the_jitter_is_scaled_down_in_the_last_part_of_the_steps():
    strong = Jitter(degrees=10.0, scale=0.1, shear=0.2, shift=0.3, bend=0.4)
    recipe = Recipe(steps=10, jitter=strong, gentle_part=0.2)
    assert [recipe.jitter_at(step) for step in range(8)] == [strong] * 8
    for step in (8, 9):
        scaled = dataclasses.astuple(recipe.jitter_at(step))
        assert scaled == pytest.approx((4.0, 0.04, 0.08, 0.12, 0.16))
    assert Recipe(jitter=None).jitter_at(5999) is None
    assert dataclasses.replace(recipe, gentle_part=0.0).jitter_at(9) is strong


def test_a_step_shows_drawings_by_the_jitter_of_its_time():
    training = training_of(steps=10, jitter=Jitter(shift=0.03), gentle_part=0.5)
    plain = training_of(jitter=None)
    moved = []
    for training.step in (0, 9):
        for each in (training, plain):
            each.generator.manual_seed(3)
            episode = each._episode()
        moved.append((training._images_of(episode) - plain._images_of(episode)).abs().mean())
    assert moved[1] < 0.8 * moved[0]


def test_every_step_averages_the_weights():
    training = training_of(averaging=0.9)
    again = AveragedWeights(training.encoder, 0.9)
    for _ in range(3):
        training.advance()
        again.update_parameters(training.encoder)
    assert_same(training.averaged, again)


@pytest.mark.parametrize("saved", [True, False])
def test_a_training_that_diverged_stops_and_leaves_the_last_checkpoint(saved, tmp_path):
    training = training_of()
    checkpoint = tmp_path / "one.pt" if saved else None

    def diverge(step):
        if step.step == 3:
            torch.nn.init.constant_(training.encoder.head.weight, torch.nan)

    training.memory.validate = training.hard_classes.memory.validate = False
    with pytest.raises(RuntimeError, match="after step 4 a weight is not finite"):
        train(training, checkpoint=checkpoint, every=2, watch=diverge)
    if saved:
        again = training_of()
        again.load_state_dict(torch.load(checkpoint, weights_only=True))
        assert again.step == 2 and again.encoder.head.weight.isfinite().all()


def test_training_learns():
    training = training_of(steps=40, jitter=None)
    losses = []
    train(training, watch=lambda step: losses.append(step.loss))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_step_has_no_gradient_and_leaves_torchs_own_generator_alone():
    training = training_of()
    before = torch.get_rng_state()
    step = training.advance()
    assert step.loss.shape == step.accuracy.shape == () and not step.loss.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_that_look_alike_meet_once_the_random_part_is_over():
    training = training_of(steps=10, n_way=4, group=2, random_part=0.5)
    groups = []
    choose = training.hard_classes.choose

    def watched(n_way, *, group, generator):
        groups.append(group)
        return choose(n_way, group=group, generator=generator)

    training.hard_classes.choose = watched
    train(training)
    assert groups == [1] * 5 + [2] * 5
    # It holds what was shown: the labels are classes, not places in an episode.
    known = set(training.hard_classes.memory.values.tolist()) - {-1}
    assert known <= set(range(6)) and len(known) > 4


def test_copies_of_one_character_never_meet_in_an_episode():
    families = torch.tensor([0, 0, 1, 1, 2, 2])
    training = training_of(steps=20, n_way=3, group=3, random_part=0.2, families=families)
    for training.step in range(20):
        episode = training._episode()
        for shown in episode.classes:
            assert len(families[shown].unique()) == 3
        training.hard_classes.write(torch.randn(2, 3, 8), episode.classes)


def test_a_memory_that_is_not_cleared_holds_classes():
    training = training_of(steps=12, n_way=2, group=1, cleared=False, n_neighbors=3, slots=48)
    sizes = []
    train(training, watch=lambda step: sizes.append(len(training.memory)))
    assert sizes == sorted(sizes) and sizes[-1] > 4
    assert set(training.memory.values.tolist()) >= set(range(6))


def test_the_nearest_right_key_votes_though_it_is_not_among_the_neighbours():
    recipe = Recipe(steps=1, n_way=2, cleared=False, n_neighbors=2, margin_weight=0.0)
    memory = Memory(2, 8, temperature=0.5)
    training = Training(Conv4(2, width=4), memory, GLYPHS.images, recipe)
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5])
    memory.write(torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([1, 2, 3, 0]))
    query = torch.tensor([[1.0, 0.0]])
    for label, voters, positive in ((0, [0, 1, 3], -1), (1, [0, 1], 0)):
        with memory.snapshot():
            loss, _ = training._pass_loss(query.unsqueeze(0), torch.tensor([[label]]))
        weights = (angles[voters].cos() / 0.5).exp()
        expected = -(weights[positive] / weights.sum()).log()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
