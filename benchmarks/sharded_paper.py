"""Sharded memories that were not run: their memory, bytes and time on H100s, calculated.

What travels follows from how rows and candidates are packed, and is what `benchmarks.sharded`
counts. The rest is published: 80 GB of memory read at 3.35 TB/s and 989 TFLOP/s in float16 without
sparsity (NVIDIA H100 datasheet, SXM), 450 GB/s to another GPU of the node in each direction (its
NVLink), 400 Gb/s for each GPU between nodes (NVIDIA DGX H100 datasheet). A search takes at least as
long as it takes to read the keys, or to multiply them; no search is that quick.
"""

import torch

from rarememory.distributed.layout import Layout
from rarememory.distributed.shards import layout_of_rows

MEMORY_RATE, MULTIPLY_RATE = 3.35e12, 989e12
NODE, NODE_RATE, NETWORK_RATE = 8, 450e9, 50e9
KEY_DIM, ROWS, WORD = 256, 64, 8
CELLS = {"m10M_g1": (10**7, 1), "m100M_g8": (10**8, 8)} | {
    f"m1000M_g{gpus}": (10**9, gpus) for gpus in (8, 16, 64)
}
"""Slots and GPUs; each GPU has so many rows of its own in a step."""


def on_paper() -> dict[str, float]:
    """Gigabytes of a GPU; kilobytes a query and milliseconds of a training step, for each cell."""
    figures: dict[str, float] = {}
    for cell, (slots, gpus) in CELLS.items():
        held = slots / gpus
        keys = held * KEY_DIM * 2
        # Their values and when they were written, which the choice of slots to give up reads too.
        rest = held * 2 * WORD
        rows = ROWS * gpus
        search = max(keys / MEMORY_RATE, 2 * rows * held * KEY_DIM / MULTIPLY_RATE)
        travels = received(gpus, KEY_DIM)
        rate = NODE_RATE if gpus <= NODE else NETWORK_RATE
        figures |= {
            f"sharded.paper.{cell}.gb": (keys + rest) / 1e9,
            f"sharded.paper.{cell}.kb_per_query": travels / 1e3,
            f"sharded.paper.{cell}.search_ms": 1e3 * (search + rest / MEMORY_RATE),
            f"sharded.paper.{cell}.exchange_ms": 1e3 * ROWS * travels / rate,
        }
    return figures


def received(processes: int, key_dim: int, dtype: torch.dtype = torch.float16) -> float:
    """Bytes that a process receives for a query of its own, to read it with a loss and write it.

    The queries of the others come twice, once to be read and once to be written, and with each goes
    what this process has found for it; then come the keys of the pair. A write sums what is at
    stake of all queries, in a ring twice.
    """
    others = processes - 1
    keys = torch.empty(0, key_dim, dtype=dtype)
    row = WORD * layout_of_rows(keys).words
    read = others * (row + candidates(2)) + others / processes * 2 * WORD * Layout.of(keys).words
    wanted = others * 2 * WORD
    stake = WORD * (2 * processes * 3 + 2 + Layout.of(keys).words)
    return read + wanted + others * row + 2 * others * stake


def candidates(k: int) -> int:
    """Bytes of the k candidates of a query."""
    found = torch.empty(0, k)
    return WORD * Layout.of(found.long(), found, found.long()).words
