"""Omniglot past the paper: many ways, alphabets, streams, few keys and strangers, by one encoder.

    python -m benchmarks.omniglot.evaluation --encoder <weights> --data <folder>

The encoder is one of ours, trained on the background characters only (safetensors, such as
`python -m benchmarks.omniglot --split folders --weights <file>` writes); it is tested on the 659
evaluation characters as they were drawn. Nothing is trained. It takes about twenty minutes on a
core, most of them for the streams.
"""

import json
import sys
from argparse import Namespace
from functools import partial
from itertools import product
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.omniglot.curves import draw_evaluation
from benchmarks.omniglot.openset import open_set
from benchmarks.omniglot.streams import ORDERS, POLICIES, SIZES, averaged, streamed
from benchmarks.omniglot.testing import ATTENDED, BY_SHOT, MEAN, episode_accuracy
from benchmarks.results import percent, sha256
from benchmarks.runner import Benchmark, Run, bar, print_figures
from rarememory import Memory
from rarememory.backbones import stored_encoder
from rarememory.data import Characters, download_omniglot, published_runs, read_omniglot
from rarememory.evaluation import (
    Accuracy,
    embed,
    embed_averaged,
    runs_accuracy,
    storage_accuracy,
    within_alphabet_accuracy,
)

BENCHMARK = Benchmark("benchmarks.omniglot.evaluation", __doc__)
BENCHMARK.add_data()
add = BENCHMARK.add
add("--encoder", decisive=False, required=True, help="its weights, in safetensors")
text = "another encoder, trained on five alphabets only, to test within alphabets"
add("--five", decisive=False, help=text)
add("--episodes", type=int, default=100, help="of a kind; a fifth of it beyond 100 ways")
add("--copies", type=int, default=4, help="jittered, to average a drawing with; 0: none")
add("--streams", type=int, default=3, help="to average the main lifelong figures over")
add("--seed", type=int, default=0)

WAYS = (100, 423, 659)
CURVE = (5, 20, 50, 100, 200, 300, 423, 659)
SHOTS = (1, 5)
STORED = (20, 25, 30, 44, 60, 100, 200)
"""Slots. Ramalho and Garnelo 2019 keep 44 items for 98.5 % at 20 ways."""
SHOWN = (2, 6, 20)
"""Sightings whose accuracy is a figure; the others are in the curves."""
ALL_DRAWINGS = 20
Embeddings = Float[Tensor, "classes drawings key_dim"]
Figures = dict[str, float]


@BENCHMARK
def main(run: Run) -> None:
    """Test, write the result."""
    options = run.options
    encoder = stored_encoder(options.encoder)
    folder = options.data or download_omniglot("data")
    characters = read_omniglot(folder, encoder.size).evaluation
    print(f"embedding {len(characters)} characters")
    embeddings = embed(encoder, characters.images)
    figures, curves = many_ways("evaluation", embeddings, options)
    figures |= within_alphabets("within_alphabet", characters, embeddings, options)
    run.command += " --encoder <weights>"
    if options.five:
        run.command += " --five <weights>"
        five = stored_encoder(options.five)
        drawn = read_omniglot(folder, five.size).evaluation
        key = "within_alphabet.five"
        figures |= within_alphabets(key, drawn, embed(five, drawn.images), options)
    figures |= storage(embeddings, options)
    for shot in SHOTS:
        shown = bar(f"open set, {shot}-shot")
        found = open_set(embeddings, n_shot=shot, seed=options.seed, bar=shown)
        figures |= percent(found, f"openset.{shot}shot")
    if options.copies:
        print(f"embedding them {options.copies + 1} times, jittered")
        means = embed_averaged(encoder, characters.images, copies=options.copies, seed=options.seed)
        figures |= many_ways("jittered", means, options)[0]
        figures |= within_alphabets("jittered.within_alphabet", characters, means, options)
    more, by_sighting = lifelong(characters, embeddings, options)
    figures = {f"omniglot.{key}": figure for key, figure in (figures | more).items()}
    print_figures(figures)
    # Without the other encoder some figures of the published file would be missing.
    run.published &= options.five is not None
    path = run.write(
        "omniglot_evaluation",
        figures,
        episodes=options.episodes,
        episodes_beyond_100_ways=_fewer(options),
        classes=len(characters),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        weights_sha256=sha256(options.encoder),
        five_sha256=sha256(options.five) if options.five else None,
        accuracy_by_ways=curves,
        lifelong_accuracy_by_sighting=by_sighting,
    )
    result = json.loads(path.read_text(encoding="utf-8"))
    print(f"drew {draw_evaluation(result, path.with_suffix('.png'))}")


