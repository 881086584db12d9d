"""MAML on the same tasks and episodes, by learn2learn's own algorithm.

    make maml DATA=<folder> SPLIT=<folder of lists>

It runs in the environment that `make learn2learn` makes. Network, inner rates, inner steps and
tasks an iteration are those of Finn et al. 2017 (github.com/cbfinn/maml); the 40,000 iterations of
their code would take hours to days on a CPU, so each task has about half an hour, and the result
says how many iterations that was, how accuracy rose meanwhile on the validation characters, and how
long 40,000 would have taken. As in their code, as many queries of each class as it has shots share
the statistics of batch norm, in the training and in the test: MAML sees one query of every class,
or five, together, where every other row answers one by one. Trainings keep checkpoints in runs/:
interrupt it with Ctrl-C, and the same command goes on from there.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import learn2learn as l2l
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from benchmarks.commands import add_omniglot, at_defaults, exit_status, told
from benchmarks.omniglot_peers.drawings import Images, read
from benchmarks.omniglot_peers.published import PUBLISHED, beside_published
from benchmarks.omniglot_peers.tasks import Task, episodes
from benchmarks.results import RESULTS, write_result
from rarememory.backbones import Residual
from rarememory.data import support_query_episode
from rarememory.evaluation import Accuracy

THEIR_ITERATIONS = 40_000
DECISIVE = ("backbone", "second_order", "times", "rate", "episodes", "seed")
RUNS = Path("runs")
BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "paper": l2l.vision.models.OmniglotCNN,
    "residual": Residual,
}
LOOKS, LOOKED_AT = 10, 100
"""How often a training is looked at, and by how many episodes of validation characters."""


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


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    drawings = read(options.data, options.split)
    row = "maml" if options.backbone == "paper" else f"maml_{options.backbone}"
    figures: dict[str, float] = {}
    trained: dict[str, Any] = {}
    for task, setting in SETTINGS.items():
        iterations = max(1, round(setting.iterations * options.times))
        meta = MetaTraining(drawings.train.images, task, setting, options)
        meta.train(drawings.validation.images, iterations, RUNS / f"{row}_{drawings.checksum}")
        accuracy = meta.test(drawings.test.images, options.episodes, options.seed)
        print(f"{row} {task}: {accuracy} after {iterations} iterations", flush=True)
        key, mean = f"omniglot_peers.{row}.{task}", 100 * accuracy.mean
        figures |= {key: mean, f"{key}.interval": 100 * accuracy.interval}
        figures |= beside_published(key, row, str(task), mean)
        trained[str(task)] = {
            **setting._asdict(),
            "iterations": iterations,
            "drawings": iterations * meta.drawings_an_iteration,
            "seconds": round(meta.seconds),
            "hours_for_40000_iterations": round(
                meta.seconds / iterations * THEIR_ITERATIONS / 3600, 1
            ),
            "validation_by_iteration": meta.curve,
        }
    write_result(
        "omniglot_maml",
        figures,
        # A quick try is no result to publish: it does not replace one.
        folder=RESULTS if options.published and drawings.published else RUNS,
        command=" ".join(["python -m benchmarks.omniglot_peers.maml", *told(options, DECISIVE)]),
        seed=options.seed,
        split=drawings.checksum,
        episodes=options.episodes,
        learn2learn=l2l.__version__,
        published=PUBLISHED["maml"],
        trained=trained,
    )


class MetaTraining:
    """MAML for one task: its initial weights, learned iteration by iteration."""

    def __init__(
        self, images: Images, task: Task, setting: Setting, options: argparse.Namespace
    ) -> None:
        torch.manual_seed(options.seed)
        self.images = images
        self.task = task
        self.setting = setting
        self.maml = l2l.algorithms.MAML(
            BACKBONES[options.backbone](task.way),
            lr=setting.rate,
            first_order=not options.second_order,
        )
        self.optimizer = torch.optim.Adam(self.maml.parameters(), options.rate)
        self.generator = Generator().manual_seed(options.seed)
        self.facts = repr((setting, options.second_order, options.rate, options.seed))
        self.iteration = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []

    @property
    def drawings_an_iteration(self) -> int:
        """As many queries as shots, for every task of it."""
        return self.setting.tasks * self.task.way * 2 * self.task.shot

    def train(self, validation: Images, iterations: int, runs: Path) -> None:
        """To the last iteration, looked at on the way; a checkpoint is gone on from."""
        checkpoint = Path(f"{runs}_{self.task}.pt")
        if checkpoint.exists():
            self._load(torch.load(checkpoint, weights_only=True), checkpoint)
        looks = {-(-iterations * part // LOOKS) for part in range(1, LOOKS + 1)}
        with tqdm(total=iterations, initial=self.iteration, desc=f"MAML {self.task}") as bar:
            while self.iteration < iterations:
                loss = self.advance()
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                if self.iteration in looks:
                    accuracy = 100 * self.test(validation, LOOKED_AT).mean
                    self.curve.append((self.iteration, accuracy))
                    tqdm.write(f"iteration {self.iteration}: validation {accuracy:.2f}")
                if self.iteration % 20 == 0 or self.iteration in looks:
                    self._keep(checkpoint)

    def advance(self) -> float:
        """One iteration: the loss after adapting to each of some tasks, and a step down it."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(self.setting.tasks):
            support, query = support_query_episode(
                *self.images.shape[:2],
                n_way=self.task.way,
                n_shot=self.task.shot,
                n_query=self.task.shot,
                generator=self.generator,
            )
            shown = self.images[support.classes, support.drawings]
            asked = self.images[query.classes, query.drawings]
            learner = self._adapted(self.maml.clone(), shown, self.setting.steps)
            loss = _loss(learner, asked) / self.setting.tasks
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        self.iteration += 1
        self.seconds += time.perf_counter() - begin
        return total

    def test(self, images: Images, n_episodes: int, seed: int = 0) -> Accuracy:
        """How often the adapted network is right, over the episodes that all rows answer."""
        right = []
        drawn = episodes(images, self.task, n_episodes=n_episodes, seed=seed)
        for shown, asked in tqdm(drawn, f"testing MAML {self.task}", n_episodes, leave=False):
            # No gradient has to go through the adapting itself here.
            learner = self.maml.clone(first_order=True)
            learner = self._adapted(learner, shown, self.setting.test_steps)
            right.append(_rightly(learner, asked, together=self.task.shot))
        return Accuracy.of(torch.stack(right))

    def _adapted(self, learner: Any, shown: Tensor, steps: int) -> Any:
        for _ in range(steps):
            learner.adapt(_loss(learner, shown))
        return learner

    def _keep(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "facts": self.facts,
            "maml": self.maml.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        draft = path.with_suffix(".part")
        torch.save(state, draft)
        draft.replace(path)

    def _load(self, state: dict[str, Any], path: Path) -> None:
        if state["facts"] != self.facts:
            raise ValueError(f"{str(path)!r} is of a run of other options: remove it")
        self.maml.load_state_dict(state["maml"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.curve = state["curve"]


@torch.no_grad()
def _rightly(learner: Any, asked: Tensor, *, together: int) -> Tensor:
    """The part it names rightly of drawings [way, query, height, width], some a class at once."""
    answers = [
        learner(_ink(some)).argmax(1).view(some.shape[:2]) for some in asked.split(together, dim=1)
    ]
    right = torch.cat(answers, dim=1) == torch.arange(len(asked)).unsqueeze(1)
    return right.float().mean()


def _loss(learner: Any, images: Tensor) -> Tensor:
    """Of drawings [way, shot, height, width], each row of which is a class."""
    way, shot = images.shape[:2]
    return cross_entropy(learner(_ink(images)), torch.arange(way).repeat_interleave(shot))


def _ink(images: Tensor) -> Tensor:
    return images.flatten(0, 1).unsqueeze(1) / 255


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot_peers.maml",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_omniglot(parser)
    add("--backbone", choices=BACKBONES, default="paper", help="residual: that of the other rows")
    add("--second-order", action="store_true", help="three times as slow")
    add(
        "--times",
        type=float,
        default=1.0,
        help="as many iterations (10 to 100: those of its authors)",
    )
    add("--rate", type=float, default=3e-3, help="of the outer steps, by Adam (theirs is 1e-3)")
    add("--episodes", type=int, default=1000, help="to test by (default: %(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.published = at_defaults(parser, options, DECISIVE)
    return options


if __name__ == "__main__":
    sys.exit(main())
