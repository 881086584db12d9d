"""Compiled, exported and captured: a program made of the memory does what the memory does.

Where annotations are checked there is Python that no compiler follows, so tests/test_programs.py
runs these in a process without.
"""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from rarememory import EMPTY, Memory, wrap
from rarememory.classifier import forms
from rarememory.lookup import NativeLookup, ops
from tests.lookup.test_nearest import units
from tests.memories import LOOKUPS

NAMES = [*LOOKUPS, "auto"]


def filled(**options: object) -> Memory:
    torch.manual_seed(1)
    memory = Memory(6, 40, k=5, validate=False, **options)
    memory.write(units(30, 6), torch.randint(0, 9, (30,)))
    return memory


def batch(rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 6), torch.randint(0, 12, (rows,))


# Operators


@pytest.mark.parametrize("name", NAMES)
def test_the_operators_keep_the_rules_of_torch(name):
    memory = filled()
    queries, labels = units(7, 6), torch.randint(0, 9, (7,))
    occupied = memory.values != EMPTY
    for k in (1, 5, 50):
        given = (queries, memory.keys, occupied, k, name, None)
        opcheck(torch.ops.rarememory.nearest.default, given)
    given = (queries, memory.keys, memory.values, labels, name, None)
    opcheck(torch.ops.rarememory.nearest_pair.default, given)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_score_keeps_the_rules_of_torch_and_has_a_gradient():
    memory = filled()
    slots = torch.randint(-1, 40, (7, 3))
    for queries in (units(7, 6), units(7, 6).requires_grad_()):
        opcheck(torch.ops.rarememory.score.default, (queries, memory.keys, slots))
    wide, keys = units(7, 6).double().requires_grad_(), memory.keys.double()
    weights = torch.randn(7, 3).double().masked_fill(slots == EMPTY, 0.0)

    def weighed(queries):
        scores = torch.ops.rarememory.score(queries, keys, slots)
        return (scores.masked_fill(slots == EMPTY, 0.0) * weights).sum()

    assert torch.autograd.gradcheck(weighed, wide)
    assert torch.autograd.gradgradcheck(lambda q: weighed(q) ** 2, wide)


def test_the_order_keeps_the_rules_of_torch():
    scores, slots = torch.randn(7, 3).round(), torch.randint(-1, 40, (7, 3))
    opcheck(torch.ops.rarememory.order.default, (scores, slots))


def test_an_operator_says_why_its_lookup_cannot_serve():
    memory = filled().double()
    given = (memory.keys, memory.keys, memory.values != EMPTY, 3, "faiss", None)
    with pytest.raises(ValueError, match="faiss searches float32 keys"):
        torch.ops.rarememory.nearest(*given)


# Compiled


