"""A compiled training step on a GPU; tests/programs/test_programs.py compiles them on a CPU."""

import copy

import pytest
import torch

from rarememory import Memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: none here")


def step(memory: Memory, queries: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    recall = memory(queries, labels)
    memory.write(recall, labels)
    return recall.loss


# Inductor of torch 2.11 uses what torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_a_compiled_step_does_what_the_step_does():
    torch.manual_seed(0)
    plain = Memory(7, 33, k=5, validate=False).cuda()
    compiled, faster = copy.deepcopy(plain), torch.compile(step, fullgraph=True)
    for _ in range(4):
        queries = torch.randn(8, 7, device="cuda")
        labels = torch.randint(0, 5, (8,), device="cuda")
        torch.testing.assert_close(step(plain, queries, labels), faster(compiled, queries, labels))
        assert torch.equal(plain.values, compiled.values)
        torch.testing.assert_close(plain.keys, compiled.keys)
