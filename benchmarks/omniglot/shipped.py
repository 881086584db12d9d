"""Test the encoder that ships with the package, by the same protocols; nothing is trained.

    python -m benchmarks.omniglot.shipped --data <folder>

Its characters are the test characters of the Vinyals split, which it has not seen. The
"training" of the result file is copied from the file that it replaces.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

from benchmarks import results
from benchmarks.omniglot.testing import evaluated, many_way_episodes
from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run
from rarememory.backbones import omniglot_encoder, unseen_characters
from rarememory.data import download_omniglot, read_omniglot

NAME = "omniglot_shipped"
BENCHMARK = Benchmark("benchmarks.omniglot.shipped", __doc__)
BENCHMARK.add_data()
BENCHMARK.add("--episodes", type=int, default=2000, help="to test by")
BENCHMARK.add("--sharing", type=int, default=1, help="sighting episodes that share a memory")
text = "jittered, to average a drawing with; 0: no such row"
BENCHMARK.add("--copies", type=int, default=4, help=text)


@BENCHMARK
def main(run: Run) -> None:
    """Measure, write the result."""
    options, encoder = run.options, omniglot_encoder()
    drawings = read_omniglot(options.data or download_omniglot("data"), encoder.size)
    characters = drawings.characters.select(unseen_characters()).rotated()
    accuracies, _ = evaluated(encoder, characters, options)
    # Written by the run that trained it.
    before = json.loads((results.RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    weights = files("rarememory") / "weights" / "omniglot.safetensors"
    run.write(
        NAME,
        percent(accuracies, "omniglot.shipped"),
        episodes=options.episodes,
        episodes_of_all_at_once=many_way_episodes(options),
        weights_sha256=results.sha256(Path(str(weights))),
        training=before["training"],
    )


if __name__ == "__main__":
    sys.exit(main())
