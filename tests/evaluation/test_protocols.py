"""The protocols, against loops over the paper's memory."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from rarememory import FirstInFirstOut, Memory, class_attention, evaluation
from rarememory.data import Jitter, sighting_episode, support_query_episode
from rarememory.evaluation import (
    embed,
    embed_averaged,
    few_shot_accuracies,
    sighting_accuracy,
    support_query_accuracy,
)
from tests.evaluation.embeddings import noisy
from tests.oracle import PaperMemory, class_attention_scores


@pytest.mark.parametrize("n_way", [2, 5])
def test_sighting_accuracy_is_what_loops_over_the_papers_memory_say(n_way):
    embeddings, generator = noisy(), torch.Generator().manual_seed(3)
    correct = torch.zeros(20, 4)
    for episode in range(20):
        oracle = PaperMemory(5, 4 * n_way)
        shown = sighting_episode(9, 7, n_way=n_way, n_sightings=4, generator=generator)
        for row in range(4):
            for column in range(n_way):
                at = row, column
                query = embeddings[shown.classes[at], shown.drawings[at]].tolist()
                label = int(shown.labels[at])
                correct[episode, row] += (oracle.read(query, 1).prediction == label) / n_way
                oracle.write([query], [label])
    found = sighting_accuracy(
        Memory(5, 4 * n_way), embeddings, n_way=n_way, n_sightings=4, n_episodes=20, seed=3
    )
    assert [accuracy.mean for accuracy in found] == pytest.approx(correct.mean(0).tolist())
    assert 0 < found[1].mean < 1


def by_the_papers_memory(shots, labels, queries):
    oracle = PaperMemory(5, 12)
    for shot in range(shots.shape[1]):
        oracle.write(shots[:, shot].tolist(), labels[:, shot].tolist())
    return [oracle.read(query, 1).prediction for query in queries.tolist()]


def by_means(shots, labels, queries):
    means = nn.functional.normalize(nn.functional.normalize(shots, dim=-1).sum(1), dim=1)
    return (queries @ means.T).argmax(-1).tolist()


def by_attention(shots, labels, queries):
    keys, values = shots.flatten(0, 1).tolist(), labels.flatten().tolist()
    scores = [class_attention_scores(keys, values, query, 0.5, 0.3) for query in queries.tolist()]
    return [max(found, key=found.get) for found in scores]


TASK = {"n_way": 4, "n_query": 2}
RUN = {"n_episodes": 20, "seed": 5}


@pytest.mark.parametrize(
    ("answer", "memory", "options"),
    [
        (by_the_papers_memory, Memory(5, 12), {"n_shot": 1}),
        (by_the_papers_memory, Memory(5, 12), {"n_shot": 3}),
        # There is room for four keys: what is averaged needs no more.
        (by_means, Memory(5, 4), {"n_shot": 3, "average": True}),
        (
            by_attention,
            Memory(5, 12, update=FirstInFirstOut()),
            {
                "n_shot": 3,
                "attention": partial(class_attention, temperature=0.5, hubness_correction=0.3),
            },
        ),
    ],
    ids=["1 shot", "3 shots", "averaged", "attention"],
)
def test_support_query_accuracy_is_what_loops_over_the_drawings_say(answer, memory, options):
    # Of any length: a mean is of directions.
    embeddings = noisy() * torch.rand(9, 7, 1).add(0.1)
    generator, correct = torch.Generator().manual_seed(5), []
    for _ in range(20):
        support, query = support_query_episode(
            9, 7, n_shot=options["n_shot"], generator=generator, **TASK
        )
        shots, queries = (embeddings[part.classes, part.drawings] for part in (support, query))
        answers = torch.tensor(answer(shots, support.labels, queries.flatten(0, 1)))
        correct.append((answers == query.labels.flatten()).float().mean().item())
    found = support_query_accuracy(memory, embeddings, **options, **TASK, **RUN)
    assert 0 < found.mean < 1 and found.mean == pytest.approx(sum(correct) / 20)
    if len(options) > 1:
        nearest = {"n_shot": options["n_shot"]}
        assert found != support_query_accuracy(Memory(5, 12), embeddings, **nearest, **TASK, **RUN)


@pytest.mark.parametrize(
    ("memory", "average", "kept"),
    [
        (Memory(5, 12), False, "4 of 12"),
        (Memory(5, 11, update=FirstInFirstOut()), False, "11 of 12"),
        (Memory(5, 12, update=FirstInFirstOut()), True, "4 of 12"),
    ],
    ids=["averaged by the rule", "a slot too few", "averaged"],
)
def test_what_is_attended_to_has_to_be_kept(memory, average, kept):
    # Drawings of a class are all alike: the paper's rule averages them.
    embeddings = torch.eye(5).unsqueeze(1).expand(-1, 7, -1)
    with pytest.raises(ValueError, match=f"the memory keeps {kept} drawings"):
        support_query_accuracy(
            memory, embeddings, n_shot=3, average=average, attention=class_attention, **TASK, **RUN
        )
    assert len(memory) == 0


def test_few_shot_accuracies_give_what_is_attended_to_a_memory_of_every_drawing():
    embeddings, ask = noisy(drawings=18), {"n_episodes": 3, "seed": 5}
    found = few_shot_accuracies(embeddings, ways=[4], shots=[3], attention=class_attention, **ask)
    memory, task = Memory(5, 12, update=FirstInFirstOut()), {"n_way": 4, "n_shot": 3}
    expected = support_query_accuracy(memory, embeddings, attention=class_attention, **task, **ask)
    assert found.support[4, 3] == expected
    assert few_shot_accuracies(embeddings, ways=[4], shots=[3], **ask).support[4, 3] != expected


def test_nothing_is_known_at_the_first_sighting_and_all_at_the_second_of_perfect_embeddings():
    embeddings = torch.eye(6).unsqueeze(1).expand(-1, 5, -1)
    found = sighting_accuracy(Memory(6, 20), embeddings, n_way=4, n_sightings=5, n_episodes=7)
    assert [tuple(accuracy) for accuracy in found] == [(0.0, 0.0), *[(1.0, 0.0)] * 4]


def test_episodes_that_share_a_memory_keep_their_labels_apart():
    # Every class has a direction of its own, so only a label of another episode can be wrong.
    embeddings = torch.eye(200).unsqueeze(1).expand(-1, 5, -1)
    ask = {"n_way": 2, "n_sightings": 3, "n_episodes": 10}
    found = sighting_accuracy(Memory(200, 64), embeddings, n_sharing=4, **ask)
    alone = sighting_accuracy(Memory(200, 64), embeddings, n_sharing=1, **ask)
    assert found[0].mean == 0.0
    assert [a.mean for a in alone[1:]] == [1.0, 1.0]
    # Two episodes may draw the same class: then both labels are right answers to it.
    assert all(a.mean > 0.9 for a in found[1:])


def test_the_interval_of_episodes_that_share_a_memory_is_that_of_their_groups():
    ask = {"n_way": 3, "n_sightings": 2, "n_episodes": 12, "seed": 1}
    alone = sighting_accuracy(Memory(5, 72), noisy(40), n_sharing=1, **ask)[1]
    torch.manual_seed(0)
    one_group = sighting_accuracy(Memory(5, 72), noisy(40), n_sharing=12, **ask)[1]
    assert math.isfinite(alone.interval) and one_group.interval == math.inf


@pytest.mark.parametrize("name", ["n_episodes", "n_sharing"])
def test_no_episodes_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, not 0"):
        sighting_accuracy(Memory(5, 20), noisy(), n_way=2, **{name: 0})


def test_testing_leaves_the_memory_as_it_was_and_is_the_same_twice():
    memory = Memory(5, 20, seed=4)
    memory.write(torch.randn(7, 5), torch.arange(7))
    before = [buffer.clone() for buffer in memory.state]
    embeddings = noisy()
    twice = [
        (
            sighting_accuracy(memory, embeddings, n_way=3, n_episodes=4),
            support_query_accuracy(memory, embeddings, n_way=3, n_shot=1, n_query=2, n_episodes=4),
        )
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert all(torch.equal(a, b) for a, b in zip(before, memory.state, strict=True))


def test_the_bar_sees_every_episode():
    seen = []

    def bar(indices):
        for index in indices:
            seen.append(index)
            yield index

    ask = {"n_way": 2, "n_episodes": 5}
    sighting_accuracy(Memory(5, 20), noisy(), bar=bar, **ask)
    support_query_accuracy(Memory(5, 20), noisy(), n_shot=1, n_query=1, bar=bar, **ask)
    assert seen == [0, 1, 2, 3, 4] * 2


def test_embedding_does_not_depend_on_the_batch_and_puts_the_mode_back():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.9)).train()
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    whole, parts = embed(encoder, images), embed(encoder, images, batch_size=4)
    torch.testing.assert_close(whole, parts)
    assert whole.shape == (5, 3, 3) and encoder.training
    expected = nn.functional.linear(
        images[4, 2].flatten() / 255, encoder[1].weight, encoder[1].bias
    )
    torch.testing.assert_close(whole[4, 2], expected.detach())


def test_embedding_takes_an_encoder_without_weights_and_leaves_frozen_parts_frozen():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert embed(nn.Flatten(), images).shape == (2, 3, 16)
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout()).train()
    encoder[1].eval()
    embed(encoder, images)
    assert [module.training for module in encoder.modules()] == [True, True, False, True]
    with pytest.raises(RuntimeError):
        embed(encoder, images[..., :3])
    assert [module.training for module in encoder.modules()] == [True, True, False, True]


class Squares(nn.Module):
    """Not linear, so that the mean of what it makes is not what it makes of the mean."""

    def forward(self, images):
        return images.flatten(1) ** 2 + 0.1


def test_an_averaged_embedding_is_the_mean_at_unit_length_of_the_drawing_and_its_copies():
    images = torch.randint(0, 256, (3, 2, 6, 6), dtype=torch.uint8)
    jitter, generator = Jitter(), torch.Generator().manual_seed(7)
    found = embed_averaged(Squares(), images, jitter=jitter, copies=2, seed=7)
    flat = images.flatten(0, 1).unsqueeze(1) / 255
    views = [flat, jitter(flat, generator), jitter(flat, generator)]
    units = [nn.functional.normalize(Squares()(view), dim=1) for view in views]
    torch.testing.assert_close(found, torch.stack(units).mean(0).view(3, 2, 36))


def test_averaging_has_a_seed_of_its_own_and_needs_a_copy():
    images = torch.randint(0, 256, (3, 2, 6, 6), dtype=torch.uint8)
    before = torch.random.get_rng_state()
    one, same, other = (embed_averaged(Squares(), images, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="copies must be an integer of at least 1, not 0"):
        embed_averaged(Squares(), images, copies=0)


def test_old_names_work_for_one_release():
    with pytest.warns(DeprecationWarning, match=r"is now few_shot_accuracies;"):
        assert evaluation.both_protocols is few_shot_accuracies
    with pytest.warns(DeprecationWarning, match=r"is now FewShotAccuracies;"):
        assert evaluation.Figures is evaluation.FewShotAccuracies
