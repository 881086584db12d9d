"""A memory in shards says and remembers, to the bit, what one memory would."""

import pytest
import shards
import torch
from shards import HISTORIES, PROCESSES

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch is built without gloo",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each process says when it has done its work."""
    folder = tmp_path_factory.mktemp("shards")
    torch.multiprocessing.spawn(shards.work, args=(str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.mark.parametrize(("world", "case"), HISTORIES)
def test_shards_answer_and_remember_as_one_memory(done, world, case):
    for one in done[:world]:
        assert one[f"{world} {case}"] == []
