"""Two processes, one memory: each writes the rows of both, and they never differ by a bit."""

import pytest
import ranks
import torch
from ranks import STEPS, TYPES, WORLD, batch, new_memory

from rarememory.distributed import gathered

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch is built without gloo",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each of the two processes says when it has done its work."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ranks.work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("dtype", TYPES)
def test_uneven_batches_leave_the_same_memory_on_every_process(done, dtype):
    same_bits(*(one["written"][dtype] for one in done))


@pytest.mark.parametrize("dtype", TYPES)
def test_many_processes_remember_what_one_would_that_saw_everything(done, dtype):
    memory = new_memory(TYPES[dtype])
    for step in range(STEPS):
        queries, labels, masks = zip(*(batch(rank, step) for rank in range(WORLD)), strict=True)
        mask = None if masks[0] is None else torch.cat(masks)
        memory.write(torch.cat(queries), torch.cat(labels), mask=mask)
    same_bits(done[0]["written"][dtype], memory.state_dict())


@pytest.mark.parametrize("broadcast_buffers", [False, True])
def test_training_in_ddp_keeps_encoder_and_memory_the_same(done, broadcast_buffers):
    one, other = (each["trained"][broadcast_buffers] for each in done)
    same_bits(one, other)
    assert one["memory.clock"] == STEPS - 1
    assert not torch.equal(one["encoder.weight"], ranks.Under().encoder.weight)


def test_rows_come_process_by_process_and_masked_ones_stay_behind(done):
    parts = [batch(rank, 6) for rank in range(WORLD)]
    queries = torch.cat([rows[mask] for rows, _, mask in parts])
    labels = torch.cat([right[mask] for _, right, mask in parts])
    for one in done:
        assert torch.equal(one["gathered"][0], queries)
        assert torch.equal(one["gathered"][1], labels)


def test_what_a_write_refuses_is_refused_by_every_process_and_none_waits(done):
    one, other = (each["refused"] for each in done)
    assert one.keys() == other.keys() == ranks.misuses(1).keys()
    # It takes a few milliseconds; the limit is that of a machine that does much else.
    assert max(seconds for said in (one, other) for _, seconds in said.values()) < 60
    for name in one.keys() - {"width", "type", "another device"}:
        assert "process 1 could not do its part, and says why" in one[name][0], name
    for name, right in {
        "number": "give one a query",
        "mask": "give one a query",
        "mask of integers": "mask must be torch.bool",
        "labels of floats": "labels must be integers >= 0, not torch.float32",
        "labels of booleans": "labels must be integers >= 0, not torch.bool",
        "labels below 0": "labels must be integers >= 0, and these rows are not: 0, 1",
        "labels in a list": "labels must be a tensor of integers >= 0, not a list",
        "queries in a list": "queries must be a tensor [..., key_dim], not a list",
        "queries of integers": "queries must be floating point",
        "queries sparse": "queries must be dense, not torch.sparse_coo",
        "queries nested": "queries must be dense, not nested",
        "queries of zeros": "queries must be finite and not zero",
        "queries not finite": "queries must be finite and not zero",
        "queries without width": "queries must be a tensor [..., key_dim], not a number",
        "nothing": "queries must be a tensor [..., key_dim], not a NoneType",
    }.items():
        assert right in other[name][0], name
    for said in (one, other):
        assert "(8, torch.float32, 'cpu'), (7, torch.float32, 'cpu')" in said["width"][0]
        assert "(8, torch.float32, 'cpu'), (8, torch.float64, 'cpu')" in said["type"][0]


def test_a_broadcast_over_the_keys_is_seen_by_who_keeps_something_of_them(done):
    for each in done:
        assert each["overwritten"] and all(each["overwritten"].values()), each["overwritten"]


def test_all_processes_start_from_the_state_of_one(done):
    one, other = (each["started"] for each in done)
    same_bits(one["memory"], other["memory"])
    assert one["memory"]["values"].max() == 7
    assert one["classes"] == other["classes"] == ["kea", "weka"]
    assert one["refs"] == other["refs"] and sorted(one["refs"]) == [["a"], ["b"], ["c"]]
    assert torch.equal(one["features"], other["features"])
    for each in (one, other):
        assert "the state of process 0 could not be used on processes [1]" in each["said"]


def test_one_process_alone_gathers_its_own_rows():
    queries = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.arange(6, dtype=torch.int32).view(2, 3)
    rows, right = gathered(queries, labels, labels % 2 == 0)
    assert torch.equal(rows, queries.detach().view(6, 4)[::2]) and not rows.requires_grad
    assert right.tolist() == [0, 2, 4] and right.dtype == torch.int64
    rows, right = gathered(queries[0, 0], labels[0, 0])
    assert rows.shape == (1, 4) and right.tolist() == [0]


def test_a_process_alone_refuses_what_does_not_fit(unchecked):
    with pytest.raises(ValueError, match=r"labels of shape \[2\] for queries that ask for \[3\]"):
        gathered(torch.ones(3, 4), torch.ones(2).long())
    with pytest.raises(ValueError, match="queries must be floating point"):
        gathered(torch.ones(3, 4).long(), torch.ones(3).long())
