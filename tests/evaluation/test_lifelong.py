"""Streams through one memory, against loops over the paper's memory."""

import pytest
import torch
from torch import Generator

from rarememory import AverageOrReplace, FirstInFirstOut, Memory
from rarememory.data import Stream, random_stream
from rarememory.evaluation import Accuracy, lifelong_accuracy, lifelong_forgetting
from tests.evaluation.embeddings import noisy
from tests.memories import bits
from tests.oracle import PaperMemory

SLOTS = 6


def stream_of(embeddings, seed=0):
    return random_stream(*embeddings.shape[:2], generator=Generator().manual_seed(seed))


def paper_memory(memory_size=SLOTS, **options):
    return Memory(5, memory_size, update=AverageOrReplace(age_noise=0.0), **options)


def shown(stream):
    return list(zip(stream.classes.tolist(), stream.drawings.tolist(), strict=True))


def test_each_drawing_is_answered_and_then_learnt_by_one_memory_that_is_never_cleared():
    embeddings = noisy(8, 5, spread=0.5)
    stream, oracle = stream_of(embeddings), PaperMemory(5, SLOTS)
    correct = {n: [] for n in range(5)}
    seen = [0] * 8
    for label, drawing in shown(stream):
        query = embeddings[label, drawing].tolist()
        correct[seen[label]].append(float(oracle.read(query, 1).prediction == label))
        oracle.write([query], [label])
        seen[label] += 1
    found = lifelong_accuracy(paper_memory(), embeddings, stream)
    assert found == [Accuracy.of(torch.tensor(every)) for every in correct.values()]
    assert found[0].mean == 0 < found[2].mean < 1 and len(correct[3]) == 8


def test_forgetting_is_what_was_known_after_the_last_writing_and_is_not_at_the_end():
    embeddings = noisy(8, 5, spread=0.5)
    stream, oracle = stream_of(embeddings), PaperMemory(5, SLOTS)
    places = {label: [d for c, d in shown(stream) if c == label] for label in range(8)}
    lost, seen = {}, [0] * 8
    for label, drawing in shown(stream):
        held = embeddings[label, places[label][-1]].tolist()
        if drawing == places[label][-1]:
            continue
        oracle.write([embeddings[label, drawing].tolist()], [label])
        seen[label] += 1
        if seen[label] == 4:
            lost[label] = float(oracle.read(held, 1).prediction == label)
    for label, order in places.items():
        held = embeddings[label, order[-1]].tolist()
        lost[label] -= float(oracle.read(held, 1).prediction == label)
    found = lifelong_forgetting(paper_memory(), embeddings, stream)
    assert found == Accuracy.of(torch.tensor(list(lost.values())))
    assert found.mean > 0


def test_forgetting_means_what_the_metric_of_that_name_means():
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from rarememory.integrations.torchmetrics import Forgetting

    # Three classes, one after the other, through two slots: only the first is lost.
    embeddings = torch.eye(3).unsqueeze(1).expand(-1, 3, -1)
    stream = Stream(torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3))
    memory = Memory(3, 2, update=AverageOrReplace(age_noise=0.0))
    metric, label = Forgetting(), torch.tensor([1])
    for task, (at_once, at_end) in enumerate([(1, 0), (1, 1), (1, 1)]):
        metric.update(label * at_once, label, task=torch.tensor([task]))
        metric.next_stage()
        metric.stage = torch.tensor(9)
        metric.update(label * at_end, label, task=torch.tensor([task]))
        metric.stage = torch.tensor(task + 1)
    found = lifelong_forgetting(memory, embeddings, stream)
    assert found.mean == pytest.approx(float(metric.compute())) == pytest.approx(1 / 3)


@pytest.mark.parametrize("measure", [lifelong_accuracy, lifelong_forgetting])
def test_a_stream_leaves_the_memory_as_it_was_and_starts_from_nothing(measure):
    embeddings = noisy(8, 5, spread=0.5)
    memory, empty = paper_memory(), paper_memory()
    memory.write(embeddings[0, 0], torch.tensor(0))
    before = bits(memory)
    assert measure(memory, embeddings, stream_of(embeddings)) == measure(
        empty, embeddings, stream_of(embeddings)
    )
    assert bits(memory) == before


def test_the_vote_answers_by_the_sum_of_weights_and_may_overrule_the_nearest():
    # Class 0 once, nearest to the query; class 1 twice, a little further off.
    keys = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [0.0, 1.0]])
    query = torch.tensor([0.99, 0.1])
    embeddings = torch.stack([torch.stack([keys[0], query, keys[3]]), keys[[1, 2, 3]]])
    stream = Stream(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]))
    ask = {"k": 3, "update": FirstInFirstOut()}
    nearest = lifelong_accuracy(Memory(2, 8, temperature=9.0, **ask), embeddings, stream)
    voted = lifelong_accuracy(Memory(2, 8, temperature=9.0, **ask), embeddings, stream, vote=True)
    cold = lifelong_accuracy(Memory(2, 8, temperature=0.01, **ask), embeddings, stream, vote=True)
    # At the second sighting: class 1 is answered rightly by each, class 0 is outvoted if warm.
    assert [found[1].mean for found in (nearest, voted, cold)] == [0.5, 0.0, 0.5]


def test_forgetting_votes_too():
    keys = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    embeddings = torch.stack([keys[[0, 0, 0]], keys])[:, [0, 1, 2]].clone()
    embeddings[1] = keys[[1, 2, 2]]
    stream = Stream(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2]))
    memory = Memory(2, 8, k=3, temperature=9.0, update=FirstInFirstOut())
    assert lifelong_forgetting(memory, embeddings, stream).mean == 0.0
    assert lifelong_forgetting(memory, embeddings, stream, vote=True).mean == 0.5


def test_where_classes_come_unequally_often_those_count_that_come_so_often():
    embeddings = torch.eye(3).unsqueeze(1).expand(-1, 4, -1)
    stream = Stream(torch.tensor([0, 1, 0, 0, 1, 2]), torch.tensor([0, 0, 1, 2, 1, 0]))
    found = lifelong_accuracy(Memory(3, 8), embeddings, stream)
    assert [one.mean for one in found] == [0.0, 1.0, 1.0]
    assert found[1].interval == 0.0 and found[2].interval == float("inf")
    with pytest.raises(ValueError, match="class 2 comes once in the stream"):
        lifelong_forgetting(Memory(3, 8), embeddings, stream)


def test_the_bar_sees_the_whole_stream():
    embeddings, seen = noisy(8, 5, spread=0.5), []
    bar = lambda places: (seen.append(place) or place for place in places)  # noqa: E731
    lifelong_accuracy(paper_memory(), embeddings, stream_of(embeddings), bar=bar)
    assert seen == list(range(40))
