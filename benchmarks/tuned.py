"""Tuned keys beside the keys as they were learnt, and beside a trained head, over frozen features.

    python -m benchmarks.tuned --data <folder>

Classes, examples and queries are those of `benchmarks.worlds`: a host's old classes and 20 examples
of each new one, in several draws. Everything gets the same examples, old ones too, and stops by the
same held-out ones. `finetune` runs as it comes, over the nearest reader and over the fitted one;
the calibrated rows have seen `calibrate` on the held-out examples, before tuning and after it.
The head is a linear layer over the same features for all classes, which starts from the host's own
rows and is trained by the same optimizer. CLINC150 has no host. Features are used if they are in
runs/worlds. Differences are those to the untuned keys in each draw.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run, bar, print_table
from benchmarks.worlds.data import SOURCES, load
from benchmarks.worlds.draws import Draw, Task, share_correct
from rarememory import FirstInFirstOut, Memory, MemoryClassifier, wrap
from rarememory.evaluation import Accuracy

WORLDS = ("cifar100", "caltech101", "clinc150")
KEPT = Path("runs/worlds")
HEAD_EPOCHS, PATIENCE, LEARNING_RATE, BATCH = 200, 20, 1e-3, 256
Row = dict[str, float]
"""The accuracy of old and of new classes, and their harmonic mean."""

BENCHMARK = Benchmark("benchmarks.tuned", __doc__)
BENCHMARK.add_data("worlds", "folder with the data sets; downloaded into data/worlds if left out")
BENCHMARK.add("--seeds", type=int, default=3, help="draws of classes and examples")
BENCHMARK.add("--shots", type=int, default=20, help="examples of each new class")
BENCHMARK.add("--world", nargs="+", choices=WORLDS, default=list(WORLDS), decisive=False)


@BENCHMARK
def main(run: Run) -> None:
    """Draw, learn, tune, ask; write a result file for each world."""
    options, command = run.options, run.command.partition(" --world")[0]
    for name in options.world:
        world = load(name, Path(options.data or "data/worlds"), KEPT)
        n_old, draws = SOURCES[name].n_old, []
        for seed in bar(name, "draw")(range(options.seeds)):
            draw = Draw(world, seed, n_old=n_old, published=not n_old)
            draws.append(rows_of(draw.task(options.shots)))
        rows = {row: [draw[row] for draw in draws] for row in draws[0]}
        _print(rows, f"{name}, {options.shots} examples a class")
        run.command = f"{command} --world {name}"
        run.write(f"tuned_{name}", figures_of(f"tuned.{name}", rows), seeds=options.seeds)


def rows_of(task: Task) -> dict[str, Row]:
    """The accuracy of each way on the queries, and the epochs that tuning kept."""
    examples, held_out, queries = (
        (torch.from_numpy(features), torch.from_numpy(labels))
        for features, labels in (
            (task.examples, task.labels),
            (task.held_out, task.held_out_labels),
            (task.queries, task.query_labels),
        )
    )
    found: dict[str, Row] = {}
    given = (held_out[0], held_out[1].tolist())
    for reader, calibrated in product(("nearest", "fitted"), (False, True)):
        name = f"{reader}_calibrated" if calibrated else reader
        classifier = _learnt(task, reader)
        if calibrated:
            classifier.calibrate(*given)
        found[name] = _share(classifier.predict(queries[0]), task)
        best = classifier.finetune(examples[0], examples[1].tolist(), held_out=given).best
        if calibrated:
            classifier.calibrate(*given)
        found[f"{name}_tuned"] = _share(classifier.predict(queries[0]), task)
        found[f"{name}_tuned"]["epoch"] = best / 100
    head = trained_head(_start(task), examples, held_out)
    return found | {"head": _share(head(queries[0]).argmax(1), task)}


def _learnt(task: Task, reader: str) -> MemoryClassifier:
    """A classifier that has learnt all examples, each in a slot of its own."""
    model: nn.Module = nn.Identity()
    if task.head is not None:
        model = _linear(*map(torch.from_numpy, task.head))
    memory = None
    if reader == "nearest":
        memory = Memory(task.examples.shape[1], len(task.labels), update=FirstInFirstOut())
    classifier = wrap(model, host=task.head is not None, reader=reader, memory=memory)
    old = task.labels < task.n_old
    for some in (old, ~old) if task.n_old else (~old,):
        classifier.learn(torch.from_numpy(task.examples[some]), task.labels[some].tolist())
    return classifier


def _linear(weights: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], len(weights))
    layer.load_state_dict({"weight": weights, "bias": bias})
    return layer


def _start(task: Task) -> nn.Linear:
    """A head for all classes: the host's rows, and zeros for the new ones."""
    classes, width = int(task.labels.max()) + 1, task.examples.shape[1]
    weights, bias = torch.zeros(classes, width), torch.zeros(classes)
    if task.head is not None:
        weights[: task.n_old], bias[: task.n_old] = map(torch.from_numpy, task.head)
    return _linear(weights, bias)


def trained_head(
    head: nn.Linear, examples: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]
) -> nn.Linear:
    """The head of the epoch that answers the held-out examples best, as `finetune` chooses it."""
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    draw, best, kept, last = torch.Generator().manual_seed(0), _merit(head, held_out), None, 0
    for epoch in range(1, HEAD_EPOCHS + 1):
        for rows in torch.randperm(len(examples[1]), generator=draw).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(head(examples[0][rows]), examples[1][rows]).backward()
            optimizer.step()
        merit = _merit(head, held_out)
        if kept is None or merit > best:
            best, kept, last = merit, deepcopy(head), epoch
        if epoch - last >= PATIENCE:
            break
    assert kept is not None
    return kept


@torch.no_grad()
def _merit(head: nn.Linear, held_out: tuple[Tensor, Tensor]) -> tuple[float, float]:
    logits, labels = head(held_out[0]), held_out[1]
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return accuracy, -cross_entropy(logits, labels).item()


def _share(answers: Sequence[int] | Tensor, task: Task) -> Row:
    return share_correct(np.asarray(answers), task.query_labels, task.n_old)


def figures_of(key: str, rows: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """In percent every row, and by how many points of each draw it is above its untuned keys.

    The head is compared with the nearest reader's and with the fitted reader's untuned keys.
    """
    figures: dict[str, float] = {}
    for name, draws in rows.items():
        others = ("nearest", "fitted") if name == "head" else (name.removesuffix("_tuned"),)
        for part in draws[0]:
            mine = torch.tensor([draw[part] for draw in draws], dtype=torch.float64)
            figures |= percent({f"{name}.{part}": Accuracy.of(mine)}, key)
            for other in others:
                if other == name or part == "epoch":
                    continue
                theirs = torch.tensor([draw[part] for draw in rows[other]], dtype=torch.float64)
                over = f"{name}.over_{other}.{part}"
                figures |= percent({over: Accuracy.of(mine - theirs)}, key)
    return figures


def _print(rows: Mapping[str, Sequence[Row]], title: str) -> None:
    parts = list(rows["nearest_tuned"][0])
    shown = [
        (name, *(f"{100 * np.mean([draw[part] for draw in draws]):.1f}" for part in draws[0]))
        for name, draws in rows.items()
    ]
    print_table(["", *parts], shown, title)


if __name__ == "__main__":
    sys.exit(main())
