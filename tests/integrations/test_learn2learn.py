import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
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


def task(n_way=3, n_each=4, seed=0, width=5):
    """Rows of a few random directions, sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_way, 1, width, generator=generator)
    data = centres + 0.8 * torch.randn(n_way, n_each, width, generator=generator)
    return data.flatten(0, 1), torch.arange(n_way).repeat_interleave(n_each)


def expected(data, labels, n_shot):
    """The accuracy of the nearest of the first n_shot rows of each class, by loops."""
    rows, support, correct = normalize(data.flatten(1), dim=1), [], []
    for row, label in enumerate(labels.tolist()):
        if sum(other == label for _, other in support) < n_shot:
            support.append((row, label))
    for row, label in enumerate(labels.tolist()):
        if row not in [each for each, _ in support]:
            nearest = max(support, key=lambda one: float(rows[one[0]] @ rows[row]))
            correct.append(nearest[1] == label)
    return sum(correct) / len(correct)


def found(tasks, n_shot=1, encoder=None, width=5, **options):
    """The accuracy of a memory with one slot per row, as `expected` has it."""
    memory = Memory(width, 64, update=FirstInFirstOut())
    return task_accuracy(memory, tasks, encoder or nn.Identity(), n_shot=n_shot, **options)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(0, 99), st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(n_shot, seed, shuffler):
    data, labels = task(seed=seed)
    order = list(range(len(data)))
    shuffler.shuffle(order)
    shuffled = data[order], labels[order]
    assert found([shuffled], n_shot).mean == pytest.approx(expected(*shuffled, n_shot))


def test_labels_have_a_meaning_within_a_task_only():
    data, labels = task()
    accuracy = found([(data, labels)])
    for names in ([7, 3, 5], [-1, 1000, 0], [2, 0, 1]):
        assert found([(data, torch.tensor(names)[labels])]) == accuracy
    # The same labels for other classes, from one task to the next.
    permuted = [(data, labels), (data, labels.flip(0)), (data, (labels + 1) % 3)]
    assert found(permuted).mean == pytest.approx(accuracy.mean)


def test_classes_may_differ_in_size():
    data, labels = task(n_each=5)
    some = torch.tensor([0, 1, 5, 6, 7, 10, 11, 12, 13])
    assert found([(data[some], labels[some])]).mean == pytest.approx(
        expected(data[some], labels[some], 1)
    )


def test_accuracy_is_the_mean_over_tasks_with_its_interval():
    tasks = [task(seed=seed) for seed in range(9)]
    accuracies = torch.tensor([expected(*each, 2) for each in tasks])
    assert found(tasks, 2) == pytest.approx(Accuracy.of(accuracies))
    assert found(tasks, 2, n_tasks=4) == pytest.approx(Accuracy.of(accuracies[:4]))


def test_every_shot_is_a_write_so_that_shots_are_averaged():
    data, labels = task(seed=3)
    memory, parts = Memory(5, 16), parted(labels, 2)
    for shot in parts.shots:
        memory.write(data[shot], labels[shot])
    correct = memory(data[parts.query], k=1).prediction == labels[parts.query]
    accuracy = task_accuracy(Memory(5, 16), [(data, labels)], nn.Identity(), n_shot=2)
    assert accuracy.mean == pytest.approx(correct.float().mean().item())


def test_memory_and_encoder_are_restored():
    memory = Memory(5, 64, update=FirstInFirstOut())
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
        found([task(), (data, labels)])
    # Twice among the queries does no harm.
    data[4] += 1
    data[7] = data[6]
    found([(data.bfloat16(), labels)])


@pytest.mark.parametrize(
    ("tasks", "n_shot", "message"),
    [
        ([task(n_each=2)], 2, "class 0 of task 0 has 2 .* n_shot is 2"),
        ([task(n_each=2)], 3, "class 0 of task 0 has 2 .* n_shot is 3"),
        ([task(n_each=2)], 0, "n_shot must be an integer of at least 1, not 0"),
        ([], 1, "there are no tasks"),
    ],
)
def test_tasks_without_queries_or_support_are_refused(tasks, n_shot, message):
    with pytest.raises(ValueError, match=message):
        found(tasks, n_shot)


def test_endless_tasks_are_refused_without_their_number():
    class Endless:
        num_tasks = -1

        def __iter__(self):
            # It does end, so that a failing test does too.
            return (task(seed=seed) for seed in range(9))

    with pytest.raises(ValueError, match="have no end: give n_tasks="):
        found(Endless())
    assert found(Endless(), n_tasks=5) == found([task(seed=seed) for seed in range(5)])


def episodes(**options):
    options = {"n_way": 3, "n_shot": 2, "n_query": 2, "n_tasks": 50, **options}
    return EpisodeTasks(GLYPHS.images, **options)


@given(st.integers(0, 49), st.integers(0, 9))
def test_a_task_has_distinct_drawings_sorted_by_class(index, seed):
    data, labels = episodes(seed=seed)[index]
    assert data.shape == (12, 1, 28, 28) and data.dtype == torch.float32
    assert data.min() == 0 and 0.9 < data.max() <= 1
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    equal = (GLYPHS.images.unsqueeze(0) == (data * 255).round().byte().unsqueeze(1)).flatten(3)
    rows, classes, drawings = equal.all(3).nonzero(as_tuple=True)
    assert rows.tolist() == list(range(12))
    assert len({*zip(classes.tolist(), drawings.tolist(), strict=True)}) == 12
    classes = classes.view(3, 4)
    assert (classes == classes[:, :1]).all() and len(classes[:, 0].unique()) == 3


def test_a_task_depends_on_the_seed_and_its_number_only():
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
    contents = [data.numpy().tobytes() for data, _ in tasks]
    assert {tasks.sample()[0].numpy().tobytes() for _ in range(40)} == {*contents}
    loaded = DataLoader(tasks, batch_size=None)
    assert [data.numpy().tobytes() for data, _ in loaded] == contents
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"there is no task {index} among 3"):
            tasks[index]


def test_episodes_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match=r"n_shot 5 \+ n_query 2 = 7, but a class has 6"):
        episodes(n_shot=5)[0]
    with pytest.raises(ValueError, match="n_tasks must be an integer of at least 1, not 0"):
        episodes(n_tasks=0)


def test_our_tasks_have_the_accuracy_of_our_protocol():
    tasks = episodes(n_tasks=60, n_shot=1, n_query=3)
    accuracy = found(tasks, encoder=nn.Flatten(), width=784)
    memory = Memory(784, 64, update=FirstInFirstOut())
    pixels = GLYPHS.images.flatten(2) / 255
    ours = support_query_accuracy(memory, pixels, n_way=3, n_shot=1, n_query=3, n_episodes=60)
    assert abs(accuracy.mean - ours.mean) < accuracy.interval + ours.interval
    assert 0.4 < accuracy.mean < 0.95


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
    accuracy = found(tasks, n_shot, nn.Flatten(), 784)
    # A Taskset keeps its descriptions of tasks: iterating again gives the same ones.
    assert accuracy.mean == pytest.approx(sum(expected(*each, n_shot) for each in tasks) / 20)


def test_its_split_of_a_task_is_ours(l2l):
    random.seed(0)
    for data, labels in its_tasks(l2l):
        (support, names), (query, targets) = l2l.data.partition_task(data, labels, shots=2)
        parts = parted(labels, 2)
        ours = torch.stack(parts.shots, dim=1).flatten()
        assert torch.equal(data[ours], support) and torch.equal(labels[ours], names)
        assert torch.equal(labels[parts.query].sort()[0], targets)
        assert len(query) == len(parts.query)


def test_its_sampling_with_replacement_is_refused(l2l):
    random.seed(0)
    tasks = its_tasks(l2l, k=6, replacement=True)
    with pytest.raises(ValueError, match="are one example, in support and query: sample without"):
        found(tasks, 3, nn.Flatten(), 784)


def test_its_endless_tasks_are_refused(l2l):
    random.seed(0)
    tasks = its_tasks(l2l, num_tasks=-1)
    with pytest.raises(ValueError, match="have no end"):
        found(tasks, 1, nn.Flatten(), 784)
    assert found(tasks, 1, nn.Flatten(), 784, n_tasks=5).mean > 0.3


def test_our_episodes_stand_in_for_its_taskset(l2l):
    data, labels = episodes().sample()
    (support, names), (query, targets) = l2l.data.partition_task(data, labels, shots=2)
    rows = data.view(3, 4, 1, 28, 28)
    assert torch.equal(support, rows[:, :2].flatten(0, 1)) and names.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(query, rows[:, 2:].flatten(0, 1)) and torch.equal(names, targets)
    # The other split of its examples: every second row is the support.
    assert labels[::2].tolist() == labels[1::2].tolist() == names.tolist()


def test_our_episodes_train_its_maml(l2l):
    tasks = episodes(n_shot=1)
    maml = l2l.algorithms.MAML(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), lr=0.05)
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
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "learn2learn_maml.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    maml, memory = map(int, re.findall(r"(\d+)%", result.stdout))
    assert 40 < maml < memory and memory > 90
