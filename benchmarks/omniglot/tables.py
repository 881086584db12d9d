"""The tables about Omniglot and the sequence task, with what others published beside ours."""

from benchmarks.table import Row, Table, figures, row

PAPER = {5: {1: 98.4, 5: 99.6}, 20: {1: 95.0, 5: 98.6}}
"""Kaiser et al. 2017, table 1 (arXiv 1703.03129): accuracy in percent by ways and shots."""

PUBLISHED = (
    ("Kaiser et al. 2017 (published)", "98.4", "99.6", "95.0", "98.6", "", ""),
    ("Relation Network, Sung et al. 2018 (published)", "99.6", "99.8", "97.6", "99.1", "", ""),
    ("SNAIL, Mishra et al. 2018 (published)", "99.07", "99.78", "97.64", "99.36", "", ""),
    (
        "Adaptive Posterior Learning, Ramalho and Garnelo 2019 (published)",
        *("97.9", "99.9", "97.2", "97.6", "73.5", "88.0"),
    ),
)
"""Accuracy in percent as the papers print it."""

TASKS = ("5w1s", "5w5s", "20w1s", "20w5s")
POLICIES = {
    "paper": "the paper's",
    "mean": "a mean a class (`MeanMemory`)",
    "fifo": "first in, first out",
    "random": "the paper's, random eviction",
}
STORED = (20, 30, 44, 100, 200)
SIZES = {"half": "0.5", "one": "1", "two": "2", "eight": "8"}
PEERS = {
    "pixels": "nearest pixels",
    "hog": "nearest oriented gradients",
    "matching": "Matching Networks",
    "prototypical": "Prototypical Networks",
    "k_neighbours": "nearest neighbours over the memory's encoder",
    "memory": "**memory**",
}
PEERS_PUBLISHED = {
    "matching": ("98.1", "98.9", "93.8", "98.5"),
    "prototypical": ("98.8", "99.7", "96.0", "98.9"),
}
EVALUATION = {
    **{f"evaluation.{n}w{{}}s": f"{n} at once, accuracy" for n in (100, 423, 659)},
    "evaluation.659w{}s.mean": "659 at once, answered by the nearest class mean",
    "jittered.659w{}s": "659 at once, drawings averaged with 4 jittered copies",
}
WITHIN_ALPHABET = {
    "": "20 of one alphabet, another hand asks, the 20 published runs, error",
    "five.": "the same, trained on five alphabets",
    "random.": "20 of one alphabet, drawn from all 20 alphabets and 20 hands, error",
    "five.random.": "the same, trained on five alphabets",
}
OPEN_SET = {
    "auroc": "half are strangers, AUROC of the nearest score",
    "far5": "known and right where 5 % of strangers are accepted",
}
ABLATION = {
    "default": "**as it is**",
    "all_random": "classes of an episode at random, no memory kept",
    "kept": "at random, under one memory of all classes, never cleared",
    "kept_few_neighbors": "the same, 16 of its keys vote and not 256",
    "more_sightings": "64 classes seen four times, not 128 seen twice",
    "margin_alone": "memory loss alone",
    "vote_alone": "vote alone",
    "one_way": "episodes shown from one end",
    "temperature_0025": "temperature 0.025, not 0.1",
    "projection": "a learned projection before the memory",
    "no_bend": "drawings jittered, not bent",
    "no_jitter": "drawings as they are",
    "larger_drawings": "drawings of 56 x 56, a wider encoder",
    "last_weights": "last weights, not averaged ones",
    "by_shot": "five shots written one after the other, not their mean",
    "first_in_first_out": "the same, nothing averaged",
}
ABLATION_FULL = {
    "full": "one after the other, 1.5 slots a class, the oldest replaced",
    "full_random": "the same, a random one replaced",
    "full_first_in_first_out": "the same, the oldest replaced, nothing averaged",
}
ABLATED = ("20w1s", "20w5s", "688w1s", "688w5s")


def _omniglot(label: str, split: str, protocol: str, upright: str | None) -> Row:
    """The four tasks and, unless `upright` is None, all 423 upright test characters at once."""
    usual = figures(f"omniglot.{split}.{protocol}.{{}}", *TASKS)
    if upright is None:
        return (label, *usual, "", "")
    many = figures(f"omniglot.{split}.{upright}.423w{{}}s", 1, 5, form="{:.1f}")
    return (label, *usual, *many)


def _peers() -> tuple[Row, ...]:
    """A row for each method, and below it what its paper prints."""
    rows: list[Row] = []
    for name, label in PEERS.items():
        rows.append((label, *figures(f"omniglot_peers.{name}.{{}}", *TASKS)))
        if name in PEERS_PUBLISHED:
            rows.append((f"{label} (published)", *PEERS_PUBLISHED[name]))
    return tuple(rows)


