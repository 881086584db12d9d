"""MAML on the same tasks and episodes, by learn2learn's own algorithm.

    make maml DATA=<folder> SPLIT=<folder of lists>

It runs in the environment that `make learn2learn` makes. Network, inner rates, inner steps and
tasks per iteration are those of Finn et al. 2017 (github.com/cbfinn/maml). Their 40,000 iterations
would take hours to days on a CPU, so each task has about half an hour; the result file holds the
number of iterations, the validation accuracy meanwhile, and how long 40,000 would have taken. As in
their code, batch norm sees as many queries of each class at once as the task has shots, in training
and in the test, where every other row answers one query at a time. Trainings write checkpoints into
runs/: after Ctrl-C the same command resumes.
"""

import sys
from argparse import Namespace
from typing import Any, NamedTuple

import learn2learn as l2l
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.omniglot_peers.drawings import Images, read
from benchmarks.omniglot_peers.tasks import Task, episodes
from benchmarks.results import RUNS, percent
from benchmarks.resumable import ResumableTraining, evenly_spaced
from benchmarks.runner import Benchmark, Run, bar
from rarememory.data import support_query_episode
from rarememory.evaluation import Accuracy

THEIR_ITERATIONS = 40_000
EVALUATIONS, VALIDATED = 10, 100
"""Evaluations of a training, and episodes of validation characters in each."""
BENCHMARK = Benchmark("benchmarks.omniglot_peers.maml", __doc__)
BENCHMARK.add_omniglot()
add = BENCHMARK.add
add("--second-order", action="store_true", help="three times as slow")
text = "as many iterations (10 to 100: those of its authors)"
add("--times", type=float, default=1.0, help=text)
add("--rate", type=float, default=3e-3, help="of the outer steps, by Adam (theirs is 1e-3)")
add("--episodes", type=int, default=1000, help="to test by")
add("--seed", type=int, default=0)


class Setting(NamedTuple):
    """The inner rate, inner steps in training and in the test, tasks an iteration; how many."""

    rate: float
    steps: int
    test_steps: int
    tasks: int
    iterations: int


SETTINGS = {
    Task(5, 1): Setting(0.4, 1, 3, tasks=32, iterations=4000),
    Task(5, 5): Setting(0.4, 1, 3, tasks=32, iterations=1600),
    Task(20, 1): Setting(0.1, 5, 5, tasks=16, iterations=1200),
    Task(20, 5): Setting(0.1, 5, 5, tasks=16, iterations=400),
}


@BENCHMARK
def main(run: Run) -> None:
    """Train, test, write the result."""
    options = run.options
    drawings = read(options.data, options.split)
    figures: dict[str, float] = {}
    trained: dict[str, Any] = {}
    for task, setting in SETTINGS.items():
        iterations = max(1, round(setting.iterations * options.times))
        meta = MetaTraining(drawings.train.images, task, setting, options, iterations)
        meta.train(
            RUNS / f"maml_{drawings.checksum}_{task}.pt",
            f"MAML {task}",
            every=20,
            evaluate=lambda meta=meta: meta.validated(drawings.validation.images),  # type: ignore[misc]
            evaluate_at=evenly_spaced(iterations, EVALUATIONS),
        )
        accuracy = meta.test(drawings.test.images, options.episodes, options.seed)
        print(f"MAML {task}: {accuracy} after {iterations} iterations", flush=True)
        figures |= percent({task: accuracy}, "omniglot_peers.maml")
        hours = meta.seconds / iterations * THEIR_ITERATIONS / 3600
        trained[str(task)] = {
            **setting._asdict(),
            "iterations": iterations,
            "drawings": iterations * meta.drawings_per_iteration,
            "seconds": round(meta.seconds),
            "hours_for_40000_iterations": round(hours, 1),
            "validation_by_iteration": meta.curve,
        }
    run.published &= drawings.published
    facts = {"split": drawings.checksum, "episodes": options.episodes}
    run.write("omniglot_maml", figures, **facts, learn2learn=l2l.__version__, trained=trained)


class MetaTraining(ResumableTraining):
    """MAML for one task: its initial weights, learned iteration by iteration."""

    parts = ("maml", "optimizer")

    def __init__(
        self, images: Images, task: Task, setting: Setting, options: Namespace, iterations: int
    ) -> None:
        torch.manual_seed(options.seed)
        self.images, self.task, self.setting = images, task, setting
        network, first_order = l2l.vision.models.OmniglotCNN(task.way), not options.second_order
        self.maml = l2l.algorithms.MAML(network, lr=setting.rate, first_order=first_order)
        self.optimizer = torch.optim.Adam(self.maml.parameters(), options.rate)
        facts = repr((setting, options.second_order, options.rate, options.seed))
        super().__init__(facts=facts, steps=iterations, seed=options.seed)

    @property
    def drawings_per_iteration(self) -> int:
        """As many queries as shots, for every task of it."""
        return self.setting.tasks * self.task.way * 2 * self.task.shot

    def validated(self, validation: Images) -> tuple[int, float]:
        """The iteration, and the validation accuracy in percent."""
        return self.step, 100 * self.test(validation, VALIDATED).mean

    def advance(self) -> float:
        """One step on the mean loss after adapting to each of several tasks."""
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(self.setting.tasks):
            shape, shot = self.images.shape[:2], self.task.shot
            sizes = {"n_way": self.task.way, "n_shot": shot, "n_query": shot}
            support, query = support_query_episode(*shape, **sizes, generator=self.generator)
            examples = self.images[support.classes, support.drawings]
            queries = self.images[query.classes, query.drawings]
            learner = self._adapted(self.maml.clone(), examples, self.setting.steps)
            loss = _loss(learner, queries) / self.setting.tasks
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total

    def test(self, images: Images, n_episodes: int, seed: int = 0) -> Accuracy:
        """The accuracy of the adapted network, over the episodes of all rows."""
        accuracies = []
        drawn = episodes(images, self.task, n_episodes=n_episodes, seed=seed)
        shown = bar(f"testing MAML {self.task}")(range(n_episodes))
        for _, (support, queries) in zip(shown, drawn, strict=True):
            # No gradient goes through the adaptation itself here.
            learner = self.maml.clone(first_order=True)
            learner = self._adapted(learner, support, self.setting.test_steps)
            accuracies.append(_accuracy(learner, queries, at_once=self.task.shot))
        return Accuracy.of(torch.stack(accuracies))

    def _adapted(self, learner: Any, support: Tensor, steps: int) -> Any:
        for _ in range(steps):
            learner.adapt(_loss(learner, support))
        return learner


@torch.no_grad()
def _accuracy(learner: Any, queries: Tensor, *, at_once: int) -> Tensor:
    """The accuracy on queries [way, query, height, width], some of each class in a batch."""
    answers = [
        learner(_ink(some)).argmax(1).view(some.shape[:2]) for some in queries.split(at_once, dim=1)
    ]
    correct = torch.cat(answers, dim=1) == torch.arange(len(queries)).unsqueeze(1)
    return correct.float().mean()


def _loss(learner: Any, images: Tensor) -> Tensor:
    """Of drawings [way, shot, height, width], each row of which is a class."""
    way, shot = images.shape[:2]
    return cross_entropy(learner(_ink(images)), torch.arange(way).repeat_interleave(shot))


def _ink(images: Tensor) -> Tensor:
    return images.flatten(0, 1).unsqueeze(1) / 255


if __name__ == "__main__":
    sys.exit(main())
