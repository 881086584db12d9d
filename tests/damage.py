"""Break the code on purpose, line by line: every damage has to turn a test red.

Run by hand: `python -m tests.damage`, or with words to damage only the lines that contain them.
Works on a copy, prints a table, exits 1 if a damage survives.
"""

import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.damages import DAMAGES

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/memory/test_rules.py",
    "tests/memory/test_updates.py",
    "tests/memory/test_noise.py",
    "tests/memory/test_losses.py",
    "tests/memory/test_authors_defects.py",
    "tests/memory/test_bad_input.py",
    "tests/memory/test_state.py",
    "tests/memory/test_resizing.py",
    "tests/memory/test_forgetting.py",
    "tests/memory/test_queries.py",
    "tests/lookup/test_nearest.py",
    "tests/lookup/test_pair.py",
    "tests/lookup/test_codes.py",
    "tests/native/test_native.py",
    "tests/memory/test_half_precision.py",
    "tests/memory/test_histories.py",
    "tests/classifier",
    "tests/integrations",
    "tests/test_host_waits.py",
    "tests/test_distributed.py",
    "tests/test_docstrings.py",
)

# Where most of a file's damages are seen, if not in the test of its name.
OWN = {
    "memory/module.py": "tests/memory/test_rules.py",
    "base/state.py": "tests/memory/test_rules.py",
    "memory/queries.py": "tests/memory/test_bad_input.py",
    "base/validation.py": "tests/memory/test_bad_input.py",
    "lookup": "tests/lookup/test_nearest.py",
    "lookup/pair.py": "tests/lookup/test_pair.py",
    "lookup/ops.py": "tests/memory/test_rules.py",
    **dict.fromkeys(
        ("lookup/changes.py", "lookup/indexed.py", "lookup/ivf.py", "lookup/lsh.py"),
        "tests/lookup/test_own_lookup.py tests/lookup/test_lsh.py tests/lookup/test_ivf.py",
    ),
    "native": "tests/native/test_native.py",
    **dict.fromkeys(
        ("lookup/native_codes.py", "native/codes.h", "native/code.cpp", "native/nearest_coded.cpp"),
        "tests/lookup/test_codes.py",
    ),
    "memory/reading.py": "tests/memory/test_rules.py",
    "base/versions.py": "tests/memory/test_half_precision.py tests/lookup/test_ivf.py",
    "memory/writing.py": "tests/memory/test_updates.py",
    "classifier/labels.py": "tests/classifier/test_labels.py",
    "classifier/refs.py": "tests/classifier/test_labels.py",
    "classifier/host.py": "tests/classifier/test_host.py",
    "classifier/examples.py": "tests/classifier/test_learning.py tests/classifier/test_loaders.py",
    "classifier/known.py": "tests/classifier/test_loaders.py tests/classifier/test_not_knowing.py",
    "classifier/learning.py": "tests/classifier/test_learning.py",
    "classifier/answering.py": "tests/classifier/test_answering.py",
    "classifier/blending.py": "tests/classifier/test_answering.py",
    "classifier/openset.py": "tests/classifier/test_not_knowing.py",
    "classifier/calibration.py": "tests/classifier/test_not_knowing.py",
    "classifier/wrapped.py": "tests/classifier/test_forgetting.py",
    "classifier/refreshing.py": "tests/classifier/test_refreshing.py",
    "classifier/doctor.py": "tests/classifier/test_doctor.py",
    "classifier/persistence.py": "tests/classifier/test_keeping.py",
    "classifier/saving.py": "tests/classifier/test_keeping.py",
    "classifier": "tests/classifier",
    "integrations/lightning.py": "tests/integrations/test_lightning.py",
    "integrations/torchmetrics.py": "tests/integrations/test_torchmetrics.py",
    "integrations": "tests/integrations",
    **{
        f"integrations/{door}.py": f"tests/integrations/test_{door}.py"
        for door in ("sklearn", "hub", "pytorch_metric_learning", "learn2learn")
    },
    "play": "tests/play/test_drawing.py tests/play/test_session.py",
    "play/unknown.py": "tests/play/test_unknown.py",
    "play/server.py": "tests/play/test_server.py",
    "benchmarks": "tests/benchmarks/test_peers.py tests/benchmarks/test_ablation.py",
    "benchmarks/omniglot": "tests/benchmarks/test_omniglot.py",
    "benchmarks/omniglot/evaluation.py": "tests/benchmarks/test_omniglot_evaluation.py",
    "benchmarks/omniglot_ablation.py": "tests/benchmarks/test_ablation.py",
    "benchmarks/sequence": "tests/benchmarks/test_sequence.py",
    "backbones": "tests/backbones/test_backbones.py",
    "training/config.py": "tests/training/test_trainer.py",
    "commands": "tests/commands/test_cli.py",
    "evaluation": "tests/evaluation",
    **{
        f"evaluation/{protocol}.py": f"tests/evaluation/test_{protocol}.py"
        for protocol in ("lifelong", "storage", "within_alphabet")
    },
    "lookup/triton.py": "tests/lookup/test_triton.py",
    "lookup/triton_plan.py": "tests/lookup/test_triton.py",
    "lookup/triton_kernels.py": "tests/lookup/test_triton.py",
    "lookup/triton_topk.py": "tests/lookup/test_triton.py",
}

