"""The benchmark of the searches at tiny sizes, in this process: its cache, names and results."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import cache
from benchmarks.lookup import __main__ as command
from benchmarks.lookup import clock, comparison, tables, trials, tune
from benchmarks.lookup.bench import Bench
from benchmarks.lookup.cells import MILLION, Cell
from benchmarks.lookup.comparison import Comparison
from benchmarks.lookup.remote import Gone
from rarememory import EMPTY
from rarememory.lookup import LOOKUPS, TorchLookup

TINY = ("--device", "cpu", "--batch", "2", "--slots", "300", "--k", "3", "--seconds", "0.01")


CELL = Cell(2, 300, 8, 3)


class LocalBench:
    """A bench in this process; `fail` maps calls to the errors that they raise once."""

    made = ()

    def __init__(self, device="cpu", seed=0, *, shared=True):
        self.bench, self.processes, self.fail = Bench(device, seed), [], {}
        self.called = []
        LocalBench.made += (self,)

    def call(self, method, *given, timeout=600, **more):
        self.called.append((method, *given[:1]))
        error = self.fail.pop((method, *given[:1]), None) or self.fail.pop(method, None)
        if error is not None:
            raise error
        return getattr(self.bench, method)(*given, **more)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two small trials, each tested once in full elsewhere, and no waiting before a measurement."""
    monkeypatch.setattr(clock, "WARM", 0.0)
    monkeypatch.setattr(clock, "_BURST", 0.0)
    monkeypatch.setattr(trials, "CASES", trials.CASES[:1])


@pytest.fixture
def run(folders, monkeypatch):
    LocalBench.made = ()
    monkeypatch.setattr(command, "RemoteBench", LocalBench)
    monkeypatch.setattr(comparison, "RemoteBench", LocalBench)
    monkeypatch.setattr(cache, "code_digest", lambda: "code")
    monkeypatch.setattr(Bench, "rate", lambda self, reads: 1e11)
    monkeypatch.setattr(Bench, "bandwidth", lambda self, size: 1e10)

    def run(*more):
        return command.main([*TINY, *more])

    run.runs = folders.runs
    run.result = lambda: folders.result(f"lookup_cpu_{command.instruction_set()}")
    return run


def called(method):
    return [entry for bench in LocalBench.made for entry in bench.called if entry[0] == method]


def compare(shared, cell=CELL, modes=(("shared", "wall"),), **more):
    return Comparison(shared, modes=dict(modes), seconds=0.01, limit=5.0, **more).run(cell)


def test_it_writes_what_is_published_under_keys_of_cells_and_where_it_came_from(run):
    assert run() == 0
    result, quartiles = run.result(), ("", ".quartile1", ".quartile3")
    ratios = ("ratio_to_best_stock", "alone_ratio_to_best_stock", "ordered_ratio_to_best_stock")
    keys = [f"b2_m300_k3.auto.{ratio}" for ratio in ratios]
    wanted = {key + more for key in keys for more in quartiles}
    wanted |= {f"nearest_pair.ratio_to_matmul.b2_m300{more}" for more in quartiles}
    for cell in ("b2_m300_k3", "b2_m300"):
        wanted |= {f"{cell}.auto.microseconds", f"{cell}.auto.fraction_of_roofline"}
    wanted |= {f"auto.{n}worst_ratio_to_best_stock" for n in ("", "alone_")}
    wanted |= {"ordered.worst_ratio", "ordered.worst_ratio_to_unsorted"}
    of_set = command.instruction_set()
    assert set(result["figures"]) == {f"lookup.cpu.{of_set}.{key}" for key in wanted}
    assert all(figure > 0 for figure in result["figures"].values())
    assert (run.runs / f"lookup_cpu_{of_set}.png").stat().st_size > 1000
    words = result["command"].split()
    assert words[:3] == ["python", "-m", "benchmarks.lookup"] and "--k 3" in result["command"]
    assert {"auto", "numpy", "torch.topk", "faiss.knn", "torch.matmul"} <= result["returns"].keys()
    assert result["machine"]["threads"] >= 1 and result["ceilings"]["rate"]["float32"] > 0
    assert any("of the roofline" in line for line in result["cells"]["b2_m300_k3"])
    assert result["not_run"] == [] and result["dropped"] == {}
    assert result["foreign"]["b2_m300_k3"].keys() == {"shared", "alone"}


