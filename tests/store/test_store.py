"""Workers of one store agree to the bit, and with one memory that is fed the log in order."""

from contextlib import ExitStack, closing

import pytest

from benchmarks.store.history import POLICIES, act, digest, opened, plain, rows


@pytest.mark.parametrize("update", POLICIES, ids=str)
def test_workers_in_turn_are_one_memory(url, update):
    alone = plain(update)
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(opened(url, update))) for _ in range(3)]
        for seed in range(40):
            assert act(workers[seed % 3], seed) == act(alone, seed)
        late = stack.enter_context(closing(opened(url, update)))
        assert {worker.catch_up() for worker in [*workers, late]} == {late.version}
        assert {digest(worker) for worker in [*workers, late]} == {digest(alone)}
        assert workers[0].predict(rows(5)) == alone.predict(rows(5))
