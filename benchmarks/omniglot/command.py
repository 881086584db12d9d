"""One-shot learning of Omniglot's characters: train encoders under a memory, test them by episodes.

    python -m benchmarks.omniglot --data <folder> --split <folder of lists> --seeds 0 1 2

Without --data Omniglot is downloaded through torchvision. One encoder is trained for each seed:
side by side they are the encoder that is tested, and each is tested alone as well. Training keeps
checkpoints and weights in runs/: interrupt it with Ctrl-C, and the same command goes on from there.
Commands of one seed each, with --untested, may train at the same time; the whole command then tests
what they made. The result file and the curve of accuracy by sighting land in benchmarks/results, or
in runs/ if any number differs from its default.
"""

from pathlib import Path

from benchmarks.omniglot.characters import rotated_omniglot
from benchmarks.omniglot.curves import draw_sightings
from benchmarks.omniglot.testing import alone, evaluated, many_way_episodes
from benchmarks.omniglot.training import save_weights, side_by_side, trained
from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run, print_figures
from rarememory.backbones import BACKBONES
from rarememory.data import checksum
from rarememory.training import Recipe

BENCHMARK = Benchmark("benchmarks.omniglot", __doc__)
BENCHMARK.add_omniglot()
add = BENCHMARK.add
add("--backbone", choices=BACKBONES, default="residual56")
add("--steps", type=int, default=7200)
add("--train-ways", type=int, default=Recipe.n_way, help="classes of a training episode")
add("--episodes", type=int, default=2000, help="to test by")
add("--sharing", type=int, default=1, help="sighting episodes that share a memory (16: harder)")
add("--copies", type=int, default=4, help="jittered, to average a drawing with; 0: no such row")
text = "steps between validations; 0 trains on the validation characters too"
add("--validate", "-v", type=int, default=0, help=text)
add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one encoder each")
text = "also write the encoder here, in half precision (safetensors)"
add("--weights", decisive=False, help=text)
add("--untested", decisive=False, action="store_true", help="train and write the weights, no more")


@BENCHMARK
def main(run: Run) -> None:
    """Train, test, write the result."""
    options = run.options
    if options.episodes < 2:
        raise ValueError(f"--episodes is {options.episodes}: an interval needs at least 2")
    name, split, characters = rotated_omniglot(options.data, options.split, options.backbone)
    encoders = [trained(characters, split, options, seed) for seed in options.seeds]
    encoder = side_by_side([one.encoder for one in encoders])
    if options.weights:
        save_weights(encoder, Path(options.weights))
    if options.untested:
        return
    test = characters.select(split.test)
    accuracies, sightings = evaluated(encoder, test, options)
    by_seed = []
    if len(encoders) > 1:
        mean, by_encoder = alone([one.encoder for one in encoders], test, options)
        accuracies |= mean
        by_seed = [percent(each) for each in by_encoder]
    figures = percent(accuracies, f"omniglot.{name}")
    print_figures(figures)
    path = run.write(
        f"omniglot_{name}",
        figures,
        seed=options.seeds[0],
        seeds=options.seeds,
        split=checksum(split),
        episodes=options.episodes,
        episodes_of_all_at_once=many_way_episodes(options),
        recipe=repr(encoders[0].recipe),
        backbone=options.backbone,
        parameters=sum(one.parameters for one in encoders),
        weights_sha256=[one.weights_sha256 for one in encoders],
        training_seconds=[round(one.seconds) for one in encoders],
        by_seed=by_seed,
        accuracy_by_sighting={
            f"{way}-way": [one.mean for one in each] for way, each in sightings.items()
        },
    )
    print(f"drew {draw_sightings(sightings, path.with_suffix('.png'))}")
