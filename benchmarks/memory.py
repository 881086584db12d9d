"""What the memory costs, as ratios measured side by side in one run.

    python -m benchmarks.memory

Three questions. How many bare matrix products is a training step worth? What does a write into a
million slots cost beside one into 8,192? And choosing the oldest of them, the one part of a write
that looks at every slot? Run it on a quiet machine: everything is timed in turns, and a ratio is
the median over the turns, with its quartiles in the result file.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.results import write_result
from rarememory import Memory, Recall
from rarememory.updates import eviction_order

BATCH, SLOTS, MANY_SLOTS, KEY_DIM, CLASSES = 16, 8192, 1_000_000, 128, 1000
TURNS, WARM_UP = 300, 30


def main() -> int:
    """Measure, print, write the result file."""
    torch.manual_seed(0)
    ratios = {**_training_step(), **_writing()}
    figures: dict[str, float] = {}
    for key, ratio in ratios.items():
        low, median, high = statistics.quantiles(ratio, n=4)
        figures |= {key: median, f"{key}.quartile1": low, f"{key}.quartile3": high}
        print(f"{key:44} {median:6.2f}   quartiles {low:.2f} to {high:.2f}")
    path = write_result(
        "memory", figures, command="python -m benchmarks.memory", seed=0, turns=TURNS
    )
    print(f"wrote {path}")
    return 0


def _training_step() -> dict[str, list[float]]:
    """A step (read with labels, loss, backward, write) beside `queries @ keys.T` and its max."""
    memory = _filled(SLOTS)
    new = [(torch.randn(BATCH, KEY_DIM), torch.randint(CLASSES, (BATCH,))) for _ in range(64)]
    known = [_known_queries(memory) for _ in range(64)]
    turns: dict[str, Callable[[int], None]] = {
        "bare": lambda turn: _bare(memory, known[turn % 64][0]),
        "hits": lambda turn: _step(memory, *known[turn % 64]),
        "misses": lambda turn: _step(memory, *new[turn % 64]),
    }
    seconds = _in_turns(turns)
    step = "memory.train_step.{}ratio_to_matmul"
    return {
        # Half of each: the middle of a training. The two ends are printed beside it.
        step.format(""): _ratio(
            [(h + m) / 2 for h, m in zip(seconds["hits"], seconds["misses"], strict=True)],
            seconds["bare"],
        ),
        step.format("all_hits."): _ratio(seconds["hits"], seconds["bare"]),
        step.format("all_misses."): _ratio(seconds["misses"], seconds["bare"]),
    }


def _writing() -> dict[str, list[float]]:
    """A write whose rows all hit, and choosing the oldest slots, by the number of slots."""
    few, many = _filled(SLOTS), _filled(MANY_SLOTS)
    turns: dict[str, Callable[[int], None]] = {}
    for name, memory in (("few", few), ("many", many)):
        known = [_known_queries(memory) for _ in range(16)]
        recalls = [(memory(queries, k=1), labels) for queries, labels in known]
        turns[f"write.{name}"] = _writer(memory, recalls)
        turns[f"oldest.{name}"] = _chooser(memory)
    seconds = _in_turns(turns)
    return {
        f"memory.{name}.ratio_1m_to_8192": _ratio(seconds[f"{name}.many"], seconds[f"{name}.few"])
        for name in ("write", "oldest")
    }


def _filled(slots: int) -> Memory:
    memory = Memory(KEY_DIM, slots, lookup="torch")
    # Straight into the buffers: a write of a million rows would look a million rows up.
    memory.keys.copy_(torch.nn.functional.normalize(torch.randn(slots, KEY_DIM), dim=1))
    memory.values.copy_(torch.arange(slots) % CLASSES)
    memory.written.copy_(torch.randint(1, slots, (slots,)))
    memory.clock.fill_(slots)
    return memory


def _known_queries(memory: Memory) -> tuple[Tensor, Tensor]:
    slots = torch.randint(len(memory.values), (BATCH,))
    return memory.keys[slots] + 0.02 * torch.randn(BATCH, KEY_DIM), memory.values[slots]


def _bare(memory: Memory, queries: Tensor) -> None:
    (queries @ memory.keys.T).max(1)


def _step(memory: Memory, queries: Tensor, labels: Tensor) -> None:
    queries.requires_grad_()
    recall = memory(queries, labels)
    assert recall.loss is not None
    recall.loss.backward()
    memory.write(recall, labels)


def _writer(memory: Memory, recalls: list[tuple[Recall, Tensor]]) -> Callable[[int], None]:
    def write(turn: int) -> None:
        memory.write(*recalls[turn % len(recalls)])

    return write


def _chooser(memory: Memory) -> Callable[[int], None]:
    def choose(turn: int) -> None:
        eviction_order(memory.state, memory.update, BATCH)

    return choose


def _in_turns(work: dict[str, Callable[[int], None]]) -> dict[str, list[float]]:
    """Seconds of every piece of work, each turn doing all of them, so that all share its noise."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-WARM_UP, TURNS):
        for name, do in work.items():
            begin = time.perf_counter()
            do(turn)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _ratio(one: list[float], other: list[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
