"""What the benchmark does on a GPU, by a make-believe one: the order of calls, and what fails."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from benchmarks.cache import CellCache
from benchmarks.lookup import tune
from benchmarks.lookup.bench import Bench
from benchmarks.lookup.cells import MILLION, Cell, make_inputs
from benchmarks.lookup.clock import CudaClock


@pytest.fixture
def gpu(monkeypatch):
    """Every call takes as many milliseconds as it says; `log` is what was done."""
    state = SimpleNamespace(now=0.0, log=[], waits="default", capturing=False, captured=[])

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
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "graph": graph,
        "stream": stream,
        "synchronize": lambda: None,
        "get_sync_debug_mode": lambda: state.waits,
        "set_sync_debug_mode": lambda mode: setattr(state, "waits", mode),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    state.call = call

    def do_bench(timed, *, warmup, rep, return_mode):
        assert return_mode == "all"
        times = []
        for _ in range(3):
            before = state.now
            timed()
            times.append(state.now - before)
        return times

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    return state


def test_calls_are_timed_by_triton_which_empties_the_cache(gpu):
    assert CudaClock().measure(gpu.call("a", 2.0), "events") == pytest.approx([0.002] * 3)
    assert gpu.log == [*"aaa"]


def test_a_graph_is_captured_once_and_its_replays_are_timed(gpu):
    call, clock = gpu.call("a", 4.0), CudaClock()
    for _ in range(2):
        assert clock.measure(call, "graph") == pytest.approx([0.004] * 3)
    # Once before the capture, then two times three replays.
    assert gpu.log == [*"a", *"aaaaaa"]
    assert gpu.waits == "default"


def test_who_makes_the_host_wait_is_not_captured(gpu):
    with pytest.raises(RuntimeError) as caught:
        CudaClock().measure(gpu.call("a", 1.0, waits=True), "graph")
    assert str(caught.value) == "not to be captured: called a synchronizing CUDA operation"
    assert gpu.waits == "default" and not gpu.capturing
    assert CudaClock().measure(gpu.call("a", 1.0, waits=True), "events")


def test_the_keys_of_the_cell_before_are_used_again():
    bench = Bench("cpu")
    bench.load(Cell(2, 30, 8, 3))
    keys = bench._loaded.inputs.keys
    bench.load(Cell(2, 30, 8, 5))
    assert bench._loaded.inputs.keys is keys
    bench.load(Cell(2, 31, 8, 5))
    assert bench._loaded.inputs.keys is not keys


def test_tiles_are_tried_in_place_of_the_plans_and_put_back(monkeypatch):
    class Tile(SimpleNamespace):
        def _replace(self, **changes):
            return Tile(**{**vars(self), **changes})

    default = Tile(rows=16, slots=64, dims=128, warps=4, stages=4, slots_first=False)
    plan = SimpleNamespace(
        Tile=Tile,
        make_plan=lambda *given, pair: SimpleNamespace(tile=default),
        _tile=lambda *given: default,
        _bins_wanted=lambda k: 9,
    )
    monkeypatch.setattr(tune, "import_module", lambda name: plan)
    tiles = tune._tiles(Cell(16, MILLION, 128, 8), plan)
    assert tiles[0] == default and len(tiles) == 36
    assert {tile.rows for tile in tiles} == {16} and tiles.count(default) == 1
    before = plan._tile, plan._bins_wanted
    with tune._chosen(plan, tiles[3], 4096):
        assert plan._tile(1, 2, 3) is tiles[3] and plan._bins_wanted(256) == 4096
    assert (plan._tile, plan._bins_wanted) == before


def test_the_sweep_keeps_what_fails_out_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    seen = []
    given = make_inputs(Cell(2, 30, 8, 3), 0, "cpu")
    monkeypatch.setattr(tune, "make_inputs", lambda *_: given)
    monkeypatch.setattr(tune, "_tiles", lambda cell, plan: ["slow", "bad", "fast"])
    monkeypatch.setattr(tune, "BINS", (7,))

    def seconds(cell, given, plan, tile, bins):
        seen.append((tile, bins))
        if tile == "bad":
            raise RuntimeError("out of resource: shared memory")
        return {"slow": 3.0, "fast": 1.0}[tile] / (2 if bins else 1)

    monkeypatch.setattr(tune, "_seconds", seconds)
    cache = CellCache(tmp_path, "lookup_tune", "a chip")
    cell = Cell(16, MILLION, 128, 8)
    want = {"slow": 3.0, "fast": 1.0, "fast with 7 bins": 0.5}
    assert tune._swept(cell, None, cache, lambda: len(seen) >= 2) == {"slow": 3.0}
    assert tune._swept(cell, None, cache, lambda: False) == want
    assert seen == [("slow", None), ("bad", None), ("fast", None), ("fast", 7)]
    assert tune._swept(cell, None, cache, lambda: True) == want
