"""README's tables, as data: a cell is a text or the key of a measured figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured number; when `<key>.interval` was measured too, it follows after a ±."""

    key: str
    form: str = "{:.2f}"


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]


def _omniglot(protocol: str) -> tuple[Figure, ...]:
    tasks = ("5w1s", "5w5s", "20w1s", "20w5s")
    return tuple(Figure(f"omniglot.vinyals.{protocol}.{task}") for task in tasks)


TABLES = {
    "omniglot": Table(
        columns=("", "5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
        rows=(
            # arXiv 1703.03129, table 1
            ("Kaiser et al. 2017 (published)", "98.4", "99.6", "95.0", "98.6"),
            ("rarememory, sighting", *_omniglot("sighting")),
            ("rarememory, support/query", *_omniglot("support")),
        ),
    ),
    "speed": Table(
        columns=("", "ratio"),
        rows=(
            (
                "a training step, to the bare matrix product and its max",
                Figure("memory.train_step.ratio_to_matmul"),
            ),
            (
                "a write into 1,000,000 slots, to one into 8,192",
                Figure("memory.write.ratio_1m_to_8192"),
            ),
            (
                "choosing the oldest of 1,000,000 slots, to that of 8,192",
                Figure("memory.oldest.ratio_1m_to_8192"),
            ),
        ),
    ),
}
