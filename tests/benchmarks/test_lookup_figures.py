"""From seconds to figures, by hand-made seconds; turns, floors, the plot and the script."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import asdict
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from benchmarks.lookup import clock, interleaved, roofline, tables
from benchmarks.lookup.candidates import SORTED
from benchmarks.lookup.cells import MILLION, Cell
from benchmarks.lookup.figures import figures
from benchmarks.lookup.outcome import Outcome, Spread, ratio, spread
from benchmarks.lookup.plot import draw
from benchmarks.summary import DOTTED
from tests.test_layers import ROOT

WHO = {
    "auto": ("ours", True, False),
    "auto.ordered": ("ours", True, False),
    "triton": ("ours", True, False),
    "torch.topk": ("torch", True, False),
    "torch.half": ("torch", False, False),
    "numpy": ("numpy", True, False),
    "matmul": ("torch", True, True),
    "torch.matmul": ("torch", True, True),
}
CEILINGS = {
    "bandwidth": {str(4 * slots * 128): 1e10 for slots in (1000, MILLION)},
    "rate": {"float32": 1e12, "float16": 1e12},
}


def outcome(times, second=None, *, k=10, slots=MILLION, device="cpu", facts=None):
    """A cell of 16 queries; `times` are the seconds of each round by name."""
    made = Outcome(Cell(16, slots, 128, k), facts=facts or {})
    for name in {**times, **(second or {})}:
        family, exact, product = WHO[name]
        made.candidates[name] = {
            "family": family,
            "returns": "",
            "reads": "float16" if name == "triton" else "float32",
            "exact": exact,
            "product": product,
        }
    labels = ("shared", "alone") if device == "cpu" else ("events", "graph")
    for label, of_pass in zip(labels, (times, second), strict=True):
        if of_pass is not None:
            made.passes[label] = {name: [[t] for t in list_] for name, list_ in of_pass.items()}
    return made


def test_the_ratio_is_that_of_the_best_exact_rival_round_by_round():
    # Torch is faster in one turn, numpy by its median; half precision is no exact rival.
    made = outcome(
        {
            "auto": [1.0, 2.0, 4.0],
            "torch.topk": [1.0, 9.0, 9.0],
            "numpy": [3.0, 4.0, 4.0],
            "torch.half": [0.1, 0.1, 0.1],
            "matmul": [0.1, 0.1, 0.1],
        }
    )
    assert made.best_rival("shared") == "numpy"
    found = figures([made], "cpu", CEILINGS, whole=True)
    key = "lookup.cpu.b16_m1M_k10.auto.ratio_to_best_stock"
    # 3/1, 4/2, 4/4.
    assert found[key] == 2.0
    assert (found[f"{key}.quartile1"], found[f"{key}.quartile3"]) == (1.5, 2.5)
    assert found["lookup.cpu.b16_m1M_k10.auto.microseconds"] == 2e6


def test_rounds_that_only_one_took_part_in_do_not_count():
    assert ratio([[2.0], [2.0]], [[1.0], [2.0], [0.001]]) == Spread(1.25, 1.5, 1.75)
    assert ratio([[2.0, 4.0, 90.0]], [[2.0]]) == Spread(2.0, 2.0, 2.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_the_worst_cell_is_the_lowest_ratio_and_needs_all_cells():
    good = outcome({"auto": [1.0], "numpy": [3.0]}, {"auto": [1.0], "numpy": [5.0]})
    bad = outcome({"auto": [2.0], "numpy": [1.8]}, {"auto": [1.0], "numpy": [4.0]}, k=1)
    pair = outcome({"auto": [9.0], "torch.matmul": [1.0]}, k=0)
    found = figures([good, bad, pair], "cpu", CEILINGS, whole=True)
    assert found["lookup.cpu.auto.worst_ratio_to_best_stock"] == 0.9
    assert found["lookup.cpu.auto.alone_worst_ratio_to_best_stock"] == 4.0
    assert found["lookup.cpu.b16_m1M_k10.auto.alone_ratio_to_best_stock"] == 5.0
    missing = Outcome(Cell(1, 9, 8, 2), "no room")
    for outcomes, whole in (([good, bad], False), ([good, bad, missing], True)):
        some = figures(outcomes, "cpu", CEILINGS, whole=whole)
        assert not any("worst" in key for key in some)


def test_a_read_in_order_stands_beside_who_sorts_and_scores_and_beside_the_best():
    cells = [
        outcome({"auto": [1.0], "auto.ordered": [2.0], "numpy": [one], "torch.topk": [4.0]}, k=k)
        for k, one in ((1, 3.0), (10, 1.0))
    ]
    for cell in cells:
        cell.candidates["torch.topk"]["returns"] = SORTED
    found = figures(cells, "cpu", CEILINGS, whole=True, instruction_set="avx2")
    assert found["lookup.cpu.avx2.auto.worst_ratio_to_best_stock"] == 1.0
    assert found["lookup.cpu.avx2.ordered.worst_ratio"] == 2.0
    assert found["lookup.cpu.avx2.ordered.worst_ratio_to_unsorted"] == 0.5


def test_the_nearest_pair_stands_beside_the_bare_product():
    made = outcome({"auto": [3.0, 3.0], "torch.matmul": [2.0, 1.0]}, k=0, slots=1000)
    found = figures([made], "cpu", CEILINGS, whole=True)
    assert found["lookup.cpu.nearest_pair.ratio_to_matmul.b16_m1000"] == 2.25


def test_on_a_gpu_torch_in_any_precision_is_the_rival_and_triton_stands_for_us():
    made = outcome(
        {"triton": [1.0], "auto": [4.0], "torch.topk": [8.0], "torch.half": [3.0], "numpy": [2.0]},
        {"triton": [0.5], "torch.half": [2.5]},
        device="cuda",
    )
    found = figures([made], "cuda", CEILINGS, whole=True)
    key = "lookup.gpu.b16_m1M_k10"
    assert found[f"{key}.speedup_over_torch"] == 3.0
    assert found[f"{key}.graph_speedup_over_torch"] == 5.0
    assert found[f"{key}.speedup_over_exact"] == 2.0
    # Half precision keys are half as many bytes.
    moved = 2 * MILLION * 128 + 4 * 16 * 128 + 8 * 16 * 10
    assert found[f"{key}.fraction_of_roofline"] == pytest.approx(moved / 1e10)
    assert found[f"{key}.graph_fraction_of_roofline"] == pytest.approx(2 * moved / 1e10)
    del made.passes["events"]["triton"]
    assert figures([made], "cuda", CEILINGS, whole=True)[f"{key}.speedup_over_torch"] == 0.75


def test_a_cell_without_us_has_no_figures():
    assert figures([outcome({"numpy": [1.0]})], "cpu", CEILINGS, whole=True) == {}
    assert figures([Outcome(Cell(1, 9, 8, 2), "why")], "cpu", CEILINGS, whole=True) == {}


def test_every_key_is_one_that_the_summary_takes():
    made = outcome({"auto": [1.0], "numpy": [2.0]}, {"auto": [1.0], "numpy": [2.0]})
    pair = outcome({"auto": [1.0], "torch.matmul": [2.0]}, k=0)
    on_gpu = outcome({"triton": [1.0], "torch.half": [2.0]}, device="cuda")
    keys = figures([made, pair], "cpu", CEILINGS, whole=True) | figures(
        [on_gpu], "cuda", CEILINGS, whole=True
    )
    assert len(keys) > 15 and all(DOTTED.fullmatch(key) for key in keys)


def test_the_floor_is_the_slower_of_reading_and_multiplying():
    ceilings = {"bandwidth": {str(4 * 1000 * 128): 1e9}, "rate": {"float32": 1e12}}
    few, many = Cell(1, 1000, 128, 5), Cell(4096, 1000, 128, 5)
    read = 4 * 1000 * 128 + 4 * 128 + 8 * 5
    assert roofline.floor(few, "float32", ceilings) == read / 1e9
    ceilings["bandwidth"] = {str(4 * 1000 * 128): 1e12}
    assert roofline.floor(many, "float32", ceilings) == 2 * 4096 * 1000 * 128 / 1e12
    made = outcome({"auto": [2.0]}, slots=1000)
    floor = roofline.floor(Cell(16, 1000, 128, 10), "float32", CEILINGS)
    assert made.roofline_fraction("shared", "auto", CEILINGS) == floor / 2


def test_ceilings_are_measured(monkeypatch):
    assert roofline.measure_bandwidth(2**16, "cpu") > 1e8
    assert roofline.measure_rate("float32", "cpu", size=64) > 1e7
    assert roofline.buffer_bytes(Cell(1, 8192, 128, 1)) == 4 * 2**20
    assert roofline.buffer_bytes(Cell(1, 100 * MILLION, 128, 1)) == 2**30


# Interleaved timing


def test_rounds_are_in_changing_order_and_the_slow_leave_after_two():
    order = []
    speed = {"ours": 1.0, "near": 3.9, "far": 4.1, "rival": 100.0, "other": 300.0}
    groups = {name: "rivals" if name in ("rival", "other") else "ours" for name in speed}

    def measure(name):
        order.append(name)
        return [speed[name]]

    found = interleaved.interleaved(groups, measure, budget=0.0, seed=1)
    assert {name: len(times) for name, times in found.items()} == {
        "ours": 5,
        "near": 5,
        "far": 2,
        "rival": 5,
        "other": 5,
    }
    rounds = [tuple(order[start : start + 5]) for start in (0, 5)]
    assert all(sorted(one) == sorted(speed) for one in rounds) and len(set(rounds)) > 1


def test_rounds_go_on_until_the_budget_is_spent_or_there_are_enough(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(interleaved.time, "perf_counter", lambda: next(ticks))
    assert (
        len(interleaved.interleaved({"a": "x"}, lambda name: [1.0], 20)["a"])
        == interleaved.LEAST + 20
    )
    assert (
        len(interleaved.interleaved({"a": "x"}, lambda name: [1.0], 10**9)["a"]) == interleaved.MOST
    )


def test_a_long_call_is_timed_once_and_a_short_one_warm(monkeypatch):
    took, repeated = iter([9.0, 0.03, 0.02, 7.0]), []
    monkeypatch.setattr(clock, "_wall", lambda call: next(took))
    timed = SimpleNamespace(blocked_autorange=lambda min_run_time: SimpleNamespace(median=0.003))
    monkeypatch.setattr(clock, "cpu_timer", lambda call: repeated.append(call) or timed)
    assert clock.CpuClock().measure("long", "wall") == [9.0] and repeated == []
    assert clock.CpuClock().measure("short", "wall") == [0.003] and repeated == ["short"]
    # Two calls of 30 and 20 ms made it warm.
    assert next(took) == 7.0


def test_the_timer_of_torch_has_all_threads():
    assert clock.cpu_timer(list)._task_spec.num_threads == torch.get_num_threads()
    assert 0 < clock.CpuClock().measure(lambda: time.sleep(0.001), "wall")[0] < 0.1


def test_an_outcome_comes_back_from_json():
    made = outcome({"auto": [1.0], "numpy": [2.0]}, facts={"auto": {"recall": 1.0}})
    assert Outcome.from_json(json.loads(json.dumps(asdict(made)))) == made


def test_work_of_our_own_is_not_foreign():
    foreign = clock.ForeignLoad([])
    with foreign:
        sum(range(10**6))
    assert foreign.share is None or 0 <= foreign.share <= 1


# What is shown


def test_a_block_shows_ours_the_best_of_each_family_and_who_was_left_out():
    made = outcome(
        {
            "auto": [1.0],
            "torch.topk": [2.0],
            "torch.half": [0.5],
            "numpy": [4.0],
            "matmul": [0.2],
        },
        facts={"torch.half": {"recall": 0.75}},
    )
    made.refused = {"usearch": "usearch is not installed"}
    made.foreign = {"shared": 0.25}
    assert made.best_of_families("shared") == ["auto", "torch.half", "numpy", "matmul"]
    text = "\n".join(tables.block(made, "cpu", CEILINGS))
    assert text.startswith("b16_m1M_k10, shared; others took 25% of the machine\n")
    assert "1,000,000.0 us" in text and "2.00x torch.topk" in text
    assert "recall 0.7500" in text
    assert text.endswith("usearch: not timed: usearch is not installed")


def test_the_summary_has_a_line_a_cell():
    made = outcome(
        {"auto": [1.0], "auto.ordered": [1.6], "torch.topk": [2.0]},
        {"auto": [1.0], "numpy": [3.0]},
    )
    dropped = Outcome(Cell(1, 9, 128, 2), "no room")
    header, line, without = tables.summary([made, dropped], "cpu", CEILINGS)
    assert header.split()[-4:] == ["quartiles", "ordered", "alone", "roofline"]
    words = line.split()
    assert words[:5] == ["b16_m1M_k10", "1,000,000.0", "2,000,000.0", "torch.topk", "2.00x"]
    assert words[8:10] == ["1.25x", "3.00x"] and words[10].endswith("%")
    assert without.split() == ["b1_m9_k2", "no", "room"]
    del made.passes["alone"], made.passes["shared"]["auto.ordered"]
    assert list(tables.summary([made], "cpu", CEILINGS))[1].split()[8:10] == ["-", "-"]


def test_the_plot_has_a_panel_for_every_batch_and_k_and_draws_the_roofline(tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    figures_ = []
    monkeypatch.setattr(plt, "close", figures_.append)
    cells = [
        outcome({"auto": [1.0], "numpy": [2.0], "torch.topk": [3.0]}, k=k, slots=slots)
        for k in (0, 10)
        for slots in (1000, MILLION)
    ]
    path = draw(cells, "cpu", CEILINGS, tmp_path / "plot.png")
    assert path.stat().st_size > 1000
    assert [axes.get_title() for axes in figures_[0].axes] == [
        "16 queries, nearest pair",
        "16 queries, k = 10",
    ]
    lines = {line.get_label(): line.get_ydata() for line in figures_[0].axes[1].get_lines()}
    assert set(lines) == {"ours: auto", "numpy", "torch", "roofline"}
    assert list(lines["ours: auto"]) == [1000.0, 1000.0]
    assert lines["roofline"][1] == pytest.approx(
        1e3 * roofline.floor(Cell(16, MILLION, 128, 10), "float32", CEILINGS)
    )
    assert figures_[0].axes[1].get_xscale() == figures_[0].axes[1].get_yscale() == "log"
    monkeypatch.undo()
    plt.close("all")


def test_half_precision_shares_a_family_with_torch_and_seconds_are_of_all_calls():
    made = outcome({"auto": [1.0]})
    made.passes["shared"]["auto"] = [[1.0, 2.0], [3.0, 4.0, 5.0]]
    assert made.seconds("shared", "auto") == Spread(2.0, 3.0, 4.0)


@pytest.fixture
def script(tmp_path):
    """benchmarks/gpu.sh in a folder of its own, with an interpreter that only notes its orders."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "lookup_gpu.json").write_text("{}")
    (tmp_path / "benchmarks" / "results" / "lookup_cpu.json").write_text("{}")
    shutil.copy(ROOT / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    stub = tmp_path / "python"
    stub.write_text(
        f"""#!{bash}
echo "$@" >> {tmp_path}/orders
case "$*" in
    *"assert torch"*) exit "${{NO_GPU:-0}}" ;;
    *code_digest*) echo abc ;;
    *pytest*) exit "${{RED:-0}}" ;;
esac
"""
    )
    stub.chmod(0o755)

    def run(**settings):
        (tmp_path / "orders").write_text("")
        done = subprocess.run(
            [bash, str(tmp_path / "benchmarks" / "gpu.sh")],
            env={"PATH": os.environ["PATH"], "PYTHON": str(stub), **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, [line.split()[:3] for line in (tmp_path / "orders").read_text().splitlines()]

    return run


def test_the_script_for_a_gpu_does_all_and_goes_on_where_it_stopped(script, tmp_path):
    done, orders = script(OUT=str(tmp_path / "out"), TUNE="1")
    assert done.returncode == 0, done.stderr
    assert [order[1:] for order in orders if order[0] == "-m"] == [
        ["pytest", "-q"],
        ["pytest", "-q"],
        ["benchmarks.lookup.step", "--device"],
        ["benchmarks.lookup.kernels"],
        ["benchmarks.lookup", "--tune"],
        ["benchmarks.lookup", "--device"],
    ]
    copied = {path.name for path in (tmp_path / "out" / "results").iterdir()}
    assert copied == {"lookup_gpu.json"}
    assert (tmp_path / "out" / "runs" / "gpu" / "tests.abc.done").exists()
    done, orders = script()
    assert "tests: done before" in done.stdout
    assert [order[1] for order in orders if order[0] == "-m"] == ["benchmarks.lookup"]


def test_the_script_for_a_gpu_goes_on_after_a_red_test_and_says_so_at_the_end(script):
    done, orders = script(RED="1")
    assert done.returncode == 1 and "tests: failed" in done.stdout
    assert orders[-1][:2] == ["-m", "benchmarks.lookup"]
    assert "done before" not in script()[0].stdout.partition("train_step")[0]


def test_what_the_script_for_a_gpu_imports_is_there():
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    names = re.findall(r"from (benchmarks[\w.]*) import (\w+)", text)
    assert len(names) == 3
    for module, name in names:
        assert hasattr(import_module(module), name)


def test_the_script_for_a_gpu_stops_where_there_is_none_or_no_time(script):
    done, orders = script(NO_GPU="1")
    assert done.returncode == 1 and len(orders) == 1
    done, orders = script(MINUTES="0")
    assert not [order for order in orders if order[0] == "-m"]
    assert "grid: no time left; the same command goes on" in done.stdout
