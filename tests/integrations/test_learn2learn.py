"""The door to learn2learn: tasks of any making here, and its own ones where it is installed."""

import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memories import bits
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from rarememory import FirstInFirstOut, Memory
from rarememory.data import draw_glyphs
from rarememory.evaluation import Accuracy, support_query_accuracy
from rarememory.integrations.learn2learn import EpisodeTasks, parted, task_accuracy

ROOT = Path(__file__).resolve().parents[2]
GLYPHS = draw_glyphs(12, n_drawings=6)


class Flat(nn.Module):
    """An encoder that only lays pictures flat."""

    def forward(self, images):
        return images.flatten(1)


def task(n_way=3, n_each=4, seed=0, width=5):
    """Rows of a few directions, class after class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_way, 1, width, generator=generator)
    data = centres + 0.8 * torch.randn(n_way, n_each, width, generator=generator)
    return data.flatten(0, 1), torch.arange(n_way).repeat_interleave(n_each)


def by_hand(data, labels, n_shot):
    """The share of right answers of the nearest of the first n_shot rows of each class."""
    rows, kept, right = normalize(data.flatten(1), dim=1), [], []
    for row, label in enumerate(labels.tolist()):
        if sum(other == label for _, other in kept) < n_shot:
            kept.append((row, label))
    for row, label in enumerate(labels.tolist()):
        if row not in [each for each, _ in kept]:
            best = max(kept, key=lambda one: float(rows[one[0]] @ rows[row]))
            right.append(best[1] == label)
    return sum(right) / len(right)


def every(memory_size=64, width=5, **options):
    """A memory of a slot a row, as the judge has it."""
    return Memory(width, memory_size, update=FirstInFirstOut(), **options)


@given(st.integers(1, 3), st.integers(0, 99), st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(n_shot, seed, shuffler):
    data, labels = task(seed=seed)
    order = list(range(len(data)))
    shuffler.shuffle(order)
    found = task_accuracy(every(), [(data[order], labels[order])], nn.Identity(), n_shot=n_shot)
    assert found.mean == pytest.approx(by_hand(data[order], labels[order], n_shot))


def test_labels_are_names_within_a_task_only():
    data, labels = task()
    plain = task_accuracy(every(), [(data, labels)], nn.Identity(), n_shot=1)
    for names in ([7, 3, 5], [-1, 1000, 0], [2, 0, 1]):
        named = torch.tensor(names)[labels]
        assert task_accuracy(every(), [(data, named)], nn.Identity(), n_shot=1) == plain
    # The same labels for the opposite classes, from one task to the next.
    turned = [(data, labels), (data, labels.flip(0)), (data, (labels + 1) % 3)]
    assert task_accuracy(every(), turned, nn.Identity(), n_shot=1).mean == pytest.approx(plain.mean)


def test_classes_may_differ_in_their_number():
    data, labels = task(n_each=5)
    kept = torch.tensor([0, 1, 5, 6, 7, 10, 11, 12, 13])
    found = task_accuracy(every(), [(data[kept], labels[kept])], nn.Identity(), n_shot=1)
    assert found.mean == pytest.approx(by_hand(data[kept], labels[kept], 1))


def test_accuracy_is_the_mean_over_tasks_with_its_interval():
    tasks = [task(seed=seed) for seed in range(9)]
    shares = torch.tensor([by_hand(*each, 2) for each in tasks])
    assert task_accuracy(every(), tasks, nn.Identity(), n_shot=2) == pytest.approx(
        Accuracy.of(shares)
    )
    some = task_accuracy(every(), tasks, nn.Identity(), n_shot=2, n_tasks=4)
    assert some == pytest.approx(Accuracy.of(shares[:4]))


def test_every_shot_is_written_on_its_own_so_that_averaging_has_a_say():
    data, labels = task(seed=3)
    memory, parts = Memory(5, 16), parted(labels, 2)
    for shot in parts.shots:
        memory.write(data[shot], labels[shot])
    right = memory(data[parts.query], k=1).prediction == labels[parts.query]
    found = task_accuracy(Memory(5, 16), [(data, labels)], nn.Identity(), n_shot=2)
    assert found.mean == pytest.approx(right.float().mean().item())


def test_memory_and_encoder_are_afterwards_as_they_were():
    memory = every()
    memory.write(torch.eye(5), torch.arange(5))
    encoder = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout()).train()
    encoder[1].eval()
    before, weights = bits(memory), {k: v.clone() for k, v in encoder.state_dict().items()}
    task_accuracy(memory, [task()], encoder, n_shot=1)
    assert bits(memory) == before and encoder.training and not encoder[1].training
    assert all(torch.equal(weights[name], part) for name, part in encoder.state_dict().items())


def test_an_example_in_support_and_query_is_refused():
    data, labels = task()
    data[6] = data[4]
    with pytest.raises(ValueError, match="rows 4 and 6 of task 1 are one example, in support and"):
        task_accuracy(every(), [task(), (data, labels)], nn.Identity(), n_shot=1)
    # Twice within the query, it has been shown to nobody.
    data[4] += 1
    data[7] = data[6]
    task_accuracy(every(), [(data.bfloat16(), labels)], nn.Identity(), n_shot=1)


def test_a_task_without_a_query_is_refused():
    data, labels = task(n_each=2)
    for n_shot in (2, 3):
        with pytest.raises(ValueError, match=f"class 0 of task 0 has 2 .* n_shot is {n_shot}"):
            task_accuracy(every(), [(data, labels)], nn.Identity(), n_shot=n_shot)
    with pytest.raises(ValueError, match="n_shot must be an integer of at least 1, not 0"):
        task_accuracy(every(), [(data, labels)], nn.Identity(), n_shot=0)
    with pytest.raises(ValueError, match="there are no tasks"):
        task_accuracy(every(), [], nn.Identity(), n_shot=1)


def test_tasks_without_end_are_refused_unless_it_is_said_how_many():
    class Endless:
        num_tasks = -1

        def __iter__(self):
            # An end all the same, for a door that does not see that there is none.
            return (task(seed=seed) for seed in range(9))

    with pytest.raises(ValueError, match="have no end: say how many with n_tasks="):
        task_accuracy(every(), Endless(), nn.Identity(), n_shot=1)
    found = task_accuracy(every(), Endless(), nn.Identity(), n_shot=1, n_tasks=5)
    assert found == task_accuracy(
        every(), [task(seed=s) for s in range(5)], nn.Identity(), n_shot=1
    )


def episodes(**options):
    options = {"n_way": 3, "n_shot": 2, "n_query": 2, "n_tasks": 50, **options}
    return EpisodeTasks(GLYPHS.images, **options)


@given(st.integers(0, 49), st.integers(0, 9))
def test_a_task_is_of_distinct_drawings_class_by_class(index, seed):
    data, labels = episodes(seed=seed)[index]
    assert data.shape == (12, 1, 28, 28) and data.dtype == torch.float32
    assert data.min() == 0 and 0.9 < data.max() <= 1
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    places = [
        (GLYPHS.images == (row * 255).round().byte()).flatten(2).all(2).nonzero().tolist()
        for row in data
    ]
    assert all(len(place) == 1 for place in places)
    assert len({tuple(place[0]) for place in places}) == 12
    classes = torch.tensor(places)[:, 0, 0].view(3, 4)
    assert (classes == classes[:, :1]).all() and len(classes[:, 0].unique()) == 3


def test_a_task_depends_on_the_seed_and_its_number_alone():
    one, other = episodes(), episodes()
    one.sample()
    for index in (0, 7, 49):
        assert torch.equal(one[index][0], other[index][0])
    assert not torch.equal(one[0][0], one[1][0])
    assert not torch.equal(one[0][0], episodes(seed=1)[0][0])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert len([*one]) == len(one) == 50
    assert torch.equal(torch.get_rng_state(), state)


def test_tasks_are_sampled_from_all_of_them_and_come_through_loaders():
    tasks = episodes(n_tasks=3)
    there = [data for data, _ in tasks]
    drawn = [tasks.sample()[0] for _ in range(40)]
    assert all(any(torch.equal(data, one) for data in drawn) for one in there)
    assert all(any(torch.equal(data, one) for one in there) for data in drawn)
    for (data, _), one in zip(DataLoader(tasks, batch_size=None), there, strict=True):
        assert torch.equal(data, one)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"there is no task {index} among 3"):
            tasks[index]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"n_shot 5 \+ n_query 2 = 7, but a class has 6"):
        episodes(n_shot=5)[0]
    with pytest.raises(ValueError, match="n_tasks must be an integer of at least 1, not 0"):
        episodes(n_tasks=0)


def test_our_own_tasks_are_answered_as_our_own_protocol_answers_them():
    tasks = episodes(n_tasks=300, n_shot=1, n_query=3)
    found = task_accuracy(every(width=784), tasks, Flat(), n_shot=1)
    flat = GLYPHS.images.flatten(2) / 255
    ours = support_query_accuracy(
        every(width=784), flat, n_way=3, n_shot=1, n_query=3, n_episodes=300
    )
    assert abs(found.mean - ours.mean) < found.interval + ours.interval
    assert 0.4 < found.mean < 0.95


@pytest.fixture
def l2l():
    """learn2learn, whose import warns of gym and of more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "learn2learn",
            reason="learn2learn is not installed (it needs NumPy 1): make learn2learn",
        )


