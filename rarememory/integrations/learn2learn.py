"""The door to learn2learn: its tasks for our evaluation, our episodes for its algorithms.

A task is (data, labels), a row an example. Nothing of learn2learn is imported here: any iterable of
tasks will do in place of its `Taskset`.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Generator, Tensor, nn

from rarememory.base.validation import check_count
from rarememory.classifier.feature_extractor import evaluation_mode
from rarememory.data.episodes import support_query_episode
from rarememory.evaluation import Accuracy
from rarememory.memory import Memory

Task = tuple[Float[Tensor, "rows 1 height width"], Int64[Tensor, " rows"]]


@torch.no_grad()
def task_accuracy(
    memory: Memory,
    tasks: Iterable[Any],
    encoder: nn.Module,
    *,
    n_shot: int,
    n_tasks: int | None = None,
) -> Accuracy:
    """Write n_shot examples of each class of a task, answer the others; the mean over tasks.

    Labels mean something within a task only, so every task has the memory to itself. Rows may come
    in any order, and classes may differ in their number: the first n_shot rows of a class are the
    support, written shot by shot, and whatever follows is asked. The encoder is in evaluation mode,
    so that no query has a say in another's answer. Memory and encoder are afterwards as before.

    It cannot see whether the classes were trained on. Many were if the tasks are those of
    `learn2learn.vision.benchmarks.get_tasksets("omniglot")` (0.2.0), whose test tasks draw from the
    training classes too: make a `Taskset` of a `MetaDataset` that holds test classes alone.

    Args:
        memory: is cleared for every task.
        tasks: a `Taskset`, or anything that yields (data, labels).
        encoder: takes the data of a task as they are.
        n_shot: examples of each class to remember.
        n_tasks: how many; all of them if None.

    Raises:
        ValueError: n_shot is less than 1; there are no tasks, or no end of them; a class has no
            example to ask about; or an example is in support and query.

    Example:
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
        >>> tasks = [(data, torch.tensor([4, 6, 4, 6]))]
        >>> task_accuracy(Memory(2, 8), tasks, nn.Identity(), n_shot=1).mean
        1.0
    """
    check_count("n_shot", n_shot)
    if n_tasks is None and getattr(tasks, "num_tasks", None) == -1:
        raise ValueError("num_tasks is -1, so these tasks have no end: say how many with n_tasks=")
    right = []
    with memory.snapshot(), evaluation_mode(encoder):
        for number, (data, labels) in enumerate(islice(tasks, n_tasks)):
            parts = parted(labels, n_shot, f"task {number}")
            _refuse_leaks(data, parts, f"task {number}")
            memory.clear()
            queries = encoder(data.to(_device(encoder, data))).to(memory.keys.device)
            labels = parts.labels.to(memory.keys.device)
            for shot in parts.shots:
                memory.write(queries[shot], labels[shot])
            answer = memory(queries[parts.query], k=1).prediction
            right.append((answer == labels[parts.query]).float().mean().cpu())
    if not right:
        raise ValueError("there are no tasks: an accuracy needs at least 1")
    return Accuracy.of(torch.stack(right))


class Parts(NamedTuple):
    """Rows of a task: those of the first shot, of the second, ...; those to ask; all labels.

    Example:
        >>> labels = torch.tensor([9, 5, 9, 5, 9])
        >>> shots, query, _ = parted(labels, n_shot=1)
        >>> labels[shots[0]], labels[query]
        (tensor([5, 9]), tensor([9, 5, 9]))
    """

    shots: list[Int64[Tensor, " n_way"]]
    query: Int64[Tensor, " queries"]
    labels: Int64[Tensor, " rows"]


def parted(labels: Int[Tensor, " rows"], n_shot: int, task: str = "the task") -> Parts:
    """The first n_shot rows of each class, and the others; labels from 0 on.

    Raises:
        ValueError: a class has n_shot rows or fewer.

    Example:
        >>> parts = parted(torch.tensor([9, 5, 9, 5, 9]), n_shot=1)
        >>> parts.shots, parts.query, parts.labels
        ([tensor([1, 0])], tensor([2, 3, 4]), tensor([1, 0, 1, 0, 1]))
    """
    names, labels = torch.as_tensor(labels).cpu().unique(return_inverse=True)
    rows = [(labels == label).nonzero().squeeze(1) for label in range(len(names))]
    for name, own in zip(names.tolist(), rows, strict=True):
        if len(own) <= n_shot:
            raise ValueError(
                f"class {name} of {task} has {len(own)} examples, and n_shot is {n_shot}: sample "
                "more of each, KShots(dataset, k) with k = n_shot + queries"
            )
    shots = [torch.stack([own[shot] for own in rows]) for shot in range(n_shot)]
    query = torch.cat([own[n_shot:] for own in rows]).sort().values
    return Parts(shots, query, labels)


def _refuse_leaks(data: Tensor, parts: Parts, task: str) -> None:
    """A ValueError if an example to ask about is one of those remembered."""
    content = [row.flatten().view(torch.uint8).numpy().tobytes() for row in data.cpu()]
    shown = {content[row]: row for row in torch.cat(parts.shots).tolist()}
    for row in parts.query.tolist():
        if content[row] in shown:
            raise ValueError(
                f"rows {shown[content[row]]} and {row} of {task} are one example, in support and "
                "query: sample without replacement, from data without duplicates"
            )


def _device(encoder: nn.Module, data: Tensor) -> torch.device:
    return next(encoder.parameters(), data).device


class EpisodeTasks:
    """Support/query episodes as a `Taskset` gives tasks: `sample()`, `tasks[i]`, one by one.

    A task is data [n_way * (n_shot + n_query), 1, height, width] with ink 1 on 0, and labels 0 to
    n_way - 1 that mean another class in every task. Rows come class by class, the support first,
    and no drawing comes twice: `learn2learn.data.partition_task(data, labels, n_shot)` gives the
    episode, and any other split of so many a class is free of leaks too.

    Task i depends on the seed and on i alone.

    Args:
        images: of the classes to draw from, as `Characters.images`.
        n_way: classes of a task.
        n_shot: examples of each for the support.
        n_query: examples of each for the query.
        n_tasks: how many tasks there are.
        seed: of the tasks, and of the order in which `sample` draws them.

    Raises:
        ValueError: n_tasks is less than 1; or, when a task is drawn, another number is, or there
            are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> tasks = EpisodeTasks(draw_glyphs(9, 4).images, n_way=2, n_shot=1, n_query=2, n_tasks=10)
        >>> data, labels = tasks.sample()
        >>> data.shape, labels.tolist()
        (torch.Size([6, 1, 28, 28]), [0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        images: UInt8[Tensor, "classes drawings height width"],
        *,
        n_way: int,
        n_shot: int,
        n_query: int,
        n_tasks: int = 20_000,
        seed: int = 0,
    ) -> None:
        check_count("n_tasks", n_tasks)
        self.images = images
        self.n_way = n_way
        self.n_shot = n_shot
        self.n_query = n_query
        self.n_tasks = n_tasks
        self.seed = seed
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return self.n_tasks

    def __getitem__(self, index: int) -> Task:
        """Task `index`, the same every time."""
        if not 0 <= index < self.n_tasks:
            raise IndexError(f"there is no task {index} among {self.n_tasks}")
        seed = np.random.SeedSequence([self.seed, index]).generate_state(1)[0]
        support, query = support_query_episode(
            *self.images.shape[:2],
            n_way=self.n_way,
            n_shot=self.n_shot,
            n_query=self.n_query,
            generator=Generator().manual_seed(int(seed)),
        )
        classes = torch.cat([support.classes, query.classes], dim=1).flatten()
        drawings = torch.cat([support.drawings, query.drawings], dim=1).flatten()
        labels = torch.cat([support.labels, query.labels], dim=1).flatten()
        return self.images[classes, drawings].unsqueeze(1) / 255, labels

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(self.n_tasks))

    def sample(self) -> Task:
        """A task drawn at random."""
        return self[self._random.randrange(self.n_tasks)]
