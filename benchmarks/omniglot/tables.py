"""The tables about Omniglot and the sequence task, with what others published beside ours."""

from benchmarks.table import Figure, Row, Table, row

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
ALL = ("423w1s", "423w5s")
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


def _ablation(name: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"ablation.{name}.{task}") for task in ABLATED)


def _at_five_shots(figures: tuple[Figure, ...]) -> tuple[str | Figure, ...]:
    """Of a row that at one shot would be no other."""
    return tuple("" if figure.key.endswith("1s") else figure for figure in figures)


def _vinyals(protocol: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"omniglot.{protocol}.{task}") for task in TASKS)


def _peer(name: str, said: str) -> list[Row]:
    """A row, and below it what its paper prints."""
    measured = row(said, *(Figure(f"omniglot_peers.{name}.{task}") for task in TASKS))
    if name not in PEERS_PUBLISHED:
        return [measured]
    return [measured, row(f"{said} (published)", *PEERS_PUBLISHED[name])]


def _upright(protocol: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"omniglot.{protocol}.{task}", "{:.1f}") for task in ALL)


def _streams(key: str) -> tuple[Figure, ...]:
    orders = ("random", "alphabet")
    return tuple(Figure(f"omniglot.lifelong.{order}.{key}", "{:.1f}") for order in orders)


def _sequence(name: str) -> tuple[Figure, ...]:
    parts = ("without", "with")
    return tuple(Figure(f"sequence.{name}.{part}_memory", "{:.1f}") for part in parts)


def _evaluation(key: str) -> Figure:
    return Figure(f"omniglot.{key}", "{:.1f}")


TABLES = {
    "omniglot": Table(
        columns=(
            "",
            *("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
            *("423-way 1-shot", "423-way 5-shot"),
        ),
        rows=(
            *PUBLISHED,
            row(
                "**rarememory**, support/query",
                *_vinyals("vinyals.support"),
                *_upright("vinyals.upright"),
            ),
            row("the same, sighting", *_vinyals("vinyals.sighting"), "", ""),
            row(
                "the same, answered by the nearest class mean",
                *_vinyals("vinyals.mean"),
                *_upright("vinyals.mean.upright"),
            ),
            row(
                "the same, drawings averaged with 4 jittered copies",
                *_vinyals("vinyals.jittered"),
                *_upright("vinyals.jittered.upright"),
            ),
            row(
                "one of its three encoders alone, mean over seeds",
                *_vinyals("vinyals.alone"),
                *_upright("vinyals.alone.upright"),
            ),
            row(
                "the small encoder that ships, support/query",
                *_vinyals("shipped.support"),
                *_upright("shipped.upright"),
            ),
            row("the same, sighting", *_vinyals("shipped.sighting"), "", ""),
            row(
                "the same, answered by the nearest class mean",
                *_vinyals("shipped.mean"),
                *_upright("shipped.mean.upright"),
            ),
        ),
    ),
    "evaluation": Table(
        columns=("659 evaluation characters", "1 drawing", "5 drawings"),
        rows=(
            *(
                row(
                    f"{way} at once, accuracy",
                    *(_evaluation(f"evaluation.{way}w{shot}s") for shot in (1, 5)),
                )
                for way in (100, 423, 659)
            ),
            row(
                "659 at once, answered by the nearest class mean",
                *(_evaluation(f"evaluation.659w{shot}s.mean") for shot in (1, 5)),
            ),
            row(
                "659 at once, drawings averaged with 4 jittered copies",
                *(_evaluation(f"jittered.659w{shot}s") for shot in (1, 5)),
            ),
            row(
                "20 of one alphabet, another hand asks, the 20 published runs, error",
                _evaluation("within_alphabet.20w1s.error"),
                "",
            ),
            row(
                "the same, trained on five alphabets",
                _evaluation("within_alphabet.five.20w1s.error"),
                "",
            ),
            row(
                "20 of one alphabet, drawn from all 20 alphabets and 20 hands, error",
                _evaluation("within_alphabet.random.20w1s.error"),
                "",
            ),
            row(
                "the same, trained on five alphabets",
                _evaluation("within_alphabet.five.random.20w1s.error"),
                "",
            ),
            row(
                "half are strangers, AUROC of the nearest score",
                *(_evaluation(f"openset.{shot}shot.auroc") for shot in (1, 5)),
            ),
            row(
                "known and right where 5 % of strangers are accepted",
                *(_evaluation(f"openset.{shot}shot.far5") for shot in (1, 5)),
            ),
        ),
    ),
    "lifelong": Table(
        columns=("", "random order", "alphabet by alphabet"),
        rows=tuple(
            row(f"{said}, sighting {n}", *_streams(f"{key}sighting{n}"))
            for said, key in ((POLICIES["mean"], ""), (POLICIES["paper"], "paper."))
            for n in (2, 6)
        )
        + tuple(
            row(
                f"{POLICIES[name]}, forgotten by the end, of one stream",
                *_streams(f"eight.{name}.forgetting"),
            )
            for name in ("mean", "paper")
        ),
    ),
    "storage": Table(
        columns=("20 ways, 10 drawings of each, slots", *map(str, STORED)),
        rows=tuple(
            row(
                POLICIES[name],
                *(
                    Figure(f"omniglot.storage.{name}.{slots}.accuracy", "{:.1f}")
                    for slots in STORED
                ),
            )
            for name in ("mean", "paper", "fifo")
        ),
    ),
    "policies": Table(
        columns=("6th sighting, random order, slots a class", *SIZES.values()),
        rows=tuple(
            row(
                said,
                *(
                    Figure(f"omniglot.lifelong.random.{size}.{name}.sighting6", "{:.1f}")
                    for size in SIZES
                ),
            )
            for name, said in POLICIES.items()
        ),
    ),
    "peers": Table(
        columns=("", "5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
        rows=(
            *(each for name, said in PEERS.items() for each in _peer(name, said)),
            row(
                "the same, all drawings kept and attended to",
                *_at_five_shots(
                    tuple(Figure(f"omniglot_peers.attention.{task}") for task in TASKS)
                ),
            ),
            row("MAML, learn2learn", *(Figure(f"omniglot_peers.maml.{task}") for task in TASKS)),
            row("MAML (published)", "98.7", "99.9", "95.8", "98.9"),
        ),
    ),
    "ablation": Table(
        columns=("", "20-way 1-shot", "20-way 5-shot", "688-way 1-shot", "688-way 5-shot"),
        rows=(
            *(row(said, *_ablation(name)) for name, said in ABLATION.items()),
            # A full memory has room for one shot: what it gives up begins at five.
            *(row(said, *_at_five_shots(_ablation(name))) for name, said in ABLATION_FULL.items()),
        ),
    ),
    "sequence": Table(
        columns=("", "without memory", "with memory"),
        rows=(
            row("LSTM with attention, 2 layers of 256", *_sequence("lstm")),
            row("Transformer", *_sequence("modern")),
            row("numbers that occur in training", "", Figure("sequence.ceiling", "{:.1f}")),
        ),
    ),
}