def test_cells_have_the_names_of_their_keys():
    assert Cell(16, MILLION, 128, 256).name == "b16_m1M_k256"
    assert Cell(256, 10 * MILLION, 128, 8).name == "b256_m10M_k8"
    assert Cell(16, 8192, 128, 0).name == "b16_m8192"
    assert Cell(1, 131072, 64, 1, "sorted").name == "b1_m131072_k1_d64_sorted"
    assert Cell(1, 10**6, 128, 1).name == "b1_m1000000_k1"


@pytest.mark.parametrize(
    "option",
    [
        *("--batch 1", "--slots 9", "--key-dim 64", "--k 1", "--no-pairs", "--no-alone"),
        *("--data sorted", "--seconds 1", "--limit 1", "--without usearch", "--seed 1"),
    ],
)
def test_only_a_run_with_every_decisive_option_at_its_default_is_published(option):
    usual = ["--device", "cpu", "--runs", "x", "--minutes", "3"]
    assert command.BENCHMARK.parse(usual).published
    changed = command.BENCHMARK.parse([*usual, *option.split()])
    assert not changed.published and option in changed.command


def test_the_grid_is_that_of_the_protocol_and_the_targets_come_first_on_a_gpu():
    cpu, gpu = (
        command.grid(command.resolve(command.BENCHMARK.parse(["--device", device]).options))
        for device in ("cpu", "cuda")
    )
    assert len(cpu) == 36 and sum(not cell.pair for cell in cpu) == 27
    assert len(gpu) == 6 * 6 * 5 * 5
    assert {cell.name for cell in gpu[:6]} == {
        *("b16_m1M_k256", "b256_m1M_k8", "b256_m1M_k256", "b4096_m1M_k256"),
        *("b16_m1M", "b256_m1M"),
    }


@pytest.mark.parametrize("name", ["batch", "slots", "key-dim", "k"])
def test_a_size_below_one_is_refused_in_a_sentence(run, capsys, name):
    assert run(f"--{name}", "0") == 1
    assert capsys.readouterr().err == f"--{name} is 0: it has to be 1 or more\n"


def test_finished_cells_are_kept_and_run_again_for_other_options_or_other_code_only(
    run, monkeypatch
):
    assert run("--no-pairs") == 0
    first = run.result()["figures"]
    assert called("measure")
    LocalBench.made = ()
    assert run("--no-pairs") == 0
    assert run.result()["figures"] == first
    assert not called("measure") and not called("load")
    # There is no time for a new cell: what is in the cache is all there is.
    late = ("--no-pairs", "--minutes", "1e-9")
    assert run(*late) == 0
    for more in ("--seed 1", "--seconds 0.02", "--without usearch", "--limit 3", "--no-alone"):
        assert run(*late, *more.split()) == 1, more
    # Of another processor, or one that stands in for it.
    with monkeypatch.context() as masked:
        masked.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2")
        assert run(*late) == 1
    with monkeypatch.context() as other:
        other.setattr(command, "instruction_set", lambda: "other")
        assert run(*late) == 1
    assert run(*late) == 0
    monkeypatch.setattr(cache, "code_digest", lambda: "other code")
    assert run(*late) == 1


def test_the_digest_of_the_code_changes_with_a_line_of_it(tmp_path):
    file = tmp_path / "rarememory" / "native.cpp"
    file.parent.mkdir()
    file.write_text("one")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    before = cache.code_digest(tmp_path)
    (tmp_path / "benchmarks" / "results" / "lookup_cpu.json").write_text("{}")
    assert cache.code_digest(tmp_path) == before
    file.write_text("two")
    assert cache.code_digest(tmp_path) != before