def its_tasks(l2l, *, n_way=3, k=4, num_tasks=20, replacement=False, images=GLYPHS.images):
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    rows = images.flatten(0, 1).unsqueeze(1) / 255
    dataset = l2l.data.MetaDataset(TensorDataset(rows, labels))
    transforms = [
        l2l.data.transforms.NWays(dataset, n_way),
        l2l.data.transforms.KShots(dataset, k, replacement=replacement),
        l2l.data.transforms.LoadData(dataset),
        l2l.data.transforms.RemapLabels(dataset),
    ]
    return l2l.data.Taskset(dataset, transforms, num_tasks=num_tasks)


@pytest.mark.parametrize("n_shot", [1, 2])
def test_its_taskset_feeds_our_evaluation(l2l, n_shot):
    random.seed(0)
    tasks = its_tasks(l2l)
    found = task_accuracy(every(width=784), tasks, Flat(), n_shot=n_shot)
    # Its descriptions of tasks are kept: these are the same tasks.
    shares = [by_hand(*each, n_shot) for each in tasks]
    assert found.mean == pytest.approx(sum(shares) / 20)


def test_its_split_of_a_task_is_ours(l2l):
    random.seed(0)
    for data, labels in its_tasks(l2l):
        (shown, names), (asked, right) = l2l.data.partition_task(data, labels, shots=2)
        parts = parted(labels, 2)
        ours = torch.stack(parts.shots, dim=1).flatten()
        assert torch.equal(data[ours], shown) and torch.equal(labels[ours], names)
        assert torch.equal(labels[parts.query].sort()[0], right) and len(asked) == len(parts.query)


