"""A whole training step as a CUDA graph, which can hold no wait of the host."""

import pytest
import torch

from rarememory import Memory
from tests.lookup.test_nearest import units

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: none here")


def step(memory: Memory, queries: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    recall = memory(queries, labels)
    (gradient,) = torch.autograd.grad(recall.loss, queries)
    memory.write(recall, labels)
    return gradient


def learning(half_precision_copy: bool) -> tuple[Memory, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    memory = Memory(32, 500, validate=False, half_precision_copy=half_precision_copy).cuda()
    memory.write(units(200, 32).cuda(), torch.randint(0, 30, (200,)).cuda())
    queries = torch.randn(16, 32).cuda().requires_grad_()
    return memory, queries, torch.randint(0, 40, (16,)).cuda()


@pytest.mark.parametrize("half_precision_copy", [False, True])
def test_a_training_step_does_not_make_the_host_wait(half_precision_copy):
    memory, queries, labels = learning(half_precision_copy)
    step(memory, queries, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(memory, queries, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("half_precision_copy", [False, True])
def test_a_replayed_training_step_does_what_the_step_does(half_precision_copy):
    memory, queries, labels = learning(half_precision_copy)
    twin, same, _ = learning(half_precision_copy)
    for _ in range(3):
        step(memory, queries, labels)
        step(twin, same, labels)
    graph = torch.cuda.CUDAGraph()
    with memory.snapshot():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(memory, queries, labels)
        torch.cuda.current_stream().wait_stream(side)
    with memory.snapshot(), torch.cuda.graph(graph):
        gradient = step(memory, queries, labels)
    for _ in range(5):
        with torch.no_grad():
            queries.copy_(torch.randn_like(queries))
            same.copy_(queries)
        graph.replay()
        torch.testing.assert_close(gradient, step(twin, same, labels))
        for mine, theirs in zip(memory.state, twin.state, strict=True):
            torch.testing.assert_close(mine, theirs)