def test_ctrl_c_loses_one_cell_at_most(run, monkeypatch, capsys):
    real, seen = Comparison.run, []

    def interrupted(self, cell):
        seen.append(cell.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self, cell)

    monkeypatch.setattr(Comparison, "run", interrupted)
    assert run() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert run() == 0
    assert seen == ["b2_m300_k3", "b2_m300", "b2_m300"]
    assert run.result()["not_run"] == []


def test_when_the_time_is_over_the_rest_is_named_and_the_worst_cell_is_not_known(run, capsys):
    assert run("--no-pairs") == 0
    assert run("--batch", "2", "4", "--no-pairs", "--minutes", "1e-9") == 0
    result = run.result()
    assert result["not_run"] == ["b4_m300_k3"]
    assert not any("worst" in key for key in result["figures"])
    assert "1 cells are still to run" in capsys.readouterr().out
    assert run("--batch", "2", "4", "--no-pairs") == 0
    assert run.result()["not_run"] == []


def test_without_a_timed_cell_there_is_no_result(run, capsys):
    assert run("--minutes", "1e-9") == 1
    assert "no cell was timed" in capsys.readouterr().err
    assert not (run.runs / "lookup_cpu.json").exists()


class Wrong(TorchLookup):
    def nearest(self, queries, keys, occupied, k):
        slots = super().nearest(queries, keys, occupied, k)
        # The farthest in the place of the last, but only where data are sorted.
        return slots if occupied.all() else slots.flip(1).clamp(max=40)


class Crashing(TorchLookup):
    def nearest(self, queries, keys, occupied, k):
        raise IndexError("off the end")


class WrongWhenFull(TorchLookup):
    def nearest(self, queries, keys, occupied, k):
        slots = super().nearest(queries, keys, occupied, k)
        return (slots + 1) % 300 if occupied.all() else slots


class WrongPair(TorchLookup):
    def nearest_pair(self, queries, keys, values, labels):
        return super().nearest_pair(queries, keys, values, labels)[::-1]


class Never(TorchLookup):
    def why_not(self, queries, keys, k):
        return f"never more than {k - 1}"


def missing():
    raise ImportError("what it needs is not installed")


def test_who_is_wrong_or_cannot_serve_is_named_with_the_reason_and_not_timed(
    run, monkeypatch, capsys
):
    lookups = (Wrong, Crashing, WrongWhenFull, WrongPair, Never, missing)
    for lookup in lookups:
        monkeypatch.setitem(LOOKUPS, lookup.__name__, lookup)
    assert run() == 0
    said, refused = capsys.readouterr().out, run.result()["refused"]
    for name in ("Wrong", "Crashing"):
        assert f"{name}: not timed: wrong in a small case: " in said
        assert refused["b2_m300_k3"][name] and refused["b2_m300"][name]
    nearest, pair = refused["b2_m300_k3"], refused["b2_m300"]
    assert nearest["WrongWhenFull"].startswith("a wrong answer: row 0 has a slot that scores")
    assert "positive" in pair["WrongPair"]
    assert nearest["Never"] == "never more than 2" and pair["Never"] == "never more than 1"
    assert nearest["missing"] == "what it needs is not installed"
    timed = {entry[1] for entry in called("measure")}
    assert "torch" in timed and not timed & {lookup.__name__ for lookup in lookups[:2]}


def test_a_lookup_that_takes_the_higher_of_two_equal_slots_is_named(monkeypatch):
    class Higher(TorchLookup):
        def nearest(self, queries, keys, occupied, k):
            slots = super().nearest(queries, keys.flip(0), occupied.flip(0), k)
            return torch.where(slots == EMPTY, EMPTY, len(keys) - 1 - slots)

        def nearest_pair(self, queries, keys, values, labels):
            flipped = super().nearest_pair(queries, keys.flip(0), values.flip(0), labels)
            return tuple(torch.where(s == EMPTY, EMPTY, len(keys) - 1 - s) for s in flipped)

    monkeypatch.setitem(LOOKUPS, "higher", Higher)
    assert "a higher slot of equal keys" in Bench("cpu").trials()["higher"]

    class HigherPair(Higher):
        nearest = TorchLookup.nearest

    monkeypatch.setitem(LOOKUPS, "higher", HigherPair)
    assert "a higher slot of equal keys" in Bench("cpu").trials()["higher"]


