"""What the memory costs, as ratios measured side by side in one run.

    python -m benchmarks.memory

Three questions. How many bare matrix products is a training step worth? What does a write into a
million slots cost beside one into 8,192? And choosing the oldest of them, the one part of a write
that looks at every slot? Run it on a quiet machine: everything is timed in turns, each piece twice
with the first time thrown away, and a ratio is the median over the turns, with its quartiles.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.results import write_result
from rarememory import Memory
from rarememory.updates import eviction_order

BATCH, SLOTS, MANY_SLOTS, KEY_DIM, CLASSES = 16, 8192, 1_000_000, 128, 1000
TURNS, WARM_UP = 300, 30

Work = Callable[[], object]
"""One piece of work, which may prepare itself when it is made."""


def main() -> int:
    """Measure, print, write the result file."""
    torch.manual_seed(0)
    figures: dict[str, float] = {}
    for key, ratio in {**_training_step(), **_writing()}.items():
        low, median, high = statistics.quantiles(ratio, n=4)
        figures |= {key: median, f"{key}.quartile1": low, f"{key}.quartile3": high}
        print(f"{key:44} {median:6.2f}   quartiles {low:.2f} to {high:.2f}")
    write_result("memory", figures, command="python -m benchmarks.memory", seed=0, turns=TURNS)
    return 0


def _training_step() -> dict[str, list[float]]:
    """A step (read with labels, loss, backward, write) beside `queries @ keys.T` and its max."""
    memory = _filled(SLOTS)

    def bare() -> Work:
        queries, _ = _known(memory)
        return lambda: (queries @ memory.keys.T).max(1)

    def step(rows: Callable[[Memory], tuple[Tensor, Tensor]]) -> Work:
        queries, labels = rows(memory)
        queries.requires_grad_()

        def train() -> None:
            recall = memory(queries, labels)
            assert recall.loss is not None
            recall.loss.backward()
            memory.write(recall, labels)

        return train

    seconds = _in_turns(
        {
            "bare": bare,
            "all_hits.": lambda: step(_known),
            "all_misses.": lambda: step(_new),
            "": lambda: step(_half_known),
        }
    )
    return {
        f"memory.train_step.{name}ratio_to_matmul": _ratio(seconds[name], seconds["bare"])
        for name in ("", "all_hits.", "all_misses.")
    }


def _writing() -> dict[str, list[float]]:
    """A write of rows just recalled, and choosing the oldest slots, by the number of slots."""

    def write(memory: Memory, rows: Callable[[Memory], tuple[Tensor, Tensor]]) -> Work:
        queries, labels = rows(memory)
        recall = memory(queries, k=1)
        return lambda: memory.write(recall, labels)

    def choose(memory: Memory) -> Work:
        return lambda: eviction_order(memory.state, memory.update, BATCH)

    work: dict[str, Callable[[], Work]] = {}
    for name, memory in (("few", _filled(SLOTS)), ("many", _filled(MANY_SLOTS))):
        work |= {
            f"hits.{name}": partial(write, memory, _known),
            f"misses.{name}": partial(write, memory, _new),
            f"oldest.{name}": partial(choose, memory),
        }
    seconds = _in_turns(work)
    placing = {
        name: [
            write - choose
            for write, choose in zip(
                seconds[f"misses.{name}"], seconds[f"oldest.{name}"], strict=True
            )
        ]
        for name in ("few", "many")
    }
    return {
        "memory.write.ratio_1m_to_8192": _ratio(seconds["hits.many"], seconds["hits.few"]),
        # Medians apart: a difference of two times is too noisy to divide turn by turn.
        "memory.write.misses.ratio_1m_to_8192": [
            statistics.median(placing["many"]) / few for few in placing["few"]
        ],
        "memory.oldest.ratio_1m_to_8192": _ratio(seconds["oldest.many"], seconds["oldest.few"]),
    }


def _filled(slots: int) -> Memory:
    memory = Memory(KEY_DIM, slots, lookup="torch")
    # Straight into the buffers: a write of a million rows would look a million rows up.
    memory.keys.copy_(torch.nn.functional.normalize(torch.randn(slots, KEY_DIM), dim=1))
    memory.values.copy_(torch.arange(slots) % CLASSES)
    memory.written.copy_(torch.randint(1, slots, (slots,)))
    memory.clock.fill_(slots)
    return memory


def _known(memory: Memory) -> tuple[Tensor, Tensor]:
    """Queries near to keys, with their values: all hit."""
    slots = torch.randint(len(memory.values), (BATCH,))
    return memory.keys[slots] + 0.02 * torch.randn(BATCH, KEY_DIM), memory.values[slots]


def _new(memory: Memory) -> tuple[Tensor, Tensor]:
    """The same with values that no slot has: none hits."""
    queries, values = _known(memory)
    return queries, values + CLASSES


def _half_known(memory: Memory) -> tuple[Tensor, Tensor]:
    queries, values = _known(memory)
    return queries, values + CLASSES * (torch.arange(BATCH) % 2)


def _in_turns(work: dict[str, Callable[[], Work]]) -> dict[str, list[float]]:
    """Seconds of every piece of work, each turn doing all of them, so that all share its noise."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-WARM_UP, TURNS):
        for name, prepare in work.items():
            # Other work has emptied the caches: the first time fills them again.
            prepare()()
            do = prepare()
            begin = time.perf_counter()
            do()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _ratio(one: list[float], other: list[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
