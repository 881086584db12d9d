"""A whole training step (read with labels, loss, backward, write), relative to its search alone.

    python -m benchmarks.lookup.step

On a GPU also as a replayed CUDA graph of the whole step. Only a result of a GPU is published.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.lookup.cells import CLASSES, MILLION, Cell, make_inputs
from benchmarks.lookup.clock import clock_for
from benchmarks.lookup.figures import PREFIX, with_quartiles
from benchmarks.lookup.interleaved import interleaved
from benchmarks.lookup.machine import machine
from benchmarks.lookup.outcome import Spread, ratio
from benchmarks.runner import Benchmark, Run, print_figures
from rarememory import Memory

BENCHMARK = Benchmark("benchmarks.lookup.step", __doc__)
add = BENCHMARK.add
add("--device", decisive=False, default="cuda" if torch.cuda.is_available() else "cpu")
add("--batch", type=int, default=256)
add("--slots", type=int, default=MILLION)
add("--key-dim", type=int, default=128)
add("--seconds", decisive=False, type=float, default=10.0, help="to spend, roughly")
add("--runs", decisive=False, default="runs", help="folder for what is not published")


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file."""
    options = run.options
    cell = Cell(options.batch, options.slots, options.key_dim, 0)
    found, refused = measure(cell, options.device, options.seconds)
    figures: dict[str, float] = {}
    for mode, spread in found.items():
        graph = "graph_" if mode == "graph" else ""
        name = f"train_step.{graph}ratio_to_nearest_pair.{cell.name}"
        figures |= with_quartiles(f"{PREFIX[options.device]}.{name}", spread)
    print_figures(figures)
    for mode, reason in refused.items():
        print(f"{mode}: not run: {reason}", file=sys.stderr)
    if not figures:
        raise RuntimeError("nothing was timed, so there is no result to write")
    run.published &= options.device == "cuda"
    run.command += f" --device {options.device}"
    name = f"lookup_step_{'gpu' if options.device == 'cuda' else 'cpu'}"
    run.write(name, figures, machine=machine(options.device), refused=refused)


def measure(cell: Cell, device: str, seconds: float) -> tuple[dict[str, Spread], dict[str, str]]:
    """By mode of timing, the step's seconds by those of its search, or why there are none."""
    step, search = prepared(cell, device)
    calls: dict[str, Callable[[], object]] = {"step": step, "search": search}
    clock, found, refused = clock_for(device), {}, {}
    for mode in clock.modes:

        def timed(name: str, mode: str = mode) -> list[float]:
            return clock.measure(calls[name], mode)

        try:
            groups = {name: name for name in calls}
            times = interleaved(groups, timed, seconds / len(clock.modes))
        except RuntimeError as error:
            # A step that makes the host wait cannot be captured.
            refused[mode] = str(error).partition("\n")[0]
            continue
        found[mode] = ratio(times["step"], times["search"])
    return found, refused


def prepared(cell: Cell, device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step of a full memory of this size, and its search alone."""
    given = make_inputs(cell, 0, device)
    # Without validation nothing makes the host wait.
    memory = Memory(cell.key_dim, cell.slots, validate=False).to(device)
    # Straight into the buffers: a write would search for a million rows.
    memory.load_state_dict({**memory.state_dict(), "keys": given.keys, "values": given.values})
    memory.written.copy_(torch.randint(1, cell.slots + 1, (cell.slots,), device=device))
    memory.clock.fill_(cell.slots)
    # Half of the rows have the label of the key that they are near to.
    near = torch.arange(cell.batch, device=device) % cell.slots
    queries = given.keys[near] + 0.02 * given.queries
    labels = torch.where(near % 2 == 0, memory.values[near], near % CLASSES)
    queries.requires_grad_()

    def step() -> None:
        queries.grad = None
        recall = memory(queries, labels)
        recall.loss.backward()
        memory.write(recall, labels)

    unit = torch.nn.functional.normalize(queries.detach(), dim=1)
    search: Callable[..., object] = memory.lookup.nearest_pair
    # As the memory itself searches.
    half_keys = memory._half_keys()
    if half_keys is not None:
        search = partial(search, half_keys=half_keys)
    return step, lambda: search(unit, memory.keys, memory.values, labels)


if __name__ == "__main__":
    sys.exit(main())
