"""The files that tests read: the project's sources, and real data where there are some."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("rarememory", "benchmarks", "examples")
# Of the package, packages and integrations are public but for these.
PRIVATE_PACKAGES = {"rarememory.native", "rarememory.base"}


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def omniglot_folder() -> Path:
    """Where the real Omniglot is; a test that asks for it is skipped without it."""
    for place in (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot"):
        if place.is_dir():
            return place
    pytest.skip("no Omniglot in data/ or ../shared/data/omniglot")


@cache
def omniglot() -> Any:
    """It, read once a process."""
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from rarememory.data import read_omniglot

    return read_omniglot(omniglot_folder(), progress=False)


def babi_folder() -> Path:
    """Where the real bAbI is; a test that asks for it is skipped without it."""
    for place in (ROOT / "data" / "babi", ROOT.parent / "shared" / "data" / "babi"):
        if place.is_dir():
            return place
    pytest.skip("no bAbI in data/babi or ../shared/data/babi")


# The tests that judge a file, if not the file of the same name or, without one, its folder.
_TESTS = {
    "base/state.py": "memory/test_rules.py memory/test_queries.py memory/test_histories.py",
    "base/validation.py": "memory/test_bad_input.py memory/test_bad_options.py",
    "memory/module.py": (
        "memory/test_rules.py memory/test_state.py memory/test_losses.py memory/test_usage.py "
        "memory/test_merging.py memory/test_budgets.py"
    ),
    "memory/at_once.py": "native/test_native.py memory/test_rules.py",
    "memory/queries.py": "memory/test_bad_input.py memory/test_queries.py memory/test_rules.py",
    "memory/filters.py": "memory/test_filters.py",
    "memory/searching.py": "memory/test_filters.py memory/test_rules.py",
    "lookup/native.py": "lookup/test_among.py lookup/test_nearest.py lookup/test_codes.py",
    "memory/forgetting.py": "memory/test_forgetting.py memory/test_bad_input.py",
    "memory/spans.py": "distributed/test_sharded.py",
    "memory/updates.py": "memory/test_updates.py memory/test_usage.py memory/test_bad_options.py",
    "memory/checkpoints.py": "memory/test_state.py memory/test_resizing.py",
    "memory/resizing.py": "memory/test_resizing.py memory/test_budgets.py",
    "memory/merging.py": "memory/test_merging.py memory/test_budgets.py",
    "memory/placing.py": "memory/test_budgets.py classifier/test_budgets.py",
    "memory/selections.py": "memory/test_budgets.py",
    "memory/writing.py": (
        "memory/test_rules_of_writing.py memory/test_updates.py native/test_native_writing.py "
        "memory/test_foreseen.py"
    ),
    "lookup/exact.py": "lookup/test_pair.py lookup/test_nearest.py memory/test_rules.py",
    "lookup/ops.py": "lookup/test_nearest.py memory/test_rules.py memory/test_filters.py",
    "classifier/norms.py": "classifier/test_merging.py classifier/test_saving.py",
    "classifier/examples.py": "classifier/test_inputs.py",
    "classifier/arrays.py": "classifier/test_inputs.py",
    "classifier/forgetting.py": "classifier/test_forgetting.py classifier/test_labels.py",
    "classifier/guesses.py": "classifier/test_merging.py",
    "classifier/classifier.py": "classifier/test_merging.py classifier/test_learning.py",
    "classifier/labelled.py": "classifier/test_tuned_keys.py",
    "classifier/fingerprint.py": "classifier/test_merging.py classifier/test_fingerprint.py",
    "classifier/locked_module.py": "classifier/test_one_state.py",
    "classifier/nearest_reader.py": "classifier/test_doctor.py classifier/test_readers.py",
    "memory/foreseeing.py": "memory/test_foreseen.py",
    "store/foreseeing.py": "store/test_foreseen.py",
    "play/page.py": "play/test_server.py",
    "evaluation/embedding.py": "evaluation/test_protocols.py",
}


def related_tests(file: str) -> list[str]:
    """The tests of a file, such as tests/base/test_files.py of rarememory/base/files.py."""
    inside = file.removeprefix("rarememory/")
    own = Path("tests", inside).with_name(f"test_{Path(inside).name}")
    if inside in _TESTS:
        return [f"tests/{test}" for test in _TESTS[inside].split()]
    return [(own if (ROOT / own).exists() else own.parent).as_posix()]
