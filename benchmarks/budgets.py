"""Which examples to keep in few slots: policies of writing over CIFAR-100 and Omniglot.

    python -m benchmarks.budgets --data <folder>

CIFAR-100's classes come one after the other, image by image, as frozen features of an encoder that
has not seen them (`benchmarks.worlds`, whose features are used if they are in runs/worlds). In the
end all test images are asked about; the answer is the class whose mean of kept examples is nearest
(iCaRL's), and, as a second figure, that of the nearest example. Omniglot's 423 test characters of
the Vinyals split, encoded by the encoder that ships, come in a random order; each drawing is first
answered, by the nearest example, and then written: the accuracy is that from the second sighting
on. All policies have 1, 2 or 5 slots for each class, and see and answer the same. `herding_at_once`
and `closest_at_once` see all images of a class together, as `learn(select=)` does.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run, bar, print_table
from rarememory import (
    AverageOrReplace,
    ClosestToCentre,
    FirstInFirstOut,
    Herding,
    LeastRecentlyUsed,
    LeastUsed,
    MeanMemory,
    Memory,
    PerClass,
    Reservoir,
    Selection,
    Update,
    class_attention,
    wrap,
)
from rarememory.backbones import omniglot_encoder, unseen_characters
from rarememory.data import download_omniglot, random_stream, read_omniglot
from rarememory.evaluation import Accuracy, embed

SLOTS = (1, 2, 5)
WORLDS = ("cifar100", "omniglot")
MEAN = 1e6
"""A temperature at which class attention is the mean of a class."""
KEPT = Path("runs/worlds")
Policy = Callable[[int], Memory]
"""Makes a memory for so many slots a class."""
Stream = tuple[Float[Tensor, "shown key_dim"], Int64[Tensor, " shown"]]

BENCHMARK = Benchmark("benchmarks.budgets", __doc__)
BENCHMARK.add_data()
text = "folder with CIFAR-100; downloaded into data/worlds if left out"
BENCHMARK.add("--worlds", decisive=False, default="data/worlds", help=text)
BENCHMARK.add("--seeds", type=int, default=3, help="orders of the streams")
BENCHMARK.add("--examples", type=int, default=10, help="images that are shown of each class")
BENCHMARK.add("--drawings", type=int, default=10, help="that are shown of each character")
BENCHMARK.add("--world", nargs="+", choices=WORLDS, default=list(WORLDS), decisive=False)


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write a result file for each world."""
    options, command = run.options, run.command.partition(" --world")[0]
    for world in options.world:
        if world == "cifar100":
            rows = partial(cifar100, options.worlds, options.examples)
        else:
            folder = str(options.data or download_omniglot("data"))
            rows = partial(omniglot, folder, options.drawings)
        found = [rows(seed) for seed in range(options.seeds)]
        print_table(["", *map(str, SLOTS)], _shown(found), f"{world}, slots a class")
        run.command = f"{command} --world {world}"
        run.write(f"budgets_{world}", figures_of(world, found), seeds=options.seeds)


def figures_of(world: str, found: list[dict[str, float]]) -> dict[str, float]:
    """In percent the accuracy over the seeds, and how far it is above the paper's rule in each."""
    figures: dict[str, float] = {}
    for key in found[0]:
        slots, _, *rest = key.split(".")
        paper = torch.tensor([one[".".join([slots, "paper", *rest])] for one in found])
        accuracies = torch.tensor([one[key] for one in found])
        both = {key: Accuracy.of(accuracies), f"{key}.over_paper": Accuracy.of(accuracies - paper)}
        figures |= percent(both, f"budgets.{world}")
    return figures


