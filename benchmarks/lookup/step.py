"""A whole training step beside its search alone: read with labels, loss, backward, write.

    python -m benchmarks.lookup.step

On a GPU also as a replayed CUDA graph of the whole step. A result with the default batch, slots and
width on a GPU is published; any other lands in runs/.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.lookup.cells import CLASSES, MILLION, Cell, inputs
from benchmarks.lookup.clock import clock_for
from benchmarks.lookup.figures import Spread, between
from benchmarks.lookup.machine import machine
from benchmarks.lookup.turns import in_turns
from rarememory import Memory

BATCH, SLOTS, KEY_DIM = 256, MILLION, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the result file; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lookup.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--key-dim", type=int, default=KEY_DIM)
    parser.add_argument("--seconds", type=float, default=10.0, help="to spend, roughly")
    parser.add_argument("--runs", default="runs", help="folder for what is not published")
    options = parser.parse_args(arguments)
    cell = Cell(options.batch, options.slots, options.key_dim, 0)
    found, refused = measure(cell, options.device, options.seconds)
    prefix = "lookup.gpu" if options.device == "cuda" else "lookup.cpu"
    figures: dict[str, float] = {}
    for mode, spread in found.items():
        graph = "graph_" if mode == "graph" else ""
        key = f"{prefix}.train_step.{graph}ratio_to_nearest_pair.{cell.name}"
        figures |= {key: spread.median, f"{key}.quartile1": spread.low}
        figures |= {f"{key}.quartile3": spread.high}
        print(f"{key:64} {spread.median:6.2f}   quartiles {spread.low:.2f} to {spread.high:.2f}")
    for mode, reason in refused.items():
        print(f"{mode}: not run: {reason}", file=sys.stderr)
    if not figures:
        return 1
    usual = (options.batch, options.slots, options.key_dim) == (BATCH, SLOTS, KEY_DIM)
    results.write_result(
        "lookup_step_gpu" if options.device == "cuda" else "lookup_step_cpu",
        figures,
        folder=results.RESULTS if usual and options.device == "cuda" else Path(options.runs),
        command=f"python -m benchmarks.lookup.step --device {options.device} --batch "
        f"{options.batch} --slots {options.slots} --key-dim {options.key_dim}",
        seed=0,
        machine=machine(options.device),
        refused=refused,
    )
    return 0


def measure(cell: Cell, device: str, seconds: float) -> tuple[dict[str, Spread], dict[str, str]]:
    """The step's seconds by those of its search, by way of timing; and which way failed, why."""
    step, search = _prepared(cell, device)
    calls: dict[str, Callable[[], object]] = {"step": step, "search": search}
    clock, found, refused = clock_for(device), {}, {}
    for mode in clock.modes:

        def visit(name: str, mode: str = mode) -> list[float]:
            return clock.visit([calls[name]], mode)

        try:
            times = in_turns({name: name for name in calls}, visit, seconds / len(clock.modes))
        except RuntimeError as error:
            # A step that makes the host wait cannot be captured.
            refused[mode] = str(error).partition("\n")[0]
            continue
        found[mode] = between(times["step"], times["search"])
    return found, refused


def _prepared(cell: Cell, device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    given = inputs(cell, 0, device)
    # Without validation nothing makes the host wait.
    memory = Memory(cell.key_dim, cell.slots, validate=False).to(device)
    # Straight into the buffers: a write of a million rows would look a million rows up.
    memory.load_state_dict({**memory.state_dict(), "keys": given.keys, "values": given.values})
    memory.written.copy_(torch.randint(1, cell.slots + 1, (cell.slots,), device=device))
    memory.clock.fill_(cell.slots)
    # Half of the rows ask for what they are near to.
    near = torch.arange(cell.batch, device=device) % cell.slots
    queries = given.keys[near] + 0.02 * given.queries
    labels = torch.where(near % 2 == 0, memory.values[near], near % CLASSES)
    queries.requires_grad_()

    def step() -> None:
        queries.grad = None
        recall = memory(queries, labels)
        recall.loss.backward()
        memory.write(recall, labels)

    asked = torch.nn.functional.normalize(queries.detach(), dim=1)
    search: Callable[..., object] = memory.lookup.nearest_pair
    half_keys = _half_keys(memory)
    if half_keys is not None:
        search = partial(search, half_keys=half_keys)
    return step, lambda: search(asked, memory.keys, memory.values, labels)


def _half_keys(memory: Memory) -> Tensor | None:
    """The half-precision copy of the keys, if the memory keeps one and so searches it."""
    return next(
        (
            buffer
            for buffer in memory.buffers()
            if buffer.dtype == torch.float16 and buffer.shape == memory.keys.shape
        ),
        None,
    )


if __name__ == "__main__":
    sys.exit(main())
