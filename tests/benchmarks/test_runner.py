"""One runner for all benchmarks: which runs are published, the command, and the exit status."""

from importlib import import_module

import pytest

from benchmarks.runner import Benchmark

FOLDERS = ["--data", "secret", "--encoder", "secret", "--five", "secret"]
DEFAULTS = {"omniglot.evaluation": FOLDERS, "approximate": ["--k", "1", "10", "256"]}
# A result of other numbers has the same keys as the published one.
CHANGES = {
    "approximate": ["--turns 3"],
    "generalised.__main__": ["--epochs 1", "--tuning 1", "--seed 1"],
    "omniglot.command": ["--backbone conv4", "--seeds 0", "--steps 1", "--episodes 9"],
    "omniglot.evaluation": ["--seed 1", "--episodes 2", "--copies 0", "--streams 1"],
    "omniglot.shipped": ["--episodes 9", "--copies 0"],
    "omniglot_ablation": ["--steps 9", "--episodes 30", "--seed 1"],
    "omniglot_peers.__main__": ["--steps 9", "--backbone conv4", "--episodes 30", "--seed 1"],
    "worlds.__main__": ["--seeds 1"],
    "sequence.__main__": ["--seed 1", "--parts 16", "--symbols 50", "--test 10"],
}


@pytest.mark.parametrize(
    ("module", "option"), [(module, one) for module, some in CHANGES.items() for one in some]
)
def test_only_a_run_with_every_number_at_its_default_is_published(module, option):
    benchmark = import_module(f"benchmarks.{module}").BENCHMARK
    usual = DEFAULTS.get(module, [])
    run, other = benchmark.parse(usual), benchmark.parse([*usual, *option.split()])
    assert run.published and "secret" not in run.command
    assert not other.published and option in other.command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (ValueError("k is 0"), 1, "k is 0\n"),
        (KeyError("no class 'a'"), 1, "no class 'a'\n"),
        (ImportError("no rich"), 1, "no rich\n"),
        (
            KeyboardInterrupt(),
            130,
            "\ninterrupted; the same command goes on from what is finished\n",
        ),
    ],
)
def test_an_error_is_one_sentence_and_a_status(capsys, error, status, said):
    benchmark = Benchmark("benchmarks.none", "Nothing.")
    benchmark.add("--k", type=int, default=1, help="neighbours")

    @benchmark
    def main(run):
        """Do it."""
        assert run.options.k == 2
        if error is not None:
            raise error

    assert main(["--k", "2"]) == status and main.__doc__ == "Do it."
    assert capsys.readouterr().err == said
    assert "neighbours (default: 1)" in benchmark.parser.format_help()


def test_a_mistake_in_the_code_is_no_sentence():
    @Benchmark("benchmarks.none", None)
    def main(run):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        main([])
