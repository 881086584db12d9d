"""Every kernel of the Triton search compiles for sm_90 and sm_80, and fits the chip it is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = {90: 227 * 1024, 80: 163 * 1024}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> list[dict]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.lookup.compile_triton"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


OF_SEARCHES = {
    *("bin_maxima", "best_of_bins", "choose_candidates", "score_candidates", "rescore"),
    "sort_candidates",
}
OF_READS = {"unit_rows", "compare_pair", "add_up"}
OF_WRITES = {
    *("first_of_bins", "first_bins", "list_slots", "sort_slots"),
    *("look_at_rows", "take_slots", "put_rows", "end_write"),
}
SPILLED = {
    # The widest tile: the fastest of an H200, although a few numbers have no register.
    "bin_maxima": 32,
    # The cosine of a large number has a table of its own.
    "look_at_rows": 64,
}
"""Bytes, at most; none by any other kernel."""


@pytest.mark.slow
def test_every_kernel_compiles_for_both_generations(kernels):
    for capability in SHARED:
        found = {k["kernel"] for k in kernels if k["capability"] == capability}
        # A compilation takes a second: those of reads and writes are made for the newer only.
        assert found == OF_SEARCHES | (OF_READS | OF_WRITES if capability == 90 else set())


@pytest.mark.slow
def test_no_kernel_spills_registers(kernels):
    spilled = [k for k in kernels if k["spilled"] > SPILLED.get(k["kernel"], 0)]
    assert spilled == []
    assert max(kernel["registers"] for kernel in kernels) <= 255


@pytest.mark.slow
def test_at_the_common_width_two_programs_of_small_batches_fit_one_processor(kernels):
    small = [
        kernel
        for kernel in kernels
        if kernel["kernel"] == "bin_maxima"
        and kernel["options"]["KEY_DIM"] == 128
        and kernel["options"]["BLOCK_ROWS"] == 16
    ]
    assert small
    for kernel in small:
        threads = 32 * kernel["options"]["num_warps"]
        assert 2 * threads * kernel["registers"] <= 65536
        assert 2 * kernel["shared"] <= SHARED[kernel["capability"]]


@pytest.mark.slow
def test_every_kernel_fits_shared_memory(kernels):
    assert [k for k in kernels if k["shared"] > SHARED[k["capability"]]] == []


@pytest.mark.slow
def test_the_streaming_pass_multiplies_on_tensor_cores(kernels):
    assert all(k["tensor_cores"] for k in kernels if k["kernel"] == "bin_maxima")
