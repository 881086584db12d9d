"""What a store costs: learns beside bare inserts, reads beside reads without one, and the service.

    python -m benchmarks.store              all of it, about ten minutes on an idle machine
    python -m benchmarks.store --quick      a few of each, to see that it runs

Two processes learn at once; beside them two processes insert the same bytes, as many a transaction,
into a table with a key, with no memory, and again in one order, as a log. Each part is a result of
its own.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.runner import Benchmark, Run, print_table
from benchmarks.store import measured
from benchmarks.store.postgres import Server
from benchmarks.store.service import under_load

command = Benchmark("benchmarks.store", __doc__)
command.add("--quick", action="store_true", help="a few of each")
command.add(
    "--parts", decisive=False, nargs="+", default=list(measured.PARTS), choices=measured.PARTS
)


@command
def main(run: Run) -> None:
    """Measure, print the table, and write the results."""
    # Writers are forked: OpenMP's threads do not come along.
    torch.set_num_threads(1)
    server = Server()
    try:
        with TemporaryDirectory() as folder:
            for part in run.options.parts:
                figures = _figures(part, Path(folder), server, run.options.quick)
                rows = [(name, f"{figure:.3f}") for name, figure in sorted(figures.items())]
                print_table(("figure", "value"), rows, part)
                run.command = f"python -m {command.module} --parts {part}"
                run.write(f"store_{part}", figures)
    finally:
        server.stop()


def _figures(part: str, folder: Path, server: Server, quick: bool) -> dict[str, float]:
    if part == "serve":
        return _service(folder, server, *((20, 3.0) if quick else (200, 60.0)))
    figures: dict[str, float] = {}
    for kind in ("sqlite", "postgresql"):
        url = server.database() if kind == "postgresql" else f"sqlite:///{folder}/{part}.db"
        found = getattr(measured, part)(url, quick)
        figures |= {f"store.{kind}.{name}": number for name, number in found.items()}
    return figures


def _service(folder: Path, server: Server, clients: int, seconds: float) -> dict[str, float]:
    found, lost = under_load(server.database(), folder, clients, seconds)
    if found.errors:
        raise RuntimeError(f"{len(found.errors)} errors, such as {found.errors[0]}")
    times = torch.tensor(found.seconds).double().mul(1000)
    return {
        "serve.p50_ms": times.quantile(0.5).item(),
        "serve.p99_ms": times.quantile(0.99).item(),
        "serve.requests": len(found.seconds),
        "serve.learns": len(found.learnt),
        "serve.lost": lost,
    }


if __name__ == "__main__":
    sys.exit(main())
