"""The peers: the same episodes for all, every rule by hand, and as many drawings for each."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.omniglot_peers import __main__ as peers
from benchmarks.omniglot_peers import rows as peer_rows
from benchmarks.omniglot_peers import training as peer_training
from benchmarks.omniglot_peers.drawings import Drawings, read, upright
from benchmarks.omniglot_peers.features import oriented_gradients, pixels
from benchmarks.omniglot_peers.memory import memory_accuracy
from benchmarks.omniglot_peers.rules import (
    class_mean,
    k_neighbours,
    matching,
    nearest,
    prototypical,
)
from benchmarks.omniglot_peers.tasks import N_QUERY, Task, episodes, rule_accuracy
from benchmarks.omniglot_peers.training import PeerTraining, Setting
from benchmarks.resumable import evenly_spaced
from rarememory import FirstInFirstOut, Memory, class_attention
from rarememory.backbones import Conv4
from rarememory.data import Characters, Omniglot, draw_glyphs
from rarememory.evaluation import support_query_accuracy
from rarememory.training import Recipe


def turned(characters):
    """Glyphs named as Omniglot's characters are, with their rotations."""
    names = tuple(f"Glyphs/{name}" for name in characters.names)
    return Characters(names, characters.images).rotated()


def some_drawings(n_train=16):
    """Enough for an episode of 16 characters to train on and of 20 classes to test with."""
    glyphs = draw_glyphs(n_train + 12)
    parts = [glyphs.names[:n_train], glyphs.names[n_train : n_train + 6], glyphs.names[-6:]]
    chosen, validation, test = (turned(glyphs.select(part)) for part in parts)
    return Drawings(chosen.mirrored(), validation, test, "listed", "0" * 12)


SUPPORT = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [3.0, 3.0]]])
QUERIES = torch.tensor([[1.0, 0.2], [4.0, 5.0], [-1.0, 0.5]])


# Episodes


def test_every_row_has_the_same_episodes_as_the_memory():
    embeddings = torch.randn(30, 20, 3)
    for task in (Task(5, 1), Task(20, 1), Task(30, 1)):
        by_memory = memory_accuracy(embeddings, task, n_episodes=9, seed=3)
        assert rule_accuracy(nearest, embeddings, task, n_episodes=9, seed=3) == by_memory
    other = rule_accuracy(nearest, embeddings, Task(20, 1), n_episodes=9, seed=4)
    assert other != rule_accuracy(nearest, embeddings, Task(20, 1), n_episodes=9, seed=3)


def test_a_memory_for_attention_keeps_every_drawing():
    embeddings, task = torch.randn(6, 20, 3), Task(5, 5)
    memory = Memory(3, 25, update=FirstInFirstOut())
    ask = {"n_way": 5, "n_shot": 5, "n_episodes": 9, "seed": 3}
    expected = support_query_accuracy(memory, embeddings, attention=class_attention, **ask)
    answer = partial(memory_accuracy, embeddings, task, n_episodes=9, seed=3)
    assert answer(read={"attention": class_attention}) == expected != answer()


