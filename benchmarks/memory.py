"""What the memory costs, as ratios measured side by side in one run.

    python -m benchmarks.memory

How many bare matrix products is a training step worth? How much longer does a read take than its
search alone? How much longer than a resnet18 alone does a classifier take to predict one image, and
to learn one? How much longer does a write take with a million slots than with 8,192? And the choice
of the oldest slots, the part of a write that reads every slot? Which part of a read of one query is
the lock that it takes? Run it on a quiet machine. With the environment variables that mask newer
instructions of the processor, the figures are of the older ones and have a file of their own. The
timing is interleaved; each piece of work is done twice and the first time is thrown away (the
caches hold other data then), and a ratio is the median over the rounds, with its quartiles.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.lookup.machine import instruction_set, masks
from benchmarks.runner import Benchmark, Run, print_figures
from rarememory import Memory, Recall, wrap
from rarememory.memory.writing import eviction_order

BENCHMARK = Benchmark("benchmarks.memory", __doc__)
BATCH, KEY_DIM, CLASSES = 16, 128, 1000
FEW_SLOTS, SLOTS, MANY_SLOTS = 256, 8192, 1_000_000
NEIGHBORS = 256
ROUNDS, WARM_UP = 500, 30
NONE, ALL = torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH, dtype=torch.int64)
HALF = torch.arange(BATCH) % 2
_NEW_LABELS = itertools.count(1)

Work = Callable[[], object]
"""One piece of work; it can be done twice."""


@BENCHMARK
def main(run: Run) -> None:
    """Measure, write the result."""
    torch.manual_seed(0)
    figures: dict[str, float] = {}
    steps = _training_step()
    steps["step.ratio_to_product"] = steps["memory.train_step.ratio_to_matmul"]
    for key, ratio in {**steps, **_reading(), **_writing(), **_locking(), **_classifying()}.items():
        low, median, high = statistics.quantiles(ratio, n=4)
        figures |= {key: median, f"{key}.quartile1": low, f"{key}.quartile3": high}
    name, used, masked = "memory", instruction_set(), masks()
    if masked:
        # Beside the figures of the best instructions that the processor has.
        name = f"memory_{used}"
        figures = {f"{used}.{key}": figure for key, figure in figures.items()}
    print_figures(figures)
    run.write(name, figures, rounds=ROUNDS, instructions=used, masks=masked)


def _training_step() -> dict[str, list[float]]:
    """A step (read with labels, loss, backward, write) beside `queries @ keys.T` and its max."""
    memory = _filled(SLOTS)

    def bare() -> Work:
        queries, _ = _near(memory)
        return lambda: (queries @ memory.keys.T).max(1)

    def step(unknown: Tensor) -> Work:
        batches = [_near(memory), _near(memory)]

        def train() -> None:
            queries, values = batches.pop()
            labels = _labels(values, unknown)
            recall = memory(queries.requires_grad_(), labels)
            assert recall.loss is not None
            recall.loss.backward()
            memory.write(recall, labels)

        return train

    unknown = {"all_hits.": NONE, "all_misses.": ALL, "": HALF}
    steps = {name: partial(step, rows) for name, rows in unknown.items()}
    seconds = _interleaved({"bare": bare, **steps})
    return {
        f"memory.train_step.{name}ratio_to_matmul": _ratio(seconds[name], seconds["bare"])
        for name in steps
    }


def _reading() -> dict[str, list[float]]:
    """A read in Python beside its search alone."""
    memory = _filled(SLOTS)
    keys, occupied, lookup = memory.keys, memory.state.occupied, memory.lookup
    ratios: dict[str, list[float]] = {}
    for batch in (1, BATCH):
        queries = torch.nn.functional.normalize(torch.randn(batch, KEY_DIM), dim=1)
        works: dict[str, Work] = {
            "search": partial(lookup.nearest, queries, keys, occupied, NEIGHBORS),
            "read": partial(memory, queries, k=NEIGHBORS),
        }
        seconds = _repeated(works)
        ratios[f"memory.read.b{batch}.ratio_to_search"] = _ratio(seconds["read"], seconds["search"])
    return ratios


def _writing() -> dict[str, list[float]]:
    """A write of rows just recalled, and choosing the oldest slots, by the number of slots."""

    def write(memory: Memory, unknown: Tensor) -> Work:
        # Recalled beforehand: a search of a million keys would empty the caches.
        rows = [next(recalled[memory]), next(recalled[memory])]

        def put() -> None:
            recall, values = rows.pop()
            memory.write(recall, _labels(values, unknown))

        return put

    def choose(memory: Memory) -> Work:
        return lambda: eviction_order(memory.state, memory.update, BATCH)

    ratios: dict[str, list[float]] = {}
    memories = {"few": _filled(SLOTS), "many": _filled(MANY_SLOTS)}
    recalled = {memory: itertools.cycle(_recalls(memory)) for memory in memories.values()}
    for key, prepare in (
        ("memory.write.ratio_1m_to_8192", partial(write, unknown=NONE)),
        ("memory.write.misses.ratio_1m_to_8192", partial(write, unknown=ALL)),
        ("memory.oldest.ratio_1m_to_8192", choose),
    ):
        work = {name: partial(prepare, memory) for name, memory in memories.items()}
        seconds = _interleaved(work)
        ratios[key] = _ratio(seconds["many"], seconds["few"])
    return ratios


def _locking() -> dict[str, list[float]]:
    """What the lock of a read takes, to a read of one query natively, by the number of slots."""

    def lock(memory: Memory) -> None:
        with memory.lock.reading():
            pass

    shares: dict[str, list[float]] = {}
    for slots in (FEW_SLOTS, SLOTS):
        memory = _filled(slots)
        works: dict[str, Work] = {
            "read": partial(memory, memory.keys[:1], k=1),
            "lock": partial(lock, memory),
            # Timing a call takes a while too.
            "nothing": partial(id, None),
        }
        seconds = _repeated(works)
        shares[f"memory.lock.ratio_to_read.m{slots}"] = [
            (locked - nothing) / read
            for read, locked, nothing in zip(*seconds.values(), strict=True)
        ]
    return shares


def _repeated(works: Mapping[str, Work]) -> dict[str, list[float]]:
    """As `_interleaved`, of work that is the same in every round."""
    return _interleaved({name: partial(_itself, work) for name, work in works.items()})


def _itself(work: Work) -> Work:
    return work


def _classifying() -> dict[str, list[float]]:
    """What one prediction, and learning one image, take beyond the model, in percent of it."""
    from torchvision.models import resnet18

    net, images = resnet18().eval(), torch.randn(24, 3, 224, 224)
    # What is learnt makes the next prediction fit its reader again: so each has its classifier.
    first, second = wrap(net), wrap(resnet18().eval())
    for classifier in (first, second):
        classifier.learn(images[:20], [row % 5 for row in range(20)])
    first.predict(images[20])
    another = itertools.cycle(range(20, 24))

    def alone() -> object:
        with torch.inference_mode():
            return net(images[20:21])

    def learn() -> Work:
        # The memory does not grow from round to round.
        if "new" in second.classes:
            second.forget("new")
        return partial(second.learn, images[next(another)], "new")

    work: dict[str, Callable[[], Work]] = {
        "model": lambda: alone,
        "predict": lambda: partial(first.predict, images[20]),
        "learn": learn,
    }
    seconds = _interleaved(work)
    return {
        f"{name}.overhead_percent": [
            100 * (ratio - 1) for ratio in _ratio(seconds[name], seconds["model"])
        ]
        for name in ("predict", "learn")
    }


def _filled(slots: int) -> Memory:
    memory = Memory(KEY_DIM, slots)
    # Straight into the buffers: a write would search for a million rows.
    memory.keys.copy_(torch.nn.functional.normalize(torch.randn(slots, KEY_DIM), dim=1))
    memory.values.copy_(torch.arange(slots) % CLASSES)
    memory.written.copy_(torch.randint(1, slots, (slots,)))
    memory.clock.fill_(slots)
    return memory


def _near(memory: Memory) -> tuple[Tensor, Tensor]:
    """Queries near to keys, and the values of those."""
    slots = torch.randint(len(memory.values), (BATCH,))
    return memory.keys[slots] + 0.02 * torch.randn(BATCH, KEY_DIM), memory.values[slots]


def _recalls(memory: Memory) -> list[tuple[Recall, Tensor]]:
    batches = [_near(memory) for _ in range(32)]
    return [(memory(queries, k=1), values) for queries, values in batches]


def _labels(values: Tensor, unknown: Tensor) -> Tensor:
    """The values, which are hits, except for the unknown rows: those get new labels."""
    return values + unknown * CLASSES * next(_NEW_LABELS)


def _interleaved(work: Mapping[str, Callable[[], Work]]) -> dict[str, list[float]]:
    """Seconds of every piece of work, all of them in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(-WARM_UP, ROUNDS):
        for name, prepare in work.items():
            do = prepare()
            do()
            begin = time.perf_counter()
            do()
            taken = time.perf_counter() - begin
            if round_ >= 0:
                seconds[name].append(taken)
    return seconds


def _ratio(one: list[float], other: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
