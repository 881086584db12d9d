"""learn2learn: evaluate a memory on its tasks, and use our episodes for its algorithms.

A task is (data, labels), one row per example. Nothing of learn2learn is imported here: any iterable
of tasks can take the place of its `Taskset`.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Generator, Tensor, nn

from rarememory.base.validation import check_count
from rarememory.classifier.modes import evaluation_mode
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
    """Write n_shot examples of each class of a task, predict the others; the mean over tasks.

    The memory is cleared for every task, since labels have a meaning within a task only. Rows may
    come in any order, and classes may differ in size: the first n_shot rows of a class are the
    support, written shot by shot, and the others are the queries. The encoder is in evaluation
    mode. Memory and encoder are restored afterwards.

    It does not check that the classes are new. Many are not with
    `learn2learn.vision.benchmarks.get_tasksets("omniglot")` (0.2.0), whose test tasks draw from the
    training classes too: make a `Taskset` of a `MetaDataset` of test classes.

    Args:
        memory: is cleared for every task.
        tasks: a `Taskset`, or any iterable of (data, labels).
        encoder: takes the data of a task.
        n_shot: examples of each class to remember.
        n_tasks: how many tasks; all of them if None.

    Raises:
        ValueError: n_shot is less than 1; there are no tasks, or endless ones; a class has no
            query; or an example is in both support and query.

    Example:
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
        >>> tasks = [(data, torch.tensor([4, 6, 4, 6]))]
        >>> task_accuracy(Memory(2, 8), tasks, nn.Identity(), n_shot=1).mean
        1.0
    """
    check_count("n_shot", n_shot)
    if n_tasks is None and getattr(tasks, "num_tasks", None) == -1:
        raise ValueError("num_tasks is -1, so these tasks have no end: give n_tasks=")
    accuracies = []
    with memory.snapshot(), evaluation_mode(encoder):
        for number, (data, labels) in enumerate(islice(tasks, n_tasks)):
            parts = parted(labels, n_shot, f"task {number}")
            _check_no_leak(data, parts, f"task {number}")
            memory.clear()
            queries = encoder(data.to(_device(encoder, data))).to(memory.keys.device)
            labels = parts.labels.to(memory.keys.device)
            for shot in parts.shots:
                memory.write(queries[shot], labels[shot])
            predictions = memory(queries[parts.query], k=1).prediction
            accuracies.append((predictions == labels[parts.query]).float().mean().cpu())
    if not accuracies:
        raise ValueError("there are no tasks: an accuracy needs at least 1")
    return Accuracy.of(torch.stack(accuracies))


class Parts(NamedTuple):
    """The rows of each shot of the support, the rows of the queries, and the labels of all rows.

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
    """Split a task: the first n_shot rows of each class are the support; labels count from 0.

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


def _check_no_leak(data: Tensor, parts: Parts, task: str) -> None:
    content = [row.flatten().view(torch.uint8).numpy().tobytes() for row in data.cpu()]
    support = {content[row]: row for row in torch.cat(parts.shots).tolist()}
    for row in parts.query.tolist():
        if content[row] in support:
            raise ValueError(
                f"rows {support[content[row]]} and {row} of {task} are one example, in support and "
                "query: sample without replacement, from data without duplicates"
            )


def _device(encoder: nn.Module, data: Tensor) -> torch.device:
    return next(encoder.parameters(), data).device


@dataclass(eq=False)
class EpisodeTasks:
    """Support/query episodes with the interface of a `Taskset`: `sample()`, `tasks[i]`, iteration.

    A task is data [n_way * (n_shot + n_query), 1, height, width] with ink 1 on 0, and labels 0 to
    n_way - 1. Rows are sorted by class, the support first, and no drawing comes twice, so that
    `learn2learn.data.partition_task(data, labels, n_shot)` gives the episode. Task i depends on the
    seed and on i only.

    Args:
        images: of the classes to draw from, as `Characters.images`.
        n_way: classes of a task.
        n_shot: support examples per class.
        n_query: query examples per class.
        n_tasks: number of tasks.
        seed: of the tasks, and of the order in which `sample` draws them.

    Raises:
        ValueError: n_tasks is less than 1; or, when a task is drawn, another number is less than 1,
            or there are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> tasks = EpisodeTasks(draw_glyphs(9, 4).images, n_way=2, n_shot=1, n_query=2, n_tasks=10)
        >>> data, labels = tasks.sample()
        >>> data.shape, labels.tolist()
        (torch.Size([6, 1, 28, 28]), [0, 0, 0, 1, 1, 1])
    """

    images: UInt8[Tensor, "classes drawings height width"]
    _: KW_ONLY
    n_way: int
    n_shot: int
    n_query: int
    n_tasks: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_tasks", self.n_tasks)
        self._random = random.Random(self.seed)

    def __len__(self) -> int:
        return self.n_tasks

    def __getitem__(self, index: int) -> Task:
        """Task number `index`."""
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
        classes, drawings, labels = (
            torch.cat(pair, dim=1).flatten() for pair in zip(support, query, strict=True)
        )
        return self.images[classes, drawings].unsqueeze(1) / 255, labels

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(self.n_tasks))

    def sample(self) -> Task:
        """A random task."""
        return self[self._random.randrange(self.n_tasks)]
