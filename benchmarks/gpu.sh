#!/usr/bin/env bash
# Everything a GPU machine should do, in one go: the kernels' tests on the chip, a whole training
# step, where its time goes, the best tiles, the grid with the ceilings it needs, every result out.
#
#   benchmarks/gpu.sh                 about ten minutes; the same command again goes on from there
#
# MINUTES=9       how long this call may take
# OUT=folder      where results and all that is needed to go on are copied
# PYTHON=python   the interpreter
# GRID="..."      options of benchmarks.lookup, such as GRID="--key-dim 128"
# TUNE=1          sweep the tiles before the grid
#
# What is done is kept in runs/: bring OUT's runs/ back to go on upon a machine that is new. The
# exit status is 1 if a test or a step failed, and the rest is run all the same.
set -u
cd "$(dirname "$0")/.." || exit 1

MINUTES=${MINUTES:-9}
PYTHON=${PYTHON:-python}
OUT=${OUT:-}
GRID=${GRID:-}
RUNS=runs/gpu
STATUS=0
mkdir -p "$RUNS"

left() { # seconds until the time is over
    echo $((60 * MINUTES - SECONDS))
}

copy_out() {
    [ -n "$OUT" ] || return 0
    mkdir -p "$OUT/results"
    cp -r runs "$OUT/"
    cp benchmarks/results/lookup_*gpu* "$OUT/results/" 2>/dev/null
    return 0
}
trap copy_out EXIT

# Once for each state of the code: step NAME FEWEST_SECONDS COMMAND...
step() {
    local name=$1 fewest=$2 state
    shift 2
    state="$RUNS/$name.$CODE"
    if [ -e "$state.done" ]; then
        echo "== $name: done before"
    elif [ "$(left)" -lt "$fewest" ]; then
        echo "== $name: no time left; the same command goes on"
    else
        echo "== $name"
        timeout --signal=INT --kill-after=30 "$(left)" "$@" 2>&1 | tee "$state.log"
        if [ "${PIPESTATUS[0]}" -eq 0 ]; then
            touch "$state.done"
        else
            echo "== $name: failed or ran out of time (see $state.log)"
            STATUS=1
        fi
    fi
}

minutes_left() {
    local seconds
    seconds=$(($(left) - ${1:-40}))
    [ "$seconds" -gt 0 ] || seconds=1
    awk "BEGIN { print $seconds / 60 }"
}

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "torch sees no gpu here"' || exit 1
CODE=$("$PYTHON" -c 'from benchmarks.cache import code_digest; print(code_digest()[:12])') || exit 1

"$PYTHON" - <<'END' | tee "$RUNS/machine.json"
import json, platform, torch
from benchmarks.lookup.machine import machine
from benchmarks.results import device

print(json.dumps({"device": device(), "torch": torch.__version__,
                  "python": platform.python_version(), **machine("cuda")}, indent=2))
END

# Those of the compiler need no GPU, and pytest-benchmark, where it is, does not run in parallel.
PARALLEL=$("$PYTHON" -c 'import xdist; print("-n 12")' 2>/dev/null)
# shellcheck disable=SC2086 (options are words)
step tests 60 "$PYTHON" -m pytest -q $PARALLEL -p no:benchmark tests/gpu tests/lookup \
    --ignore=tests/lookup/test_triton_compiles.py
step programs 30 "$PYTHON" -m pytest -q -o addopts= --import-mode=importlib -p no:benchmark \
    tests/programs/test_on_gpu.py
step train_step 20 "$PYTHON" -m benchmarks.lookup.step --device cuda
step kernels 40 "$PYTHON" -m benchmarks.lookup.kernels
if [ "${TUNE:-0}" = 1 ]; then
    "$PYTHON" -m benchmarks.lookup --tune --device cuda --minutes "$(minutes_left)" || STATUS=1
fi
if [ "$(left)" -gt 60 ]; then
    echo "== grid"
    # shellcheck disable=SC2086 (options are words)
    timeout --signal=INT --kill-after=30 "$(left)" \
        "$PYTHON" -m benchmarks.lookup --device cuda --minutes "$(minutes_left 60)" $GRID || STATUS=1
else
    echo "== grid: no time left; the same command goes on"
fi
exit "$STATUS"