def test_the_lookups_of_the_package_pass():
    assert Bench("cpu").trials() == {}


def test_whoever_is_slower_than_the_limit_is_named_and_not_asked_again():
    bench = Bench("cpu")
    bench.load(Cell(2, 300, 8, 3))
    first = bench.check("torch.topk", 0.0)["refused"]
    assert "one call takes" in first and "more than --limit 0" in first
    bench.load(Cell(2, 300, 8, 5))
    assert bench.check("torch.topk", 9.0) == {"refused": first}
    bench.load(Cell(3, 300, 8, 5))
    assert "refused" not in bench.check("torch.topk", 9.0)


def test_a_cell_that_does_not_fit_is_dropped_and_named(run, monkeypatch, capsys):
    monkeypatch.setattr(Bench, "_free", lambda self: 10**6)
    assert run("--slots", "300", "100000", "--no-pairs") == 0
    dropped = run.result()["dropped"]
    assert list(dropped) == ["b2_m100000_k3"] and "GiB" in dropped["b2_m100000_k3"]
    assert "b2_m100000_k3: dropped: it needs" in capsys.readouterr().out
    assert not any("worst" in key for key in run.result()["figures"])


def test_when_a_process_dies_its_candidate_is_named_and_the_others_go_on():
    shared = LocalBench()
    shared.fail["check", "numpy"] = Gone("its process ended with exit code -11")
    outcome = compare(shared)
    assert outcome.refused["numpy"] == "its process ended with exit code -11"
    assert {"auto", "torch.topk"} <= outcome.passes["shared"].keys()
    assert shared.called.count(("load", CELL)) == 2


def test_a_cell_in_which_timing_fails_is_dropped_with_the_reason():
    shared = LocalBench()
    shared.fail["load"] = Gone("no answer within 600 s")
    outcome = compare(shared)
    assert outcome.dropped == "no answer within 600 s" and outcome.passes == {}
    assert list(tables.block(outcome, "cpu", {})) == [
        "b2_m300_k3_d8: dropped: no answer within 600 s"
    ]


def test_who_can_be_called_but_not_captured_is_left_out_of_that_pass_alone():
    shared = LocalBench()
    real = shared.bench.measure

    def measure(name, mode):
        if (name, mode) == ("numpy", "graph"):
            raise RuntimeError("capture failed")
        return real(name, mode)

    shared.bench.measure = measure
    outcome = compare(shared, modes=[("events", "events"), ("graph", "graph")])
    assert "numpy" in outcome.passes["events"] and "numpy" not in outcome.passes["graph"]
    assert outcome.refused["numpy (graph)"] == "capture failed"


def test_all_of_ours_are_timed_alone_and_of_the_rivals_those_that_are_near_the_best():
    shared = LocalBench()
    real = shared.bench.measure
    slow = ("torch", "numpy")
    shared.bench.measure = lambda name, mode: [1.0] if name in slow else real(name, mode)
    every = shared.call("candidates", False)
    alone = {comparison.backend(name, one): LocalBench() for name, one in every.items()}
    outcome = compare(shared, alone=alone)
    timed = outcome.passes["alone"]
    assert {"faiss", "torch", "auto", "auto.ordered"} <= timed.keys()
    assert "numpy" not in timed and len(outcome.passes["shared"]["numpy"]) == 2
    assert {name for _, name in alone["auto"].called if isinstance(name, str)} == {
        *("auto", "auto.ordered")
    }


def test_tiles_are_only_swept_where_there_are_some(run, capsys, monkeypatch):
    assert run("--tune") == 1
    assert capsys.readouterr().err.startswith("--tune needs a gpu")
    monkeypatch.setattr(tune, "PLAN", "rarememory.lookup.base")
    with pytest.raises(RuntimeError, match="the triton lookup has no tiles to sweep"):
        tune.sweep(SimpleNamespace(options=SimpleNamespace(device="cuda")))