# Imported once, before the forks: a run then starts in a moment.
COMMON = ("torch", "faiss", "safetensors.torch")


def copied(home: Path) -> Path:
    """A copy of what the tests of the core need."""
    for folder in ("rarememory", "benchmarks", "tests", "docs"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home)
    return home


def run_tests(home: Path, tests: list[str], log: Path) -> None:
    """Run the tests in the copy; this is the life of a forked process."""
    sys.dont_write_bytecode = True
    sys.modules.pop("tests", None)
    sys.path[:] = [str(home), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    os.chdir(home)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = importlib.import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)


def first_failure(home: Path, tests: list[str]) -> str | None:
    """The first test that turns red, or None if all are green."""
    log = home / "log"
    run = multiprocessing.get_context("fork").Process(target=run_tests, args=(home, tests, log))
    run.start()
    run.join(timeout=1200)
    if run.exitcode is None:
        run.kill()
        return "ran for ever"
    if run.exitcode == 0:
        return None
    red = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return red[0].split(" - ")[0].partition("::")[2] or red[0] if red else "did not start"


def survives(home: Path, file: str, old: str, new: str) -> bool:
    path = home / ("" if file.startswith("benchmarks/") else "rarememory") / file
    text = path.read_text("utf-8")
    if old not in text:
        print(f"GONE     {file} no longer says: {old}", flush=True)
        return True
    path.write_text(text.replace(old, new, 1), "utf-8")
    start = time.perf_counter()
    places = (file, file.rpartition("/")[0], file.partition("/")[0])
    of_its_name = Path("tests", file).with_name(f"test_{Path(file).name}").as_posix()
    own = next((OWN[place] for place in places if place in OWN), of_its_name).split()
    if missing := [test for test in own if not (home / test).exists()]:
        raise FileNotFoundError(f"no test of {file}: {missing} is not there, name one in OWN")
    rest = [test for test in TESTS if test not in own]
    red = first_failure(home, own) or first_failure(home, rest)
    path.write_text(text, "utf-8")
    took = time.perf_counter() - start
    said = f"{file:20} {old.strip():.60} -> {new.strip():.40}".replace("\n", " ")
    print(f"{'SURVIVES' if red is None else 'red':8} {took:5.1f} s  {said}  [{red}]", flush=True)
    return red is None


def main(words: list[str]) -> int:
    for name in COMMON:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        home = copied(Path(folder))
        if (red := first_failure(home, list(TESTS))) is not None:
            print(f"the undamaged code is red: {red}")
            return 1
        chosen = [d for d in DAMAGES if not words or any(word in " ".join(d) for word in words)]
        alive = [damage for damage in chosen if survives(home, *damage)]
    print(f"{len(chosen)} damages, {len(alive)} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
