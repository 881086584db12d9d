"""Any number of threads use one memory: each read is of the state before or after a write."""

import copy
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rarememory import EMPTY, FirstInFirstOut, Memory
from rarememory.variants import MeanMemory, VectorMemory, class_attention
from tests.memories import LOOKUPS, assert_waits

SECONDS = 0.5
SIZES = (40, 1500)

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(autouse=True)
def often_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def until_the_end(*tasks, seconds=SECONDS):
    """Runs each task again and again in a thread of its own; raises what one of them raises."""
    end = time.monotonic() + seconds

    def run(task):
        turns = 0
        while time.monotonic() < end:
            task()
            turns += 1
        return turns

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def one_valued(lookup: str = "native", **options: object) -> Memory:
    """A memory all of whose slots hold one value at any moment, the number of its clock."""
    memory = Memory(8, SIZES[1], k=20, lookup=lookup, update=FirstInFirstOut(), **options)
    rewrite(memory)
    return memory


def rewrite(memory: Memory) -> None:
    """One change that others see whole or not at all: every slot gets the next value."""
    with memory.lock.writing():
        clock = int(memory.clock)
        labels = torch.full((len(memory.keys),), clock)
        memory.write(torch.randn(len(labels), 8), labels)


def check(values: torch.Tensor) -> None:
    """That all are of one moment."""
    assert len(values.unique()) == 1, values.unique()


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_read_beside_writes_and_resizing_is_of_one_moment(lookup):
    memory = one_valued(lookup)
    queries = torch.randn(3, 8)

    def read():
        with memory.lock.reading():
            recall = memory(queries)
            assert torch.equal(memory.values[recall.slots], recall.values)
        check(recall.values)
        assert recall.scores.isfinite().all()

    def read_with_labels():
        recall = memory(queries, torch.zeros(3).long())
        assert recall.loss.isfinite()
        check(recall.values[recall.slots != EMPTY])

    def resize():
        for size in SIZES:
            memory.resize(size)

    turns = until_the_end(read, read_with_labels, read, lambda: rewrite(memory), resize)
    assert min(turns) > 0


def test_states_copies_and_pickles_are_of_one_moment():
    memory = one_valued()

    def copied(other):
        check(other.values)
        assert torch.equal(other.written, other.written[0].expand(len(other.written)))
        assert other.clock == other.written[0]

    until_the_end(
        lambda: rewrite(memory),
        lambda: copied(copy.deepcopy(memory)),
        lambda: copied(pickle.loads(pickle.dumps(memory))),
        lambda: len(memory) == len(memory.keys),
    )


def test_a_snapshot_hides_from_other_threads_what_it_takes_back():
    memory = one_valued()
    before = int(memory.values[0])

    def tried():
        with memory.snapshot():
            rewrite(memory)
            memory.forget(slots=[1])

    def read():
        values = memory(torch.randn(1, 8)).values
        assert values.eq(before).all()

    until_the_end(tried, read, read)


def test_overlapping_read_only_blocks_end_with_the_last():
    memory = one_valued()

    def held():
        with memory.read_only():
            time.sleep(1e-4)
            with pytest.raises(RuntimeError, match="read-only"):
                memory.clear()

    until_the_end(held, held, held, seconds=0.2)
    first, second = memory.read_only(), memory.read_only()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="read-only"):
        memory.clear()
    second.__exit__(None, None, None)
    memory.clear()
    assert not len(memory)


def test_each_row_of_many_threads_is_written_once():
    memory = Memory(8, 64, update=FirstInFirstOut())

    def write(label):
        for row in torch.randn(8, 8):
            memory.write(row, torch.tensor(label))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert memory.values.bincount().tolist() == [8] * 8 and memory.clock == 64


def test_variants_are_of_one_moment_too():
    means = MeanMemory(8, 16)
    # The vector of each slot is its value.
    vectors = VectorMemory(Memory(8, 64, k=8, update=FirstInFirstOut()), width=1)
    numbers = iter(range(10**9))

    def write_means():
        means.write(torch.randn(3, 8), torch.tensor([5, 6, 7]))

    def read_means():
        assert class_attention(means, torch.randn(2, 8)).scores.isfinite().all()
        assert sorted(means.values.tolist())[-4:] in ([-1, 5, 6, 7], [-1] * 4)

    def write_vectors():
        value = float(next(numbers))
        vectors.write(torch.randn(64, 8), torch.full((64, 1), value))

    def read_vectors():
        found = vectors(torch.randn(1, 8)).vectors.item()
        assert found == pytest.approx(round(found), abs=1e-3 * max(1.0, found))

    until_the_end(write_means, read_means, write_vectors, read_vectors)


def made() -> Memory:
    return Memory(8, 4, count_usage=True)


ONE, LABEL = torch.ones(8), torch.tensor(5)
RECALL = made()(ONE)
READS = {
    "a read": lambda memory: memory(ONE),
    "a read with labels": lambda memory: memory(ONE, LABEL),
    "ages": lambda memory: memory.ages,
    "length": len,
    "stats": Memory.stats,
    "a copy": copy.deepcopy,
    "a pickle": pickle.dumps,
    "a merge into another": lambda memory: made().merge(memory),
}
WRITES = {
    "write": lambda memory: memory.write(ONE, LABEL),
    "write of what was read": lambda memory: memory.write(RECALL, LABEL),
    "record": lambda memory: memory.record(RECALL),
    "forget": lambda memory: memory.forget(slots=[1]),
    "clear": Memory.clear,
    "merge": lambda memory: memory.merge(made()),
    "sync": Memory.sync,
    "read_only": Memory.read_only,
    "snapshot": Memory.snapshot,
    "draft": Memory.draft,
    "put_slots": lambda memory: memory.put_slots(torch.tensor([0]), {}, 3),
    "put_state": lambda memory: memory.put_state({}),
    "resize": lambda memory: memory.resize(3),
    "to": Memory.double,
    "load_state_dict": lambda memory: memory.load_state_dict(made().state_dict()),
}


@pytest.mark.parametrize(
    ("held", "verbs"), [("writing", READS | WRITES), ("reading", WRITES)], ids=["write", "read"]
)
def test_each_verb_waits_for_what_it_must_not_run_beside(held, verbs):
    assert_waits(verbs, made, held)
