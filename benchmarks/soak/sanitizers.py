"""The kernels under AddressSanitizer and ThreadSanitizer, with threads that read, write and resize.

Each build is run with one seed after another and must report nothing. The same sources with a
damage put in must be reported, or the sanitizers would look at nothing.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import rarememory.native
from benchmarks.soak.campaign import Campaign, Tries

SOURCES = Path(rarememory.native.__file__).parent
DRIVER = Path(__file__).with_name("sanitized.cpp")
TURNS = 30
FLAGS = ("-std=c++17", "-O1", "-g", "-march=native", "-fopenmp", "-fno-sanitize-recover=all")


class Build(NamedTuple):
    """A sanitizer, and an edit of one of the sources that it has to report; none for no damage."""

    sanitizer: str
    file: str = ""
    line: str = ""
    damaged: str = ""


BUILDS = {
    "address": Build("address,undefined"),
    "thread": Build("thread"),
    "address_damaged": Build(
        "address,undefined", "nearest_coded.cpp", "i < samples; ++i", "i <= samples; ++i"
    ),
    "thread_damaged": Build(
        "thread", "nearest_coded.cpp", "static thread_local std::vector<float> block;",
        "static std::vector<float> block;",
    ),
    "lock_damaged": Build(
        "thread", "sanitized.cpp", "std::shared_lock<std::shared_mutex> lock(mutex);", ""
    ),
}  # fmt: skip
_REPORTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error")


def _tries(folder: Path, seed: int) -> Tries:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        yield from itertools.repeat("no_compiler")
        return
    made: dict[str, Path] = {}
    for number in itertools.count():
        # The damaged ones now and then, each once in the first few tries.
        names = [*BUILDS] if number % 20 == 0 else ["address", "thread"]
        for name in names:
            if name not in made:
                made[name] = built(name, folder, compiler)
            yield _outcome(name, made[name], seed + number)


def built(name: str, folder: Path, compiler: str) -> Path:
    """Compile the kernels and the program that drives them.

    Raises:
        subprocess.CalledProcessError: the compiler failed.
    """
    build, home = BUILDS[name], folder / name
    home.mkdir()
    for source in (*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"), DRIVER):
        text = source.read_text(encoding="utf-8")
        if source.name == build.file:
            assert text.count(build.line) == 1, f"{source.name} has changed: {build.line}"
            text = text.replace(build.line, build.damaged)
        (home / source.name).write_text(text, encoding="utf-8")
    sources = sorted(path.name for path in home.glob("*.cpp"))
    compile_it = [compiler, *FLAGS, f"-fsanitize={build.sanitizer}", *sources, "-c"]
    subprocess.run(compile_it, cwd=home, check=True, capture_output=True, text=True)
    objects = sorted(path.name for path in home.glob("*.o"))
    # Without -fopenmp here: sanitized.cpp runs what OpenMP asks for.
    link = [compiler, f"-fsanitize={build.sanitizer}", *objects, "-o", "sanitized"]
    subprocess.run(link, cwd=home, check=True, capture_output=True, text=True)
    return home / "sanitized"


def _outcome(name: str, program: Path, seed: int) -> str:
    run = subprocess.run(
        [program, str(seed), str(TURNS)],
        capture_output=True, text=True, check=False, env=_ENVIRONMENT,
    )  # fmt: skip
    said = run.stdout + run.stderr
    is_damaged = BUILDS[name].file != ""
    if any(report in said for report in _REPORTS):
        return "reported" if is_damaged else f"fault: {name}, seed {seed}: {said[:2000]}"
    if run.returncode or "done" not in said:
        return f"failed: {name}, seed {seed}, status {run.returncode}: {said[:2000]}"
    return f"unseen: {name}, seed {seed}" if is_damaged else f"{name}_clean"


_ENVIRONMENT: Mapping[str, str] = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}

CAMPAIGN = Campaign(
    "sanitizers",
    400,
    frozenset({"address_clean", "thread_clean", "reported", "no_compiler"}),
    _tries,
    patience=600.0,
)
