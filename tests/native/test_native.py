"""Loading the library in C++, and its answers at sizes where threads and blocks matter."""

import functools
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from rarememory import (
    EMPTY,
    FirstInFirstOut,
    Memory,
    native,
)
from rarememory.lookup import FaissLookup, NativeLookup, TorchLookup
from rarememory.lookup import native as native_file
from rarememory.lookup.exact import ranked
from rarememory.memory.queries import normalized
from tests.lookup.test_nearest import KEYS, check, units
from tests.sources import ROOT


@pytest.fixture
def unloaded(monkeypatch):
    """A process that has not looked for the library yet."""
    monkeypatch.setattr(native, "_made", functools.cache(native._made.__wrapped__))


def test_a_library_that_is_not_built_is_named_and_said_once(
    unloaded, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(native, "_FILE", tmp_path / "none.so")
    for _ in range(2):
        with pytest.raises(ImportError, match="the package was built without a C\\+\\+ compiler"):
            NativeLookup()
    assert Memory(3, 4).lookup.lookups[-1].name == "torch"
    (said,) = caplog.messages
    assert said.endswith("torch searches instead, which takes longer on a CPU")


def test_a_library_that_cannot_be_loaded_is_named(unloaded, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_FILE", tmp_path / "empty.so")
    (tmp_path / "empty.so").write_bytes(b"")
    with pytest.raises(ImportError, match="searches cannot be loaded"):
        NativeLookup()


LOADED = """
import sys
loaded = []
sys.addaudithook(lambda name, facts: loaded.append(facts[0]) if name == "ctypes.dlopen" else None)
import torch, rarememory
rarememory.Memory(4, 8, lookup="native")(torch.ones(1, 4))
print(*[file for file in loaded if "rarememory" in str(file)], sep="\\n")
"""


def test_no_library_is_loaded_from_where_others_may_write(tmp_path):
    whole = native._FILE.read_bytes()
    # Truncated ones, wherever an older version or another program would look for one.
    for folder in ("", ".cache", ".cache/rarememory", "rarememory"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / native._FILE.name).write_bytes(whole[: len(whole) // 2])
    folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "RAREMEMORY_CACHE", "LD_LIBRARY_PATH")
    run = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)} | dict.fromkeys(folders, str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == [str(native._FILE)]


def test_it_can_be_switched_off(unloaded, monkeypatch, caplog):
    monkeypatch.setenv(native.SWITCH, "0")
    with pytest.raises(ImportError, match="switched off by RAREMEMORY_NATIVE=0"):
        NativeLookup()
    assert "native" not in [lookup.name for lookup in Memory(3, 4).lookup.lookups]
    assert not caplog.messages


def test_the_best_instruction_set_is_used_unless_another_is_named(unloaded, monkeypatch):
    found = native.library().found
    assert native.library().instruction_set == found[0]
    for name in found:
        native._made.cache_clear()
        monkeypatch.setenv(native.SWITCH, name)
        assert native.library().instruction_set == name


def test_an_instruction_set_that_is_not_there_is_named(unloaded, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "mmx")
    with pytest.raises(ImportError, match="names the instruction set 'mmx'"):
        NativeLookup()


@pytest.mark.usefixtures("instruction_set")
def test_every_instruction_set_gives_the_same_answers():
    for kind, make in KEYS.items():
        for slots, key_dim, batch in [(1, 1, 1), (129, 33, 7), (1003, 5, 33), (513, 64, 1)]:
            keys = make(slots, key_dim)
            queries = torch.cat([units(batch, key_dim), keys[:3]])[:batch]
            values = torch.randint(-1, 5, (slots,))
            labels = torch.randint(0, 6, (batch,))
            mine, theirs = NativeLookup(), TorchLookup()
            for k in (1, 5, 100):
                found = mine.nearest(queries, keys, values >= 0, k).sort().values
                expected = theirs.nearest(queries, keys, values >= 0, k).sort().values
                assert torch.equal(found, expected), (kind, slots, k)
            for one, other in zip(
                mine.nearest_pair(queries, keys, values, labels),
                theirs.nearest_pair(queries, keys, values, labels),
                strict=True,
            ):
                assert torch.equal(one, other), (kind, slots)


@pytest.mark.usefixtures("instruction_set")
def test_every_instruction_set_leaves_the_same_memory_and_recalls_the_same(monkeypatch):
    gradients: list[Tensor] = []

    def history() -> list[Tensor]:
        torch.manual_seed(5)
        memory, recalls = Memory(24, 90, k=20, seed=3), []
        for turn in range(60):
            # Rounded rows are often the same, and their scores tie.
            rows = torch.randn(1 + turn % 21, 24).round(decimals=turn % 2)
            memory.write(rows + 1e-3, torch.randint(0, 12, (len(rows),)))
            recalls += memory(rows + 1e-3)[:4]
            labels = torch.randint(0, 12, (len(rows),))
            queries = (rows + 2e-3).requires_grad_()
            recall = memory(queries, labels)
            (
                recall.loss + recall.queries.sum() + recall.scores.nan_to_num(neginf=0).sum()
            ).backward()
            gradients.append(queries.grad)
            recalls += [*recall[:4], recall.loss, *memory.write(recall, labels)]
        return [*recalls, *memory.state_dict().values()]

    found = history()
    monkeypatch.setattr(native, "_made", lambda: "masked")
    assert NativeLookup not in [type(one) for one in Memory(3, 4).lookup.lookups]
    for one, other in zip(found, history(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(gradients[:60], gradients[60:], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.usefixtures("instruction_set")
def test_every_instruction_set_gives_the_same_gradient_of_the_loss(monkeypatch):
    torch.manual_seed(5)
    memory = Memory(50, 90)
    memory.write(torch.randn(90, 50), torch.randint(0, 12, (90,)))
    rows, labels = torch.randn(64, 50), torch.randint(0, 12, (64,))

    def gradient() -> Tensor:
        queries = rows.clone().requires_grad_()
        memory(queries, labels).loss.backward()
        assert queries.grad is not None
        return queries.grad

    found = gradient()
    baseline = native.Library(native.opened(), "baseline")
    monkeypatch.setattr(native, "_made", lambda: baseline)
    assert torch.equal(found, gradient())


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("batch", [1, 16, 40])
def test_blocks_and_threads_change_nothing(kind, batch):
    keys = KEYS[kind](20_011, 24)
    queries = torch.cat([units(batch, 24), keys[::5000]])[-batch:]
    values, labels = torch.randint(-1, 50, (len(keys),)), torch.randint(0, 50, (batch,))

    def answers(lookup):
        found = [lookup.nearest(queries, keys, values >= 0, k) for k in (1, 10, 300, 1024)]
        pair = lookup.nearest_pair(queries, keys, values, labels)
        return [*pair, *(slots.sort().values for slots in found)]

    expected, threads = answers(TorchLookup()), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            for mine, theirs in zip(answers(NativeLookup()), expected, strict=True):
                assert torch.equal(mine, theirs)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("key_dim", [1, 7, 8, 33])
@pytest.mark.parametrize("k", [0, 1, 2, 9, 300])
def test_neighbours_are_ranked_as_torch_ranks_them(k, key_dim, monkeypatch):
    # Equal keys tie, opposite ones score below zero, and some slots are none.
    keys = units(40, key_dim).repeat(20, 1)
    keys[::3] *= -1
    values = torch.arange(len(keys))
    for batch in (1, 5):
        queries = units(batch, key_dim).requires_grad_()
        slots = torch.stack([torch.randperm(len(keys))[:k] for _ in range(batch)])
        slots[:, ::4] = EMPTY
        given = slots.clone()
        mine = ranked(queries, keys, values, slots)
        assert torch.equal(slots, given)
        mine[1].square().masked_fill(mine[0] == EMPTY, 0.0).sum().backward()
        gradient, queries.grad = queries.grad, None
        with monkeypatch.context() as torch_only:
            torch_only.setattr(native, "is_supported", lambda *tensors: False)
            theirs = ranked(queries, keys, values, slots)
            theirs[1].square().masked_fill(theirs[0] == EMPTY, 0.0).sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert torch.allclose(gradient, queries.grad, atol=1e-6)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("codes", [True, False])
def test_one_call_reads_what_a_search_and_a_ranking_do(codes):
    # Rounded keys tie. After some queries there are codes of so many keys.
    keys, queries = units(2000, 24), units(5, 24)
    keys, values = (keys * 8).round() / 8, torch.randint(-1, 30, (len(keys),))
    lookup = NativeLookup(codes=codes)
    for k in (1, 9, 40, 300) * 4:
        *found, rows = lookup.read(3 * queries, keys, values, k)
        assert torch.equal(rows, normalized(3 * queries, torch.float32)[0])
        slots = TorchLookup().nearest(rows, keys, values != EMPTY, k)
        for one, other in zip(found, ranked(rows, keys, values, slots), strict=True):
            assert torch.equal(one, other)
    assert lookup.read(torch.zeros(1, 24), keys, values, 1) is None
    assert codes == (lookup._codes is not None and lookup._codes.codes_for(keys, 5, 1) is not None)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("slots", [1, 7, 70, 140_001])
def test_slots_are_marked_as_torch_marks_them(slots):
    values, mask = torch.randint(-1, 90, (slots,)), torch.rand(slots) < 0.3
    values[::5] += 10**12
    marks = torch.empty(slots, dtype=torch.bool)

    def marked(labels, mask):
        count = -1 if labels is None else len(labels)
        native.library().mark(values, slots, labels, count, mask, 2, marks)
        return marks

    occupied = values != EMPTY
    assert torch.equal(marked(None, None), occupied)
    assert torch.equal(marked(None, mask), mask & occupied)
    lists = [[], [EMPTY], [EMPTY, 3, 5], [5, 68, 3], [5, 69, 6], [5, 6, 70, 5], [0, 65_535]]
    lists += [[1, 65_537], [7, 10**12 + 7], [-(2**63), 2**63 - 1, 4], list(range(80))]
    for labels in (torch.tensor(some, dtype=torch.int64) for some in lists):
        assert torch.equal(marked(labels, None), torch.isin(values, labels) & occupied)


def test_reads_among_some_labels_and_slots_are_one_call(monkeypatch):
    memory, calls = Memory(8, 64, update=FirstInFirstOut()), []
    memory.write(units(60, 8), torch.arange(60) % 7)
    library, kernel = native.library(), native.library().read
    monkeypatch.setattr(library, "read", lambda *given: calls.append(given) or kernel(*given))
    queries, mask = torch.randn(3, 8), torch.rand(64) < 0.5
    for count, among in enumerate((3, [1, 5, EMPTY], iter([2, 9]), torch.tensor([4]), mask), 1):
        again = [2, 9] if count == 3 else among
        recall = memory(queries, among=among)
        with_gradient = memory(queries.clone().requires_grad_(), among=again)
        assert len(calls) == count
        for one, other in zip(recall[:4], with_gradient[:4], strict=True):
            assert torch.equal(one, other)
        assert recall.filtered and with_gradient.filtered


def test_a_training_step_is_one_call_to_read_and_one_to_write(monkeypatch):
    memory, calls = Memory(8, 64), []
    memory.write(units(9, 8), torch.arange(9))
    library = native.library()
    kernels = {name: getattr(library, name) for name in native._SIGNATURES}
    for name, kernel in kernels.items():

        def called(*given, name=name, kernel=kernel):
            calls.append(name)
            return kernel(*given)

        monkeypatch.setattr(library, name, called)
    recall = memory(units(3, 8).requires_grad_(), torch.tensor([3, 4, 77]))
    recall.loss.backward()
    versions = [buffer._version for buffer in memory.state[:4]]
    memory.write(recall, torch.tensor([3, 4, 77]))
    assert calls == ["read_pair", "write_at_once"]
    assert all(a < b._version for a, b in zip(versions, memory.state[:4], strict=True))
    memory.write(units(2, 8), torch.tensor([1, 2]))
    assert calls[2:] == ["read", "write_at_once"]


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 1, 3)])
def test_queries_of_any_shape_are_read_with_labels_of_that_shape(shape):
    memory = Memory(8, 64)
    memory.write(units(9, 8), torch.arange(9))
    labels = torch.arange(6)[: math.prod(shape)]
    queries = units(len(labels), 8)
    flat = memory(queries, labels)
    recall = memory(queries.view(*shape, 8), labels.view(shape))
    assert torch.equal(recall.loss, flat.loss)
    for one, other in zip(recall[:4], flat[:4], strict=True):
        assert one.shape[:-1] == shape and torch.equal(one.reshape(other.shape), other)


def test_a_gradient_read_in_one_call_has_a_gradient(monkeypatch):
    memory = Memory(6, 64, margin=0.5)
    memory.write(units(40, 6), torch.randint(0, 5, (40,)))
    queries, labels = units(7, 6).mul(2).requires_grad_(), torch.randint(0, 6, (7,))

    def seconds():
        recall = memory(queries, labels)
        total = recall.loss + (recall.scores.nan_to_num(neginf=0) * recall.queries[:, :2]).sum()
        (first,) = torch.autograd.grad(total, queries, create_graph=True)
        return torch.autograd.grad(first.square().sum(), queries)[0]

    mine = seconds()
    # A neighbour that is not there has no gradient, whatever is done with its score of -inf.
    one = units(1, 6).requires_grad_()
    memory(one, torch.tensor([99])).scores.square().sum().backward()
    assert one.grad.isfinite().all()
    monkeypatch.setattr(native, "_made", lambda: "masked")
    assert torch.allclose(mine, seconds(), atol=1e-5)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("beside", ["nothing", "scores", "queries"])
@pytest.mark.parametrize("stored", [0, 1, 40])
def test_the_gradient_of_the_loss_is_found_with_the_pair(stored, beside, monkeypatch):
    memory = Memory(13, 64, margin=0.5)
    memory.write(units(stored, 13), torch.randint(0, 5, (stored,)))
    queries, labels = units(7, 13).mul(2).requires_grad_(), torch.randint(0, 6, (7,))

    def gradient(**options) -> Tensor:
        recall = memory(queries, labels)
        total = 3 * recall.loss
        if beside != "nothing":
            total = total + getattr(recall, beside).nan_to_num(neginf=0).square().sum(0)[0]
        return torch.autograd.grad(total, queries, **options)[0]

    found, general = gradient(), gradient(create_graph=True)
    assert found.requires_grad != general.requires_grad
    monkeypatch.setattr(native, "is_supported", lambda *tensors: False)
    for one in (found, general):
        assert torch.allclose(one, gradient(), atol=1e-6)
    assert stored < 2 or found.abs().sum() > 0.1


def test_a_memory_reads_in_one_call(monkeypatch):
    memory, calls = Memory(8, 16), []
    memory.write(units(9, 8), torch.arange(9))
    library, kernel = native.library(), native.library().read
    monkeypatch.setattr(library, "read", lambda *given: calls.append(given) or kernel(*given))
    queries = 3 * torch.randn(2, 3, 8)
    recall = memory(queries, k=4)
    assert len(calls) == 1 and recall.scores.shape == (2, 3, 4)
    with_gradient = memory(queries.requires_grad_(), k=4)
    assert len(calls) == 1 and with_gradient.scores.requires_grad
    for one, other in zip(recall[:4], with_gradient[:4], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_single_query_that_is_not_finite_finds_nothing(bad):
    keys, query = units(700, 33), units(1, 33)
    query[0, 5] = bad
    found = NativeLookup().nearest(query, keys, torch.ones(700, dtype=torch.bool), 9)
    assert found.eq(EMPTY).all()


def test_several_threads_may_search_at_once():
    keys, queries = units(5000, 16), units(40, 16)
    occupied = torch.ones(5000, dtype=bool)
    alone = NativeLookup().nearest(queries, keys, occupied, 30)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(NativeLookup().nearest, queries, keys, occupied, 30) for _ in range(40)]
        assert all(torch.equal(job.result(), alone) for job in jobs)


def test_views_and_an_empty_batch_are_searched():
    keys, occupied = units(300, 8)[::2], torch.ones(300, dtype=bool)[::2]
    queries = torch.nn.functional.normalize(torch.randn(8, 4).T, dim=1)
    check(NativeLookup().nearest(queries, keys, occupied, 7), queries, keys, occupied, 7)
    assert NativeLookup().nearest(queries[:0], keys, occupied, 7).shape == (0, 7)


def nearly_equal(slots: int, key_dim: int) -> torch.Tensor:
    """Keys that differ in their last digits, so that only an exact sum tells them apart."""
    keys = units(1, key_dim).repeat(slots, 1)
    digits = torch.randint(-2, 3, keys.shape, dtype=torch.int32)
    return (keys.view(torch.int32) + digits).view(torch.float32)


@pytest.mark.parametrize("lookup", [NativeLookup, TorchLookup, FaissLookup])
@pytest.mark.parametrize("batch", [1, 20])
def test_near_ties_are_decided_by_the_exact_score(lookup, batch):
    keys, queries = nearly_equal(500, 200), units(batch, 200)
    truth = (queries.double() @ keys.double().T).float()
    in_order = truth.argsort(dim=1, descending=True, stable=True)
    values, labels = torch.arange(500) % 2, torch.zeros(batch, dtype=torch.int64)
    for k in (1, 7, 100):
        found = lookup().nearest(queries, keys, values >= 0, k)
        assert torch.equal(found.sort().values, in_order[:, :k].sort().values)
    for side, slots in enumerate(lookup().nearest_pair(queries, keys, values, labels)):
        among = truth.masked_fill(values != side, -2)
        assert torch.equal(slots, among.argsort(dim=1, descending=True, stable=True)[:, 0])


# Other types, devices and strides


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_of_torch_changes_nothing(dtype):
    def answers() -> list[torch.Tensor]:
        torch.manual_seed(5)
        memory = Memory(6, 40, key_dtype=torch.float32)
        rows = torch.randn(30, 6, dtype=torch.float32)
        memory.write(rows, torch.arange(30) % 7)
        memory.write(-rows, torch.arange(30) % 5)
        recall = memory(rows, torch.arange(30) % 7)
        return [*memory(rows)[:3], recall.slots, recall.scores, *memory.state]

    before = answers()
    torch.set_default_dtype(dtype)
    try:
        assert all(torch.equal(a, b) for a, b in zip(answers(), before, strict=True))
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_default_device_of_torch_changes_nothing():
    memory, rows = Memory(6, 40), units(9, 6)
    labels = torch.arange(9)
    with torch.device("meta"):
        memory.write(rows, labels)
        assert memory(rows).prediction.tolist() == list(range(9))


def test_a_thousand_queries_are_searched_some_at_a_time(monkeypatch):
    keys, queries, occupied = units(300, 5), units(50, 5), torch.rand(300) < 0.9
    whole = NativeLookup().nearest(queries, keys, occupied, 9)
    monkeypatch.setattr(native_file, "_ROWS_AT_ONCE", 7)
    found = NativeLookup().nearest(queries, keys, occupied, 9)
    assert torch.equal(found.sort().values, whole.sort().values)
