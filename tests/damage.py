"""Damage the code on purpose: every damage has to turn a test red.

    python -m tests.damage                     the damages of tests/damages.py
    python -m tests.damage writing forget      those whose name has one of the words
    python -m tests.damage --file rarememory/base/state.py     every mutation of a file

The last one needs `pip install "rarememory[damage]"` and can take hours: it runs Cosmic Ray, set up
in pyproject.toml. All of them work on a copy, and exit with 1 if a damage survives.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.damages import DAMAGES, Damage, damaged
from tests.sources import ROOT, related_tests

SECONDS = 600


def copied(home: Path) -> Path:
    """A copy of what the tests need."""
    for folder in ("rarememory", "benchmarks", "examples", "tests", "docs"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, home)
    return home


def pytest_command(tests: list[str]) -> list[str]:
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=damage"]
    return [sys.executable, "-m", "pytest", *options, *tests]


def environment(home: Path) -> dict[str, str]:
    # The programs of Cosmic Ray lie beside Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def first_failure(home: Path, tests: list[str]) -> str | None:
    """The first test that fails, or None if all pass.

    Raises:
        RuntimeError: pytest ended without running the tests.
    """
    try:
        done = subprocess.run(
            pytest_command(tests),
            cwd=home,
            env=environment(home),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} seconds"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        raise RuntimeError(f"pytest did not run: {(done.stdout + done.stderr)[-2000:]}")
    return failed[0].split(" - ")[0].rpartition("::")[2]


def survives(home: Path, damage: Damage) -> bool:
    path = home / damage.file
    source = path.read_text("utf-8")
    path.write_text(damaged(damage, source), "utf-8")
    failure = first_failure(home, related_tests(damage.file))
    path.write_text(source, "utf-8")
    print(f"{'SURVIVES' if failure is None else 'red':8} {damage}  [{failure}]", flush=True)
    return failure is None


def mutated(home: Path, file: str) -> int:
    """Run Cosmic Ray on one file of the copy; the number of mutants that survive."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["cosmic-ray"]
    excluded = options.pop("exclude-operators")
    options |= {
        "module-path": file,
        "test-command": shlex.join(pytest_command(related_tests(file))),
    }
    tables = {
        "cosmic-ray": options,
        "cosmic-ray.distributor": {"name": "local"},
        "cosmic-ray.filters.operators-filter": {"exclude-operators": excluded},
    }
    lines = []
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{name} = {json.dumps(v)}" for name, v in values.items())]
    (home / "config.toml").write_text("\n".join(lines) + "\n", "utf-8")

    def run(*words: str) -> str:
        return subprocess.run(
            words, cwd=home, env=environment(home), check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    run("cosmic-ray", "init", "config.toml", "session.sqlite")
    run("cr-filter-operators", "session.sqlite", "config.toml")
    run("cosmic-ray", "exec", "config.toml", "session.sqlite")
    print(run("cr-report", "--surviving-only", "--show-diff", "session.sqlite"))
    return run("cr-report", "session.sqlite").count("TestOutcome.SURVIVED")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="of the damages to run; all of them if none")
    parser.add_argument("--file", help="run every mutation of this file instead")
    options = parser.parse_args()
    chosen = [d for d in DAMAGES if not options.words or any(w in str(d) for w in options.words)]
    files = [options.file] if options.file else sorted({damage.file for damage in chosen})
    with tempfile.TemporaryDirectory() as folder:
        home = copied(Path(folder))
        tests = sorted({test for file in files for test in related_tests(file)})
        if (failure := first_failure(home, tests)) is not None:
            print(f"the undamaged code fails {failure}")
            return 1
        if options.file:
            return 1 if mutated(home, options.file) else 0
        alive = [damage for damage in chosen if survives(home, damage)]
    print(f"{len(chosen)} damages, {len(alive)} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
