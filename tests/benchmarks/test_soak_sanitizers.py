"""The program that the sanitizers watch calls the kernels as they are; to run it takes minutes."""

import re
import shutil
import subprocess

import pytest

from benchmarks.soak import sanitizers

KERNEL = re.compile(r'^extern "C" \w+ (rarememory_\w+)\(', re.MULTILINE)


def test_every_kernel_is_run():
    sources = [*sanitizers.SOURCES.glob("*.cpp")]
    defined = {name for source in sources for name in KERNEL.findall(source.read_text())}
    driver = sanitizers.DRIVER.read_text()
    # These are called by kernels of reads.
    inner = {"rarememory_ranked_coded", "rarememory_nearest_pair", "rarememory_nearest_pair_coded"}
    assert len(defined) > 15
    assert {name for name in defined if f"{name}(" not in driver} == inner


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_the_kernels_are_declared_as_they_are_defined(tmp_path):
    for source in (*sanitizers.SOURCES.glob("*.cpp"), sanitizers.DRIVER):
        build = sanitizers.BUILDS["address"]
        (tmp_path / source.name).write_text(sanitizers.text_of(source, build))
    files = sorted(tmp_path.iterdir())
    only_checked = [*sanitizers.command("g++"), "-fsyntax-only", *files]
    run = subprocess.run(only_checked, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[:2000]


@pytest.mark.parametrize("name", [name for name, one in sanitizers.BUILDS.items() if one.file])
def test_a_damage_is_of_a_line_that_is_there(name):
    build = sanitizers.BUILDS[name]
    file = {source.name: source for source in (*sanitizers.SOURCES.iterdir(), sanitizers.DRIVER)}
    assert build.damaged in sanitizers.text_of(file[build.file], build)