def many_ways(
    name: str, embeddings: Embeddings, options: Namespace
) -> tuple[Figures, dict[str, dict[int, float]]]:
    """Support and query, all other drawings as queries, answered by class attention.

    At the numbers of `WAYS` also by the nearest class mean and, of five shots, by the nearest key
    where drawings are written one after the other.

    Returns:
        The figures, and accuracy in [0, 1] by shots and ways.
    """
    figures: Figures = {}
    curves: dict[str, dict[int, float]] = {f"{shot}-shot": {} for shot in SHOTS}
    for way in (way for way in CURVE if way <= len(embeddings)):
        n_episodes = options.episodes if way <= min(WAYS) else _fewer(options)
        for shot in SHOTS:
            ask = partial(
                episode_accuracy,
                *(embeddings, way, shot),
                n_query=ALL_DRAWINGS - shot,
                n_episodes=n_episodes,
                seed=options.seed,
                bar=bar(f"{way}-way {shot}-shot"),
            )
            found = ask(ATTENDED)
            curves[f"{shot}-shot"][way] = found.mean
            if way in WAYS:
                reads = {"": found, ".mean": ask(MEAN)}
                if shot > 1:
                    reads[".by_shot"] = ask(BY_SHOT)
                tasks = {f"{way}w{shot}s{by}": accuracy for by, accuracy in reads.items()}
                figures |= percent(tasks, name)
    return figures, curves


def _fewer(options: Namespace) -> int:
    """How many episodes of very many ways: they differ in their drawings only."""
    return max(2, int(options.episodes) // 5)


def within_alphabets(
    name: str, characters: Characters, embeddings: Embeddings, options: Namespace
) -> Figures:
    """The error of Lake's one-shot task on the published runs, and on random ones.

    People and other methods were tested on the published runs. The random ones are of all alphabets
    and drawers; of these the errors of the easiest and of the hardest alphabet, too.
    """
    given = Memory(embeddings.shape[2], 20), embeddings, characters.names
    published = runs_accuracy(*given, published_runs(), bar=bar("published runs"))
    shown, numbers = bar("within alphabets"), {"n_runs": options.episodes, "seed": options.seed}
    found = within_alphabet_accuracy(*given, bar=shown, **numbers)
    each = sorted(100 - 100 * accuracy for accuracy in found.alphabets.values())
    return {
        **percent({"20w1s.error": _error(published)}, name),
        **percent({"random.20w1s.error": _error(found.accuracy)}, name),
        f"{name}.random.20w1s.error_of_easiest": each[0],
        f"{name}.random.20w1s.error_of_hardest": each[-1],
    }


def _error(accuracy: Accuracy) -> Accuracy:
    return Accuracy(1 - accuracy.mean, accuracy.interval)


def storage(embeddings: Embeddings, options: Namespace) -> Figures:
    """Accuracy at 20 ways by the keys stored of 10 drawings a class."""
    figures: Figures = {}
    numbers = {"n_episodes": options.episodes, "seed": options.seed}
    for name, size in product(("paper", "fifo", "mean"), STORED):
        memory, shown = POLICIES[name](embeddings.shape[2], size), bar(f"{size} slots, {name}")
        found = storage_accuracy(memory, embeddings, bar=shown, **numbers)
        figures |= percent({"accuracy": found.accuracy}, f"storage.{name}.{size}")
        figures[f"storage.{name}.{size}.keys"] = found.keys
    return figures


def lifelong(
    characters: Characters, embeddings: Embeddings, options: Namespace
) -> tuple[Figures, dict[str, Any]]:
    """Streams of all drawings: by order, size and policy.

    Returns:
        The figures, and accuracy in [0, 1] by sighting under "<order>.<size>.<policy>".
    """
    figures: Figures = {}
    curves: dict[str, list[float]] = {}
    for order, size, name in product(ORDERS, SIZES, POLICIES):
        key = f"lifelong.{order}.{size}.{name}"
        given = (POLICIES[name], characters, embeddings, order, size)
        sightings, forgetting = streamed(*given, seed=options.seed, bar=bar(key))
        curves[f"{order}.{size}.{name}"] = [accuracy.mean for accuracy in sightings]
        figures |= _sightings(key, sightings)
        figures |= percent({"forgetting": forgetting}, key)
    for order in ORDERS:
        key, seeds = f"lifelong.{order}", range(options.seed, options.seed + options.streams)
        for name, of in (("mean", key), ("paper", f"{key}.paper")):
            which = (POLICIES[name], characters, embeddings, order)
            every = averaged(*which, seeds=seeds, bar=bar(of))
            curves[of.partition(".")[2]] = [accuracy.mean for accuracy in every]
            figures |= _sightings(of, every)
    return figures, curves


def _sightings(key: str, by_sighting: list[Accuracy]) -> Figures:
    shown = {f"sighting{n}": by_sighting[n - 1] for n in SHOWN if n <= len(by_sighting)}
    return percent(shown, key)


if __name__ == "__main__":
    sys.exit(main())
