"""The tables of README and of docs/results.md, as data."""

from benchmarks.omniglot.tables import TABLES as OMNIGLOT
from benchmarks.table import Figure as Figure
from benchmarks.table import Table as Table


def _on_gpu(cell: str) -> tuple[Figure, ...]:
    key = f"lookup.gpu.{cell}"
    return Figure(f"{key}.speedup_over_torch"), Figure(f"{key}.fraction_of_roofline")


def _on_cpu(cell: str) -> tuple[Figure, ...]:
    key = f"lookup.cpu.{cell}.auto"
    return Figure(f"{key}.ratio_to_best_stock"), Figure(f"{key}.fraction_of_roofline")


def _approximate(cell: str) -> tuple[Figure, ...]:
    parts = ("recall", "speedup", "speedup_after_write")
    return tuple(Figure(f"lookup.approximate.{cell}.{part}") for part in parts)


def _generalised(way: str) -> tuple[Figure, ...]:
    parts = ("old", "new", "harmonic")
    return tuple(
        Figure(f"generalised.{shots}shot.{way}.{part}", "{:.1f}")
        for shots in (1, 5)
        for part in parts
    )


def _headline(whole: Table) -> Table:
    """The table of README: what others published, our best encoder, and the one that ships."""
    chosen = ("(published)", "**rarememory**", "that ships")
    rows = [row for row in whole.rows if any(part in str(row[0]) for part in chosen)]
    return Table(columns=whole.columns, rows=tuple(rows))


TABLES = {
    "headline": _headline(OMNIGLOT["omniglot"]),
    **OMNIGLOT,
    "generalised": Table(
        columns=(
            "",
            *(
                f"{part}, {shots}"
                for shots in ("1 drawing", "5 drawings")
                for part in ("old", "new", "harmonic mean")
            ),
        ),
        rows=(
            ("the model alone", *_generalised("host")),
            ("**memory**", *_generalised("memory")),
            ("the same, a slot for each drawing", *_generalised("memory.drawings")),
            ("the same, features not whitened", *_generalised("memory.unwhitened")),
            ("nearest class mean", *_generalised("class_mean")),
            ("imprinted weights", *_generalised("imprinted")),
            ("Tip-Adapter cache", *_generalised("tip_adapter")),
            ("last layer trained on", *_generalised("tuned_head")),
            ("everything trained on", *_generalised("tuned_all")),
        ),
    ),
    "learning": Table(
        columns=("", "1 drawing", "5 drawings"),
        rows=(
            (
                "memory over the best rival, harmonic mean, points",
                *(Figure(f"generalised.{n}shot.memory_over_best_rival", "{:+.1f}") for n in (1, 5)),
            ),
            (
                "accuracy that old classes lose to the model alone, points",
                *(Figure(f"generalised.{n}shot.base_loss", "{:.2f}") for n in (1, 5)),
            ),
            (
                "seconds to learn the 659 classes",
                *(Figure(f"generalised.{n}shot.seconds.memory", "{:.1f}") for n in (1, 5)),
            ),
            (
                "seconds to train everything on, as a multiple",
                *(Figure(f"generalised.{n}shot.tuning_to_learning", "{:.0f}") for n in (1, 5)),
            ),
        ),
    ),
    "openset": Table(
        columns=("strangers accepted, in %", "requested 1", "requested 5", "requested 10"),
        rows=(
            ("measured", *(Figure(f"openset.far{rate}.measured") for rate in (1, 5, 10))),
            (
                "known classes accepted meanwhile",
                *(Figure(f"openset.far{rate}.known_accepted", "{:.1f}") for rate in (1, 5, 10)),
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
            (
                "CPU, the worst of 27 cells, all in one process (waiting threads sleep)",
                Figure("lookup.cpu.auto.worst_ratio_to_best_stock"),
                "",
            ),
            (
                "CPU, the worst of 27 cells, each backend in a process of its own",
                Figure("lookup.cpu.auto.alone_worst_ratio_to_best_stock"),
                "",
            ),
            ("CPU, 1 query, 8,192 slots, k = 1", *_on_cpu("b1_m8192_k1")),
            ("CPU, 1 query, 1M slots, k = 10", *_on_cpu("b1_m1M_k10")),
            ("CPU, 16 queries, 8,192 slots, k = 256", *_on_cpu("b16_m8192_k256")),
            ("CPU, 256 queries, 1M slots, k = 256", *_on_cpu("b256_m1M_k256")),
            ("GPU, 16 queries, 1M slots, k = 256", *_on_gpu("b16_m1M_k256")),
            ("GPU, 256 queries, 1M slots, k = 8", *_on_gpu("b256_m1M_k8")),
            ("GPU, 256 queries, 1M slots, k = 256", *_on_gpu("b256_m1M_k256")),
            ("GPU, 4,096 queries, 1M slots, k = 256", *_on_gpu("b4096_m1M_k256")),
            ("GPU, 256 queries, 1M slots, nearest pair", *_on_gpu("b256_m1M")),
        ),
    ),
    "approximate": Table(
        columns=("16 queries, 131,072 slots", "recall", "times as fast as exact", "after a write"),
        rows=(
            ("FaissIVF, clustered keys, k = 1", *_approximate("ivf.clustered.m131072_k1")),
            ("FaissIVF, clustered keys, k = 10", *_approximate("ivf.clustered.m131072_k10")),
            ("FaissIVF, random directions, k = 10", *_approximate("ivf.unclustered.m131072_k10")),
            (
                "LocalitySensitiveHashing, clustered keys, k = 1",
                *_approximate("lsh.clustered.m131072_k1"),
            ),
        ),
    ),
    "speed": Table(
        columns=("", "ratio"),
        rows=(
            (
                "a training step (16 rows, 8,192 slots, half of them hits), "
                "to the bare matrix product and its max",
                Figure("memory.train_step.ratio_to_matmul"),
            ),
            (
                "the same when every row hits",
                Figure("memory.train_step.all_hits.ratio_to_matmul"),
            ),
            (
                "a write of 16 rows just recalled into 1,000,000 slots, to one into 8,192, "
                "when every row hits",
                Figure("memory.write.ratio_1m_to_8192"),
            ),
            (
                "the same when none does, apart from choosing the oldest slots",
                Figure("memory.write.misses.ratio_1m_to_8192"),
            ),
            (
                "choosing the oldest of 1,000,000 slots, to that of 8,192",
                Figure("memory.oldest.ratio_1m_to_8192"),
            ),
            (
                "the nearest pair of 16 queries among 8,192 slots on a CPU, "
                "to the bare matrix product",
                Figure("lookup.cpu.nearest_pair.ratio_to_matmul.b16_m8192"),
            ),
            (
                "a training step (256 rows, 1M slots) on a GPU, to its nearest pair alone",
                Figure("lookup.gpu.train_step.ratio_to_nearest_pair.b256_m1M"),
            ),
            (
                "the same as a replayed CUDA graph",
                Figure("lookup.gpu.train_step.graph_ratio_to_nearest_pair.b256_m1M"),
            ),
        ),
    ),
}