def test_what_a_program_writes_is_seen_by_who_keeps_codes_of_the_keys():
    memory = Memory(8, 1500, k=5, lookup="native")
    memory.write(torch.randn(1500, 8), torch.arange(1500))
    plain = Memory(8, 1500, k=5, lookup=NativeLookup(codes=False))
    torch.compiler.reset()
    write = torch.compile(memory.write, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        write(torch.randn(6, 8), torch.arange(6))
        plain.load_state_dict(memory.state_dict())
        queries = memory.keys[memory.written.topk(20).indices]
        for _ in range(3):
            assert torch.equal(memory(queries).slots, plain(queries).slots)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("name", "half_precision_copy"),
    # Both of each, and each lookup once: a compilation takes seconds.
    [("torch", False), ("torch", True), ("faiss", False), ("native", True), ("auto", True)],
)
def test_a_training_step_compiles_in_one_piece(name, half_precision_copy):
    eager = filled(lookup=name, half_precision_copy=half_precision_copy)
    compiled = copy.deepcopy(eager)

    def step(memory, queries, labels, mask):
        recall = memory(queries, labels, mask=mask)
        recall.loss.backward()
        written = memory.write(recall, labels, mask=mask)
        return recall.loss, written.slots, written.overwritten

    torch.compiler.reset()
    read = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    write = torch.compile(compiled.write, fullgraph=True, backend="aot_eager")
    for turn in range(6):
        queries, labels = batch()
        queries[turn] = 0.0
        mask = torch.rand(7) < 0.8 if turn % 2 else torch.ones(7, dtype=torch.bool)
        mine, theirs = (queries.clone().requires_grad_() for _ in range(2))
        expected = step(eager, mine, labels, mask)
        recall = read(theirs, labels, mask=mask)
        recall.loss.backward()
        written = write(recall, labels, mask=mask)
        for one, other in zip(
            expected, (recall.loss, written.slots, written.overwritten), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-6)
    for one, other in zip(eager.state, compiled.state, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    if half_precision_copy:
        assert torch.equal(compiled.half_precision_copy.keys, compiled.keys.half())


def test_a_read_compiles_for_any_batch_and_leaves_bad_rows_out():
    memory = filled()
    torch.compiler.reset()
    read = torch.compile(memory, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (2, 5, 9):
        queries, _ = batch(rows)
        queries[0] = torch.nan
        found, expected = read(queries), memory(queries)
        assert torch.equal(found.slots, expected.slots) and found.slots[0].eq(EMPTY).all()
        torch.testing.assert_close(found.weights, expected.weights)


@pytest.mark.slow
def test_the_default_compiler_makes_the_same_step():
    eager = filled()
    compiled = copy.deepcopy(eager)

    def step(memory, queries, labels):
        recall = memory(queries, labels)
        memory.write(recall, labels)
        return recall.loss

    torch.compiler.reset()
    fast = torch.compile(step, fullgraph=True)
    for _ in range(5):
        queries, labels = batch()
        torch.testing.assert_close(fast(compiled, queries, labels), step(eager, queries, labels))
    for one, other in zip(eager.state, compiled.state, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_compiled_classifier_sees_what_is_learnt_later(reader, monkeypatch):
    classifier = wrap(torch.nn.Identity(), host=False, reader=reader)
    inputs = torch.eye(6)[:4] + 0.1
    classifier.learn(inputs[:3], list("abc"))
    fits = []
    fit = forms.fit_discriminant
    monkeypatch.setattr(forms, "fit_discriminant", lambda *given: fits.append(given) or fit(*given))
    torch.compiler.reset()
    compiled = torch.compile(classifier, backend="eager")
    compiled(inputs)
    classifier.learn(inputs[3:], ["d"])
    torch.testing.assert_close(compiled(inputs), classifier(inputs))
    assert compiled(inputs).argmax(1).tolist() == [0, 1, 2, 3]
    # Once before and once after the change, and never at a mere question.
    assert len(fits) == (2 if reader == "fitted" else 0)


# Exported


@pytest.mark.parametrize("name", NAMES)
def test_a_read_is_exported_with_a_batch_of_any_size(name):
    memory = filled(lookup=name)
    program = torch.export.export(
        memory, (torch.randn(4, 6),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    for rows in (1, 4, 11):
        queries, _ = batch(rows)
        found, expected = program.module()(queries), memory(queries)
        assert torch.equal(found.slots, expected.slots)
        assert torch.equal(found.values, expected.values)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)


class Answer(torch.nn.Module):
    """A read as tensors alone: ONNX has no place for a temperature or a loss that is not there."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, queries):
        recall = self.memory(queries)
        return recall.slots, recall.scores, recall.values, recall.prediction, recall.confidence


@pytest.mark.slow
def test_onnx_gives_the_same_answers(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    memory = filled()
    program = torch.export.export(
        Answer(memory).eval(),
        (torch.randn(4, 6),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=2)},),
    ).run_decompositions(ops.decompositions())
    path = tmp_path / "memory.onnx"
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    for rows in (2, 4, 11):
        queries, _ = batch(rows)
        found = session.run(None, {asked.name: queries.numpy()})
        for mine, theirs in zip(found, Answer(memory)(queries), strict=True):
            torch.testing.assert_close(torch.from_numpy(mine), theirs)


# Without a wait of the host


@pytest.mark.parametrize("mask", [False, True])
def test_on_a_gpu_nothing_of_a_step_waits_for_a_number(monkeypatch, mask):
    """On tensors of a GPU that hold nothing, any look at a number is an error."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with FakeTensorMode():
        memory = Memory(6, 40, k=5, validate=False, half_precision_copy=True).to("cuda")
        queries = torch.randn(7, 6, device="cuda")
        labels = torch.zeros(7, dtype=torch.int64, device="cuda")
        rows = torch.ones(7, dtype=torch.bool, device="cuda") if mask else None
        recall = memory(queries, labels, mask=rows)
        assert memory.write(recall, labels, mask=rows).slots.shape == (7,)
        assert memory.write(queries, labels, mask=rows).slots.shape == (7,)
        assert memory(queries, mask=rows).weights.shape == (7, 5)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            recall.loss.item()
