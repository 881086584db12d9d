"""The kernels under AddressSanitizer and ThreadSanitizer, with threads that read, write and resize.

Each build is run with one seed after another and must report nothing. The same sources with a
damage put in must be reported, or the sanitizers would look at nothing.
"""

import hashlib
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
DRIVER, DECLARED = (Path(__file__).with_name(f"sanitized.{end}") for end in ("cpp", "h"))
TURNS = 30
FLAGS = ("-std=c++17", "-O1", "-g", "-march=native", "-fopenmp", "-fno-sanitize-recover=all")


class Build(NamedTuple):
    """A sanitizer, and an edit of one of the sources that it has to report; none for no damage."""

    sanitizer: str
    file: str = ""
    line: str = ""
    damaged: str = ""


_ADDRESS = "address,undefined"
BUILDS = {
    "address": Build(_ADDRESS),
    "thread": Build("thread"),
    "address_damaged": Build(
        _ADDRESS, "nearest_coded.cpp", "i < samples; ++i", "i <= samples; ++i"
    ),
    "thread_damaged": Build(
        "thread", "nearest_coded.cpp", "static thread_local std::vector<float> block;",
        "static std::vector<float> block;",
    ),
    "lock_damaged": Build(
        "thread", "sanitized.cpp", "std::shared_lock<std::shared_mutex> lock(mutex);", ""
    ),
}  # fmt: skip
_RIGHT = [name for name, build in BUILDS.items() if not build.file]
_REPORTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error")


def _tries(folder: Path, seed: int) -> Tries:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        yield from itertools.repeat("no_compiler")
        return
    made: dict[str, Path] = {}
    for number in itertools.count():
        # The damaged ones now and then, each once in the first few tries.
        names = [*BUILDS] if number % 20 == 0 else [*_RIGHT]
        for name in names:
            if name not in made:
                made[name] = built(name, folder, compiler)
            yield _outcome(name, made[name], seed + number)


def built(name: str, folder: Path, compiler: str) -> Path:
    """Compile the kernels and the program that drives them; what builds share only once.

    Raises:
        subprocess.CalledProcessError: the compiler failed.
    """
    build, home = BUILDS[name], folder / name
    objects = [
        _compiled(source, build, folder, compiler) for source in (*SOURCES.glob("*.cpp"), DRIVER)
    ]
    # Without -fopenmp here: sanitized.cpp runs what OpenMP asks for.
    link = [compiler, f"-fsanitize={build.sanitizer}", *map(str, objects), "-o", str(home)]
    subprocess.run(link, check=True, capture_output=True, text=True)
    return home


def text_of(source: Path, build: Build) -> str:
    """A source of this build: damaged, and checked against the declarations."""
    text = source.read_text(encoding="utf-8")
    if source.name == build.file:
        assert text.count(build.line) == 1, f"{source.name} has changed: {build.line}"
        text = text.replace(build.line, build.damaged)
    return f'{text}\n#include "{DECLARED.name}"\n'


def command(compiler: str) -> list[str]:
    """The compiler and its options."""
    return [compiler, *FLAGS, *(f"-I{folder}" for folder in (SOURCES, DECLARED.parent))]


def _compiled(source: Path, build: Build, folder: Path, compiler: str) -> Path:
    text = text_of(source, build)
    digest = hashlib.sha256(f"{build.sanitizer} {text}".encode()).hexdigest()
    copy, made = folder / f"{digest}.cpp", folder / f"{digest}.o"
    if not made.exists():
        copy.write_text(text, encoding="utf-8")
        options = [*command(compiler), f"-fsanitize={build.sanitizer}"]
        compile_it = [*options, "-c", str(copy), "-o", str(made)]
        subprocess.run(compile_it, check=True, capture_output=True, text=True)
    return made


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
    frozenset({"reported", "no_compiler", *(f"{name}_clean" for name in _RIGHT)}),
    _tries,
    patience=3600.0,
)
