"""What a Triton search asks of the host, what it does not store, and when it says no."""

import importlib.util
import pickle
import sys

import pytest
import torch

from rarememory.lookup import AutoLookup, TorchLookup, TritonLookup
from rarememory.lookup import triton as triton_file
from tests.lookup.test_nearest import units
from tests.lookup.test_triton import DEVICE, NEEDS_A_GPU, triton

pytestmark = pytest.mark.usefixtures("device")


def test_no_matrix_of_scores_is_stored(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        triton_file,
        "launch",
        lambda kernel, grid, *arguments, **_: shapes.extend(
            tuple(a.shape) for a in arguments if isinstance(a, torch.Tensor)
        ),
    )
    with torch.device("meta"):
        keys, queries = torch.empty(2**20, 64), torch.empty(256, 64)
        lookup = TritonLookup(interpret=True)
        for k in (1, 8, 256, 1024):
            lookup.nearest(queries, keys, torch.empty(2**20, dtype=torch.bool), k)
        lookup.nearest_pair(queries, keys, torch.empty(2**20).long(), torch.empty(256).long())
    inputs = {(2**20, 64), (2**20,)}
    assert max(torch.Size(shape).numel() for shape in {*shapes} - inputs) < 256 * 2**20 / 8


def test_the_host_never_waits_for_the_chip(monkeypatch):
    lookup, keys, queries = triton(), units(300, 5), units(3, 5)
    occupied, values = torch.arange(300) % 3 > 0, torch.arange(300) % 4
    labels = values[:3]

    def search() -> None:
        for k in (1, 7, 20, 200):
            lookup.nearest(queries, keys, occupied, k, half_keys=keys.half())
        lookup.nearest_pair(queries, keys, values, labels)

    if DEVICE == "cuda":
        search()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            search()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    # Tensors without numbers: whatever asks for one, or for a size that hangs on one, raises.
    monkeypatch.setattr(triton_file, "launch", lambda *arguments, **options: None)
    with torch.device("meta"):
        keys, queries, occupied, values, labels = (
            torch.empty_like(tensor, device="meta")
            for tensor in (keys, queries, occupied, values, labels)
        )
        search()
        with pytest.raises((RuntimeError, NotImplementedError)):
            occupied.nonzero()
        with pytest.raises(RuntimeError):
            bool(occupied.any())


@NEEDS_A_GPU
def test_a_search_can_be_captured_in_a_cuda_graph():
    keys, queries, occupied = units(5000, 64), units(16, 64), torch.rand(5000) < 0.9
    for k in (1, 7, 100):
        triton().nearest(queries, keys, occupied, k)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = triton().nearest(queries, keys, occupied, k)
        queries.copy_(units(16, 64))
        graph.replay()
        expected = TorchLookup().nearest(queries, keys, occupied, k)
        assert torch.equal(found.sort(1).values, expected.sort(1).values)


def test_why_not_is_one_sentence_with_the_facts():
    with torch.device("cpu"):
        queries, keys = units(2, 4), units(9, 4)
    lookup = TritonLookup()
    assert lookup.why_not(queries, keys, 3) == ("triton searches on a gpu, and the keys are on cpu")
    lookup = TritonLookup(interpret=True)
    assert lookup.why_not(queries, keys, 2000) is None
    assert lookup.why_not(queries, keys.double(), 3) == (
        "triton searches float32, float16 or bfloat16 keys, and these are torch.float64"
    )
    assert lookup.why_not(queries, units(2000, 4), 1025) == (
        "triton finds at most 1024 neighbours, and k is 1025"
    )
    assert lookup.why_not(queries, keys.T.contiguous().T, 3) == (
        "triton searches contiguous keys, and these have strides (1, 9)"
    )


def test_auto_never_picks_the_interpreter():
    with torch.device("cpu"):
        lookups = AutoLookup().lookups
        assert lookups[0].name == "triton"
        assert lookups[0].why_not(units(2, 4), units(9, 4), 3) is not None


def test_without_triton_the_lookup_says_what_to_install(monkeypatch):
    filled = triton()
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else find(name)
    )
    sentence = 'triton is not installed; run: pip install "rarememory[triton]"'
    with pytest.raises(ImportError) as raised:
        TritonLookup()
    assert str(raised.value) == sentence
    assert pickle.loads(pickle.dumps(filled)).why_not(units(2, 4), units(9, 4), 3) == sentence
    assert [lookup.name for lookup in AutoLookup().lookups] == ["native", "faiss", "torch"]
