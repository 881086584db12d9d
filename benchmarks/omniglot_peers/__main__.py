"""The memory and its peers on Omniglot, all in one run, on the same episodes.

    python -m benchmarks.omniglot_peers --data <folder> --split <folder of lists>

Every trained method sees as many drawings as the memory's encoder, of the same characters, with the
same jitter, through the same backbone. The numbers that a method leaves open are chosen on the
validation characters, by short trainings. Without --data Omniglot is downloaded through
torchvision. Trainings write checkpoints into runs/: after Ctrl-C the same command resumes. MAML has
a program of its own, benchmarks/omniglot_peers/maml.py.
"""

import sys

from benchmarks.omniglot_peers.drawings import Drawings, read, upright
from benchmarks.omniglot_peers.rows import ROWS, Details, Row, Setup
from benchmarks.omniglot_peers.tasks import USUAL, Task
from benchmarks.results import RUNS, percents
from benchmarks.runner import Benchmark, Run, bar, print_table
from rarememory.backbones import BACKBONES
from rarememory.evaluation import Accuracy
from rarememory.training import Recipe

MANY_WAY = 10
"""Many-way episodes are a tenth as many: each has thousands of queries."""

BENCHMARK = Benchmark("benchmarks.omniglot_peers", __doc__)
BENCHMARK.add_omniglot()
text = "of the memory's training; peers see as many drawings"
BENCHMARK.add("--steps", type=int, default=1000, help=text)
BENCHMARK.add("--backbone", choices=BACKBONES, default="residual")
BENCHMARK.add("--episodes", type=int, default=1000, help="to test by")
BENCHMARK.add("--seed", type=int, default=0)


@BENCHMARK
def main(run: Run) -> None:
    """Train, test, write the result."""
    options, fewest = run.options, 2 * MANY_WAY
    if options.episodes < fewest:
        raise ValueError(f"--episodes is {options.episodes}: intervals need at least {fewest}")
    drawings = read(options.data, options.split, options.backbone)
    setup = Setup(drawings, Recipe(steps=options.steps, seed=options.seed), options.backbone, RUNS)
    measured: dict[str, dict[Task, Accuracy]] = {}
    details: Details = {}
    for make in ROWS:
        rows, more = make(setup)
        details |= more
        for name, row in rows.items():
            measured[name] = _tested(name, row, drawings, options.episodes, options.seed)
    tasks = sorted({task for tested in measured.values() for task in tested})
    lines = [(name, *(row.get(task, "") for task in tasks)) for name, row in measured.items()]
    print_table(["", *map(str, tasks)], lines, "accuracy in percent")
    run.published &= drawings.published
    facts = {"split": drawings.checksum, "episodes": options.episodes, "backbone": options.backbone}
    run.write("omniglot_peers", percents(measured, "omniglot_peers"), **facts, rows=details)


def _tested(
    name: str, row: Row, drawings: Drawings, n_episodes: int, seed: int
) -> dict[Task, Accuracy]:
    """The row's accuracy at every task; a many-way episode has all upright classes."""
    places = upright(drawings.test)
    tested: dict[Task, Accuracy] = {}
    for shot, method in row.items():
        embeddings = method.embed(drawings.test.images)
        tasks = [(task, embeddings, n_episodes) for task in USUAL if task.shot == shot]
        tasks.append((Task(len(places), shot), embeddings[places], n_episodes // MANY_WAY))
        for task, some, n in tasks:
            shown = bar(f"{name}, {task}")
            tested[task] = method.accuracy(some, task, n_episodes=n, seed=seed, bar=shown)
    return tested


if __name__ == "__main__":
    sys.exit(main())