def _only_five_shots(one: Row) -> Row:
    """The row without its one-shot cells, in which it would be equal to another row."""
    return tuple(cell if isinstance(cell, str) or cell.key.endswith("5s") else "" for cell in one)


def _streams(label: str, key: str) -> Row:
    orders = ("random", "alphabet")
    return (label, *figures(f"omniglot.lifelong.{{}}.{key}", *orders, form="{:.1f}"))


def _ablation(names: dict[str, str]) -> tuple[Row, ...]:
    return tuple(
        (label, *figures(f"ablation.{name}.{{}}", *ABLATED)) for name, label in names.items()
    )


def _sequence(label: str, name: str) -> Row:
    return (label, *figures(f"sequence.{name}.{{}}_memory", "without", "with", form="{:.1f}"))


TABLES = {
    "omniglot": Table(
        columns=(
            "",
            *("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
            *("423-way 1-shot", "423-way 5-shot"),
        ),
        rows=(
            *PUBLISHED,
            _omniglot("**rarememory**, support/query", "vinyals", "support", "upright"),
            _omniglot("the same, sighting", "vinyals", "sighting", None),
            _omniglot(
                "the same, answered by the nearest class mean", "vinyals", "mean", "mean.upright"
            ),
            _omniglot(
                "the same, drawings averaged with 4 jittered copies",
                *("vinyals", "jittered", "jittered.upright"),
            ),
            _omniglot(
                "one of its three encoders alone, mean over seeds",
                *("vinyals", "alone", "alone.upright"),
            ),
            _omniglot(
                "the small encoder that ships, support/query", "shipped", "support", "upright"
            ),
            _omniglot("the same, sighting", "shipped", "sighting", None),
            _omniglot(
                "the same, answered by the nearest class mean", "shipped", "mean", "mean.upright"
            ),
        ),
    ),
    "evaluation": Table(
        columns=("659 evaluation characters", "1 drawing", "5 drawings"),
        rows=(
            *(
                row(label, *figures(f"omniglot.{key}", 1, 5, form="{:.1f}"))
                for key, label in EVALUATION.items()
            ),
            *(
                row(
                    label,
                    *figures("omniglot.within_alphabet.{}20w1s.error", key, form="{:.1f}"),
                    "",
                )
                for key, label in WITHIN_ALPHABET.items()
            ),
            *(
                row(label, *figures(f"omniglot.openset.{{}}shot.{key}", 1, 5, form="{:.1f}"))
                for key, label in OPEN_SET.items()
            ),
        ),
    ),
    "lifelong": Table(
        columns=("", "random order", "alphabet by alphabet"),
        rows=(
            *(
                _streams(f"{POLICIES[name]}, sighting {n}", f"{key}sighting{n}")
                for name, key in (("mean", ""), ("paper", "paper."))
                for n in (2, 6)
            ),
            *(
                _streams(
                    f"{POLICIES[name]}, forgotten by the end, of one stream",
                    f"eight.{name}.forgetting",
                )
                for name in ("mean", "paper")
            ),
        ),
    ),
    "storage": Table(
        columns=("20 ways, 10 drawings of each, slots", *map(str, STORED)),
        rows=tuple(
            (
                POLICIES[name],
                *figures(f"omniglot.storage.{name}.{{}}.accuracy", *STORED, form="{:.1f}"),
            )
            for name in ("mean", "paper", "fifo")
        ),
    ),
    "policies": Table(
        columns=("6th sighting, random order, slots a class", *SIZES.values()),
        rows=tuple(
            (
                label,
                *figures(f"omniglot.lifelong.random.{{}}.{name}.sighting6", *SIZES, form="{:.1f}"),
            )
            for name, label in POLICIES.items()
        ),
    ),
    "peers": Table(
        columns=("", "5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
        rows=(
            *_peers(),
            _only_five_shots(
                (
                    "the same, all drawings kept and attended to",
                    *figures("omniglot_peers.attention.{}", *TASKS),
                )
            ),
            ("MAML, learn2learn", *figures("omniglot_peers.maml.{}", *TASKS)),
            ("MAML (published)", "98.7", "99.9", "95.8", "98.9"),
        ),
    ),
    "ablation": Table(
        columns=("", "20-way 1-shot", "20-way 5-shot", "688-way 1-shot", "688-way 5-shot"),
        # A full memory has slots for one shot: what it evicts begins at five.
        rows=(*_ablation(ABLATION), *map(_only_five_shots, _ablation(ABLATION_FULL))),
    ),
    "sequence": Table(
        columns=("", "without memory", "with memory"),
        rows=(
            _sequence("LSTM with attention, 2 layers of 256", "lstm"),
            _sequence("Transformer", "modern"),
            (
                "numbers that occur in training",
                "",
                *figures("sequence.{}", "ceiling", form="{:.1f}"),
            ),
        ),
    ),
}