def test_queries_are_not_in_the_support_and_are_of_the_class_of_their_row():
    items = torch.arange(9 * 20).view(9, 20)
    for support, queries in episodes(items, Task(5, 5), n_episodes=4):
        assert support.shape == (5, 5) and queries.shape == (5, N_QUERY)
        drawn = torch.cat([support, queries], dim=1)
        assert len(drawn.unique()) == 100
        assert (drawn // 20 == drawn[:, :1] // 20).all()


def test_accuracy_is_that_of_the_class_with_the_highest_score():
    def rule(support, queries):
        return torch.eye(len(support))[queries.long().squeeze(1) % 4]

    embeddings = torch.arange(4.0).view(4, 1, 1).expand(4, 20, 1)
    task = Task(4, 1)
    shares = [
        (support[:, 0, 0] == torch.arange(4)).float().mean()
        for support, _ in episodes(embeddings, task, n_episodes=7)
    ]
    found = rule_accuracy(rule, embeddings, task, n_episodes=7)
    assert found.mean == pytest.approx(sum(shares).item() / 7)


# Rules


def test_the_nearest_drawing_and_the_mean_direction_are_by_cosine():
    first, second, mean = normalize(SUPPORT[0], dim=1), normalize(SUPPORT[1], dim=1), []
    for row in normalize(QUERIES, dim=1):
        found = nearest(SUPPORT, row.unsqueeze(0) * 7)[0]
        assert found.tolist() == pytest.approx([max(first @ row).item(), max(second @ row).item()])
        mean.append([(normalize(each.mean(0), dim=0) @ row).item() for each in (first, second)])
    torch.testing.assert_close(class_mean(SUPPORT, QUERIES), torch.tensor(mean))


def test_prototypes_are_means_as_they_are_and_near_is_squared_euclidean():
    means = [[1.0, 0.5], [2.0, 2.0]]
    wanted = [[-sum((a - b) ** 2 for a, b in zip(q, c, strict=True)) for c in means]
              for q in QUERIES.tolist()]  # fmt: skip
    torch.testing.assert_close(prototypical(SUPPORT, QUERIES), torch.tensor(wanted))
    longer = prototypical(2 * SUPPORT, 2 * QUERIES)
    torch.testing.assert_close(longer, 4 * torch.tensor(wanted))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_matching_networks_attend_to_drawings_and_their_loss_is_that_of_the_attention(temperature):
    labels = torch.tensor([1, 1, 0])
    scores = matching(SUPPORT, QUERIES, temperature=temperature)
    losses = []
    for query, label in zip(QUERIES, labels.tolist(), strict=True):
        cosines = [
            [math.exp(torch.cosine_similarity(query, one, dim=0) / temperature) for one in each]
            for each in SUPPORT
        ]
        losses.append(-math.log(sum(cosines[label]) / sum(map(sum, cosines))))
    assert cross_entropy(scores, labels).item() == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_matching_networks_have_no_temperature_unless_given_one():
    torch.testing.assert_close(
        matching(SUPPORT, QUERIES), matching(SUPPORT, QUERIES, temperature=1.0)
    )


def test_k_neighbours_vote():
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.5], [0.9, 0.6]]])
    query = torch.tensor([[1.0, 0.2]])
    assert k_neighbours(support, query, n_neighbors=1).argmax(1).item() == 0
    assert k_neighbours(support, query, n_neighbors=3)[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    weighted = k_neighbours(support, query, n_neighbors=3, weights="distance")[0]
    assert weighted[0] > 1 / 3


# What needs no training


def test_pixels_are_the_ink():
    images = torch.tensor([[[[0, 255], [51, 0]]]], dtype=torch.uint8)
    torch.testing.assert_close(pixels(images), torch.tensor([[[0.0, 1.0, 0.2, 0.0]]]))


def test_oriented_gradients_tell_directions_apart_and_not_ink_from_ground():
    images = torch.zeros(1, 5, 28, 28, dtype=torch.uint8)
    images[0, 0, :, 12:16] = 200
    images[0, 1, 12:16, :] = 200
    images[0, 2] = 200 - images[0, 0]
    images[0, 3] = images[0, 0].flip(1)
    images[0, 4] = images[0, 0] // 2
    upright, lying, *others = oriented_gradients(images)[0]
    assert upright.shape == (6 * 6 * 4 * 6,)
    assert upright @ lying < 0.01 * (upright @ upright)
    for other in others:
        torch.testing.assert_close(other, upright)


# Training


def training_of(steps=6, rate=0.01, scores=prototypical, shot=1, **recipe):
    torch.manual_seed(1)
    images = draw_glyphs(9, 8).images
    setting = Setting(scores, shot, rate, drawings=steps * peer_training.WAY * (shot + 5))
    return PeerTraining(Conv4(8, width=4), images, setting, Recipe(bfloat16=False, **recipe))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(peer_training, "WAY", 4)


@pytest.mark.usefixtures("small")
def test_an_interrupted_training_ends_where_the_whole_one_does(tmp_path):
    whole, first, second = (training_of() for _ in range(3))

    def train(training, path, seen=()):
        def evaluate():
            if training is first and training.step == 5:
                raise KeyboardInterrupt
            seen.append(1)
            return training.averaged.module.head.weight.sum().item()

        seen, at = [], evenly_spaced(training.steps, 5)
        training.train(tmp_path / path, "training", every=3, evaluate=evaluate, evaluate_at=at)
        return len(seen)

    assert train(whole, "whole.pt") == 5
    with pytest.raises(KeyboardInterrupt):
        train(first, "parts.pt")
    assert train(second, "parts.pt") == 2 and second.curve == whole.curve
    for name in ("encoder", "averaged"):
        for mine, theirs in zip(
            getattr(second, name).state_dict().values(),
            getattr(whole, name).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(mine, theirs)
    # A finished training is not repeated.
    assert train(training_of(), "parts.pt") == 0


@pytest.mark.usefixtures("small")
def test_every_setting_has_a_checkpoint_of_its_own():
    names = {
        training_of(**other).digest
        for other in (
            {},
            {"rate": 0.02},
            {"steps": 7},
            {"shot": 2},
            {"seed": 1},
            {"scores": matching},
            {"scores": partial(matching, temperature=0.1)},
        )
    }
    assert len(names) == 7 and training_of().digest == training_of().digest


@pytest.mark.usefixtures("small")
def test_a_step_goes_down_the_cross_entropy_of_the_rule(monkeypatch):
    asked = []

    def rule(support, queries):
        asked.append((support.shape, queries.shape))
        return prototypical(support, queries)

    training = training_of(steps=12, scores=rule, shot=2, jitter=None)
    losses, rates = [], []
    for _ in range(12):
        rates.append(training.recipe.learning_rate_at(training.step))
        losses.append(training.advance())
        training.step += 1
    assert asked == [((4, 2, 8), (20, 8))] * 12
    assert sum(losses[-3:]) < sum(losses[:3])
    assert rates[-1] < 3e-4 < 9e-3 < max(rates) <= training.setting.rate


@pytest.mark.usefixtures("small")
def test_no_drawing_is_in_support_and_query_of_a_training_episode(monkeypatch):
    training = training_of(shot=3)
    embedded, drawn = training._embedded, []
    monkeypatch.setattr(
        training, "_embedded", lambda images: drawn.append(images) or embedded(images)
    )
    training.advance()
    everything = training.images.flatten(2)
    homes = set()
    for row in drawn[0].flatten(2):
        assert len(row.unique(dim=0)) == 8
        (home,) = {int((everything == one).all(2).any(1).nonzero()) for one in row}
        homes.add(home)
    assert len(homes) == 4


def test_a_peer_sees_as_many_drawings_as_the_memory_give_or_take_an_episode():
    budget = peer_rows.Setup(None, Recipe(steps=1500), "", None).budget
    for shot in (1, 5):
        setting = Setting(prototypical, shot, 1e-3, budget)
        assert 0 <= budget - setting.steps * setting.drawings_per_step < setting.drawings_per_step
    assert Setting(prototypical, 1, 1e-3, 1).steps == 1
    seen = Recipe(steps=3, n_way=7, n_sightings=2)
    assert peer_rows.Setup(None, seen, "", None).budget == 42


# The whole


@pytest.fixture
def run(folders, monkeypatch, narrow):
    drawings = some_drawings()
    monkeypatch.setattr(peers, "read", lambda *_: drawings)
    monkeypatch.setattr(peers, "Recipe", partial(Recipe, n_way=16))
    monkeypatch.setattr(peer_training, "WAY", 12)
    monkeypatch.setattr(peer_rows, "VALIDATED", 3)
    grids = {
        "prototypical": (prototypical, {"rate": (1e-3, 5e-3)}),
        "matching": (matching, {"rate": (1e-3,), "temperature": (1.0, 0.1)}),
    }
    monkeypatch.setattr(peer_rows, "PEERS", grids)
    return lambda *more: peers.main(
        ["--steps", "8", "--backbone", "conv4", "--episodes", "20", *more]
    )


@pytest.mark.slow
def test_the_whole_benchmark_runs_on_drawn_glyphs(run, folders):
    assert run() == 0
    result = folders.result("omniglot_peers")
    tasks = ("5w1s", "5w5s", "20w1s", "20w5s", "6w1s", "6w5s")
    names = ("pixels", "hog", "memory", "class_mean", "k_neighbours", "prototypical", "matching")
    keys = {f"omniglot_peers.{name}.{task}" for name in names for task in tasks}
    keys |= {f"omniglot_peers.attention.{task}" for task in tasks if task.endswith("5s")}
    assert set(result["figures"]) == keys | {f"{key}.interval" for key in keys}
    assert all(0 <= result["figures"][key] <= 100 for key in keys)
    rows = result["rows"]
    assert rows["memory"]["drawings"] == 256
    for name in ("prototypical", "matching"):
        best = max(rows[name]["tried"], key=lambda one: one[0])
        assert rows[name]["chosen"] == best[1] and len(rows[name]["tried"]) == 2
        assert rows[name]["1shot"]["drawings"] == 216 and rows[name]["5shot"]["drawings"] == 240
        assert rows[name]["1shot"]["validation_by_drawings"][-1][0] == 216
    assert rows["attention"]["chosen"] in peer_rows.ATTENTIONS
    assert rows["k_neighbours"]["chosen"]["1"]["n_neighbors"] == 1
    # All is in checkpoints: a second run trains nothing.
    before = {path: path.stat().st_mtime_ns for path in folders.runs.glob("*.pt")}
    assert len(before) == 1 + 4 + 4
    assert run() == 0
    assert before == {path: path.stat().st_mtime_ns for path in folders.runs.glob("*.pt")}


def test_only_the_split_of_the_papers_is_published():
    assert not some_drawings(1).published and some_drawings(1)._replace(split="vinyals").published


def test_too_few_episodes_for_an_interval_are_refused(run, capsys):
    assert run("--episodes", "19") == 1
    assert "--episodes is 19: intervals need at least 20" in capsys.readouterr().err


def test_only_upright_characters_are_in_many_way_episodes():
    characters = turned(draw_glyphs(3, 2))
    assert upright(characters) == [0, 4, 8]
    assert upright(characters.mirrored()) == [0, 4, 8]


def test_training_classes_are_mirrored_and_no_others(monkeypatch):
    part = draw_glyphs(12)
    parts = [Characters(tuple(f"{name}/character{n:02}" for n in range(1, 7)), images)
             for name, images in zip(("A", "B"), part.images.split(6), strict=True)]  # fmt: skip
    monkeypatch.setattr(
        "benchmarks.omniglot.characters.read_omniglot", lambda folder, size: Omniglot(*parts)
    )
    drawings = read("somewhere", "folders")
    assert len(drawings.train) == 5 * 4 * 2 and len(drawings.validation) == 4
    assert drawings.test.names == parts[1].rotated().names and drawings.split == "folders"