def test_its_sampling_with_replacement_is_caught(l2l):
    random.seed(0)
    tasks = its_tasks(l2l, k=6, replacement=True)
    with pytest.raises(ValueError, match="are one example, in support and query: sample without"):
        task_accuracy(every(width=784), tasks, Flat(), n_shot=3)


def test_its_tasks_without_end_are_caught(l2l):
    random.seed(0)
    tasks = its_tasks(l2l, num_tasks=-1)
    with pytest.raises(ValueError, match="have no end"):
        task_accuracy(every(width=784), tasks, Flat(), n_shot=1)
    assert task_accuracy(every(width=784), tasks, Flat(), n_shot=1, n_tasks=5).mean > 0.3


def test_our_episodes_stand_in_for_its_taskset(l2l):
    data, labels = episodes().sample()
    (shown, names), (asked, right) = l2l.data.partition_task(data, labels, shots=2)
    rows = data.view(3, 4, 1, 28, 28)
    assert torch.equal(shown, rows[:, :2].flatten(0, 1)) and names.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(asked, rows[:, 2:].flatten(0, 1)) and torch.equal(names, right)
    # The other split of its examples: every second row is the support.
    assert labels[::2].tolist() == labels[1::2].tolist() == names.tolist()


def test_our_episodes_train_its_maml(l2l):
    tasks = episodes(n_shot=1)
    maml = l2l.algorithms.MAML(nn.Sequential(Flat(), nn.Linear(784, 3)), lr=0.05)
    for _ in range(3):
        support, query = l2l.data.partition_task(*tasks.sample(), shots=1)
        learner = maml.clone()
        before = cross_entropy(learner(support[0]), support[1])
        learner.adapt(before)
        assert cross_entropy(learner(support[0]), support[1]) < before
        cross_entropy(learner(query[0]), query[1]).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in maml.parameters())


@pytest.mark.usefixtures("l2l")
def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "learn2learn_maml.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    maml, memory = map(int, re.findall(r"(\d+)%", done.stdout))
    assert 40 < maml < memory and memory > 90
