"""The tables of README and of docs/results.md, as data."""

from benchmarks.omniglot.tables import TABLES as OMNIGLOT
from benchmarks.table import Figure as Figure
from benchmarks.table import Row, figures, row
from benchmarks.table import Table as Table

GENERALISED = {
    "host": "the model alone",
    "memory": "**memory**",
    "memory.drawings": "the same, a slot for each drawing",
    "memory.unwhitened": "the same, features not whitened",
    "class_mean": "nearest class mean",
    "imprinted": "imprinted weights",
    "tip_adapter": "Tip-Adapter cache",
    "tuned_head": "last layer trained on",
    "tuned_all": "everything trained on",
}
LEARNING: tuple[Row, ...] = (
    (
        "memory over the best rival, harmonic mean, points",
        *figures("generalised.{}shot.memory_over_best_rival", 1, 5, form="{:+.1f}"),
    ),
    (
        "accuracy that old classes lose to the model alone, points",
        *figures("generalised.{}shot.base_loss", 1, 5),
    ),
    (
        "seconds to learn the 659 classes",
        *figures("generalised.{}shot.seconds.memory", 1, 5, form="{:.1f}"),
    ),
    (
        "seconds to train everything on, as a multiple",
        *figures("generalised.{}shot.tuning_to_learning", 1, 5, form="{:.0f}"),
    ),
)
ON_CPU = {
    "b1_m8192_k1": "CPU, 1 query, 8,192 slots, k = 1",
    "b1_m1M_k10": "CPU, 1 query, 1M slots, k = 10",
    "b16_m8192_k256": "CPU, 16 queries, 8,192 slots, k = 256",
    "b256_m1M_k256": "CPU, 256 queries, 1M slots, k = 256",
}
ON_GPU = {
    "b16_m1M_k256": "GPU, 16 queries, 1M slots, k = 256",
    "b256_m1M_k8": "GPU, 256 queries, 1M slots, k = 8",
    "b256_m1M_k256": "GPU, 256 queries, 1M slots, k = 256",
    "b4096_m1M_k256": "GPU, 4,096 queries, 1M slots, k = 256",
    "b256_m1M": "GPU, 256 queries, 1M slots, nearest pair",
}
WORST = {
    "worst_ratio": "CPU, the worst of 27 cells, all in one process (waiting threads sleep)",
    "alone_worst_ratio": "CPU, the worst of 27 cells, each backend in a process of its own",
}
APPROXIMATE = {
    "ivf.clustered.m131072_k1": "FaissIVF, clustered keys, k = 1",
    "ivf.clustered.m131072_k10": "FaissIVF, clustered keys, k = 10",
    "ivf.unclustered.m131072_k10": "FaissIVF, random directions, k = 10",
    "lsh.clustered.m131072_k1": "LocalitySensitiveHashing, clustered keys, k = 1",
}
SPEED = {
    "memory.train_step.ratio_to_matmul": (
        "a training step (16 rows, 8,192 slots, half of them hits), "
        "to the bare matrix product and its max"
    ),
    "memory.train_step.all_hits.ratio_to_matmul": "the same when every row hits",
    "memory.write.ratio_1m_to_8192": (
        "a write of 16 rows just recalled into 1,000,000 slots, to one into 8,192, "
        "when every row hits"
    ),
    "memory.write.misses.ratio_1m_to_8192": (
        "the same when none does, apart from choosing the oldest slots"
    ),
    "memory.oldest.ratio_1m_to_8192": "choosing the oldest of 1,000,000 slots, to that of 8,192",
    "lookup.cpu.nearest_pair.ratio_to_matmul.b16_m8192": (
        "the nearest pair of 16 queries among 8,192 slots on a CPU, to the bare matrix product"
    ),
    "lookup.gpu.train_step.ratio_to_nearest_pair.b256_m1M": (
        "a training step (256 rows, 1M slots) on a GPU, to its nearest pair alone"
    ),
    "lookup.gpu.train_step.graph_ratio_to_nearest_pair.b256_m1M": (
        "the same as a replayed CUDA graph"
    ),
}


def _headline(whole: Table) -> Table:
    """The table of README: what others published, our best encoder, and the one that ships."""
    chosen = ("(published)", "**rarememory**", "that ships")
    rows = [row for row in whole.rows if any(part in str(row[0]) for part in chosen)]
    return Table(columns=whole.columns, rows=tuple(rows))


PARTS = ("old", "new", "harmonic")
TABLES = {
    **OMNIGLOT,
    "headline": _headline(OMNIGLOT["omniglot"]),
    "generalised": Table(
        columns=(
            "",
            *(f"{part}, 1 drawing" for part in ("old", "new", "harmonic mean")),
            *(f"{part}, 5 drawings" for part in ("old", "new", "harmonic mean")),
        ),
        rows=tuple(
            (
                label,
                *figures(f"generalised.1shot.{method}.{{}}", *PARTS, form="{:.1f}"),
                *figures(f"generalised.5shot.{method}.{{}}", *PARTS, form="{:.1f}"),
            )
            for method, label in GENERALISED.items()
        ),
    ),
    "learning": Table(columns=("", "1 drawing", "5 drawings"), rows=LEARNING),
    "openset": Table(
        columns=("strangers accepted, in %", "requested 1", "requested 5", "requested 10"),
        rows=(
            row("measured", *figures("openset.far{}.measured", 1, 5, 10)),
            row(
                "known classes accepted meanwhile",
                *figures("openset.far{}.known_accepted", 1, 5, 10, form="{:.1f}"),
            ),
        ),
    ),
    "auroc": Table(
        columns=("known or unknown, by", "AUROC, in %"),
        rows=(
            ("the memory's familiarity", Figure("openset.auroc.memory", "{:.1f}")),
            ("the model's own confidence", Figure("openset.auroc.max_softmax", "{:.1f}")),
        ),
    ),
    "lookup": Table(
        columns=("", "times as fast as the best rival", "part of the roofline"),
        rows=(
            *(
                row(label, Figure(f"lookup.cpu.auto.{which}_to_best_stock"), "")
                for which, label in WORST.items()
            ),
            *(
                row(
                    label,
                    *figures(
                        f"lookup.cpu.{cell}.auto.{{}}",
                        "ratio_to_best_stock",
                        "fraction_of_roofline",
                    ),
                )
                for cell, label in ON_CPU.items()
            ),
            *(
                row(
                    label,
                    *figures(
                        f"lookup.gpu.{cell}.{{}}", "speedup_over_torch", "fraction_of_roofline"
                    ),
                )
                for cell, label in ON_GPU.items()
            ),
        ),
    ),
    "approximate": Table(
        columns=("16 queries, 131,072 slots", "recall", "times as fast as exact", "after a write"),
        rows=tuple(
            row(
                label,
                *figures(
                    f"lookup.approximate.{cell}.{{}}", "recall", "speedup", "speedup_after_write"
                ),
            )
            for cell, label in APPROXIMATE.items()
        ),
    ),
    "speed": Table(
        columns=("", "ratio"), rows=tuple((label, Figure(key)) for key, label in SPEED.items())
    ),
}
