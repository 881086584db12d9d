"""What the benchmark does on a GPU, by a make-believe one: the order of calls, and what fails."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from benchmarks.lookup import tune
from benchmarks.lookup.bench import Bench
from benchmarks.lookup.cells import MILLION, Cell, inputs
from benchmarks.lookup.clock import CudaClock
from benchmarks.lookup.roofline import buffer_bytes


@pytest.fixture
def gpu(monkeypatch):
    """Every call takes as many milliseconds as it says; `log` is what was done."""
    state = SimpleNamespace(now=0.0, log=[], waits="default", capturing=False, captured=[])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = state.now

        def elapsed_time(self, other):
            return other.at - self.at

    class Graph:
        def replay(self):
            for call in self.calls:
                call()

    class Stream:
        def wait_stream(self, other):
            pass

    @contextmanager
    def graph(made):
        state.capturing, state.captured = True, []
        yield
        state.capturing, made.calls = False, state.captured

    @contextmanager
    def stream(one):
        yield

    def call(name, milliseconds, waits=False):
        def work():
            if state.capturing:
                state.captured.append(work)
                return name
            if waits and state.waits == "error":
                raise RuntimeError("called a synchronizing CUDA operation\nat some line")
            state.log.append(name)
            state.now += milliseconds
            return name

        return work

    fakes = {
        "Event": Event,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "graph": graph,
        "stream": stream,
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 164,
        "get_sync_debug_mode": lambda: state.waits,
        "set_sync_debug_mode": lambda mode: setattr(state, "waits", mode),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    state.call = call
    return state


def test_calls_are_timed_by_events_warm_and_over_keys_that_change(gpu):
    calls = [gpu.call("a", 1.0), gpu.call("b", 2.0), gpu.call("c", 3.0)]
    found = CudaClock().visit(calls, "events")
    assert found == pytest.approx([0.001, 0.002, 0.003] * 3 + [0.001])
    assert gpu.log == [*"abc", *"abcabcabca"]


def test_a_graph_holds_every_call_and_counts_for_one(gpu):
    calls = [gpu.call("a", 1.0), gpu.call("b", 3.0)]
    clock = CudaClock()
    assert clock.visit(calls, "graph") == pytest.approx(10 * [0.002])
    # Once each before the capture, one replay to be warm, ten that count.
    assert gpu.log == [*"ab", *"ab" * 11]
    clock.visit(calls, "graph")
    assert gpu.log == [*"ab", *"ab" * 22]
    assert gpu.waits == "default"


def test_who_makes_the_host_wait_is_not_captured(gpu):
    with pytest.raises(RuntimeError) as caught:
        CudaClock().visit([gpu.call("a", 1.0, waits=True)], "graph")
    assert str(caught.value) == "not to be captured: called a synchronizing CUDA operation"
    assert gpu.waits == "default" and not gpu.capturing
    assert CudaClock().visit([gpu.call("a", 1.0, waits=True)], "events")


def test_the_memory_of_a_call_is_what_it_adds(gpu):
    answer, seconds, extra = CudaClock().watched(gpu.call("a", 1.0))
    assert (answer, extra) == ("a", 64) and seconds >= 0


def test_small_keys_are_laid_out_often_enough_to_leave_the_cache():
    bench = Bench("cpu")
    bench.device = "cuda"
    sizes = {8192: 64, 65536: 12, MILLION: 1}
    for slots, copies in sizes.items():
        assert bench._rotated(torch.empty(slots, 128, device="meta")) == copies
    bench.device = "cpu"
    assert bench._rotated(torch.empty(8192, 128, device="meta")) == 1
    assert buffer_bytes(Cell(1, 8192, 128, 1)) == 4 * 8192 * 128


def test_a_bench_lays_the_same_question_over_all_copies(monkeypatch):
    monkeypatch.setattr(Bench, "_rotated", lambda self, keys: 3)
    bench = Bench("cpu")
    bench.lay(Cell(2, 30, 8, 3))
    first = bench._laid.buffers
    assert len({given.keys.data_ptr() for given in first}) == 3
    assert all(torch.equal(given.keys, first[0].keys) for given in first)
    bench.lay(Cell(2, 30, 8, 5))
    assert [given.keys.data_ptr() for given in bench._laid.buffers] == [
        given.keys.data_ptr() for given in first
    ]
    bench.check("auto", 9.0)
    assert len(bench._laid.calls["auto"]) == 3


def test_tiles_are_tried_in_place_of_the_plans_and_put_back(monkeypatch):
    class Tile(SimpleNamespace):
        def _replace(self, **changes):
            return Tile(**{**vars(self), **changes})

    default = Tile(rows=16, slots=64, dims=128, warps=4, stages=4)
    plan = SimpleNamespace(Tile=Tile, _tile=lambda *asked: default, _bins_wanted=lambda k: 9)
    monkeypatch.setattr(tune, "import_module", lambda name: plan)
    tiles = list(tune._tiles(Cell(16, MILLION, 128, 8), Tile, default))
    assert tiles[0] == default and len(tiles) == 18
    assert {tile.rows for tile in tiles} == {16} and tiles.count(default) == 1
    before = plan._tile, plan._bins_wanted
    with tune._chosen(plan, tiles[3], 4096):
        assert plan._tile(1, 2, 3) is tiles[3] and plan._bins_wanted(256) == 4096
    assert (plan._tile, plan._bins_wanted) == before


def test_the_sweep_keeps_what_fails_out_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    from benchmarks.lookup import kept

    seen = []
    given = inputs(Cell(2, 30, 8, 3), 0, "cpu")
    monkeypatch.setattr(tune, "inputs", lambda *asked: given)
    monkeypatch.setattr(tune, "_tiles", lambda cell, tile, default: iter(["slow", "bad", "fast"]))
    monkeypatch.setattr(tune, "BINS", (7,))

    def seconds(cell, given, plan, tile, bins):
        seen.append((tile, bins))
        if tile == "bad":
            raise RuntimeError("out of resource: shared memory")
        return {"slow": 3.0, "fast": 1.0}[tile] / (2 if bins else 1)

    monkeypatch.setattr(tune, "_seconds", seconds)
    plan = SimpleNamespace(Tile=None, _tile=lambda *asked: "slow")
    store = kept.Kept(tmp_path, "tune", "a chip")
    cell = Cell(16, MILLION, 128, 8)
    want = {"slow": 3.0, "fast": 1.0, "fast with 7 bins": 0.5}
    assert tune._swept(cell, plan, store, lambda: len(seen) >= 2) == {"slow": 3.0}
    assert tune._swept(cell, plan, store, lambda: False) == want
    assert seen == [("slow", None), ("bad", None), ("fast", None), ("fast", 7)]
    assert tune._swept(cell, plan, store, lambda: True) == want