def _shown(found: list[dict[str, float]]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(key.partition(".")[2] for key in found[0])
    means = {key: 100 * sum(one[key] for one in found) / len(found) for key in found[0]}
    return [(name, *(f"{means[f'{slots}.{name}']:.1f}" for slots in SLOTS)) for name in names]


def policies(key_dim: int, classes: int, seed: int) -> dict[str, Policy]:
    """Every policy, by its name; each has the same number of slots."""
    made: dict[str, Callable[[int], Update]] = {
        "paper": lambda _: AverageOrReplace(),
        "fifo": lambda _: FirstInFirstOut(),
        "least_recently_used": lambda _: LeastRecentlyUsed(),
        "least_used": lambda _: LeastUsed(),
        "reservoir": lambda _: Reservoir(),
        "paper_per_class": lambda slots: PerClass(slots, AverageOrReplace()),
        "oldest_per_class": PerClass,
        "reservoir_per_class": Reservoir,
        "herding": lambda slots: PerClass(Herding(slots)),
        "closest": lambda slots: PerClass(ClosestToCentre(slots)),
    }

    def memory(update: Callable[[int], Update], slots: int) -> Memory:
        return Memory(key_dim, slots * classes, update=update(slots), k=1, seed=seed)

    every: dict[str, Policy] = {name: partial(memory, update) for name, update in made.items()}
    return every | {"mean": lambda slots: MeanMemory(key_dim, slots * classes, k=1, seed=seed)}


def cifar100(folder: str, examples: int, seed: int) -> dict[str, float]:
    """The accuracy of every policy over one stream, by slots and policy."""
    from benchmarks.worlds.data import load

    world = load("cifar100", Path(folder), KEPT)
    features, labels = torch.from_numpy(world.features), torch.from_numpy(world.labels)
    train = torch.from_numpy(world.split == "train")
    asked = features[~train], labels[~train]
    draw = Generator().manual_seed(seed)
    own: list[Tensor] = []
    for label in torch.randperm(len(world.names), generator=draw):
        its = (train & (labels == label)).nonzero().squeeze(1)
        own.append(its[torch.randperm(len(its), generator=draw)[:examples]])
    shown = torch.cat(own)
    found: dict[str, float] = {}
    for slots in SLOTS:
        for name, make in policies(features.shape[1], len(world.names), seed).items():
            memory = make(slots)
            for _ in answered(memory, (features[shown], labels[shown]), name, slots):
                pass
            found |= _asked(f"{slots}.{name}", memory, asked)
        selections: dict[str, Selection] = {
            "herding_at_once": Herding(slots),
            "closest_at_once": ClosestToCentre(slots),
        }
        for name, select in selections.items():
            memory = Memory(features.shape[1], slots * len(own), update=FirstInFirstOut(), k=1)
            classifier = wrap(nn.Identity(), host=False, memory=memory)
            # Integers of a memory stand for labels in their order.
            classifier.learn(features[shown], labels[shown].tolist(), select=select)
            names = torch.tensor([one.label for one in classifier.examples()])
            memory.values[: len(names)] = names
            found |= _asked(f"{slots}.{name}", memory, asked)
    return found


def _asked(key: str, memory: Memory, asked: Stream) -> dict[str, float]:
    queries, labels = asked
    mean = class_attention(memory, queries, temperature=MEAN).prediction
    nearest = memory(queries).prediction
    return {
        key: (mean == labels).double().mean().item(),
        f"{key}.nearest": (nearest == labels).double().mean().item(),
    }


def omniglot(folder: str, count: int, seed: int) -> dict[str, float]:
    """The accuracy of every policy from the second sighting on, over one stream."""
    encoder = omniglot_encoder().eval()
    drawings = read_omniglot(folder, encoder.size, progress=False)
    unseen = drawings.characters.select(unseen_characters()).images
    embeddings = embed(encoder, unseen[:, :count])
    classes, _, key_dim = embeddings.shape
    order = random_stream(classes, count, generator=Generator().manual_seed(seed))
    stream = embeddings[order.classes, order.drawings], order.classes
    # Of each label the place where it comes first.
    places = torch.full((classes,), len(order.classes))
    places.scatter_reduce_(0, order.classes, torch.arange(len(order.classes)), "amin")
    again = torch.ones(len(order.classes), dtype=torch.bool).index_fill_(0, places, False)
    found: dict[str, float] = {}
    for slots in SLOTS:
        for name, make in policies(key_dim, classes, seed).items():
            correct = torch.tensor(list(answered(make(slots), stream, name, slots)))
            found[f"{slots}.{name}"] = correct[again].double().mean().item()
    return found


def answered(memory: Memory, stream: Stream, name: str, slots: int) -> Iterator[bool]:
    """Answer each row, count the answer where the policy goes by that, and write the row."""
    queries, labels = stream
    for place in bar(f"{name}, {slots} a class", "row")(range(len(labels))):
        recall = memory(queries[place : place + 1])
        yield bool(recall.prediction == labels[place])
        if memory.usage is not None:
            memory.record(recall)
        memory.write(recall, labels[place : place + 1])


if __name__ == "__main__":
    sys.exit(main())
