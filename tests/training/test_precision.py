"""bfloat16 where the device computes in it, and nowhere else."""

import pytest
import torch

from rarememory.training import precision
from rarememory.training.precision import WithoutBfloat16, computes_in_bfloat16
from tests.sources import PRODUCT, python_files

CPU = torch.device("cpu")


@pytest.mark.parametrize("has_instructions", [True, False])
def test_an_encoder_of_a_cpu_is_rounded_where_that_has_instructions(has_instructions, monkeypatch):
    found = {"avx512_bf16": has_instructions}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert computes_in_bfloat16(CPU) == has_instructions
    layer, rows = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with precision.encoder_autocast(CPU):
        assert layer(rows).dtype == (torch.bfloat16 if has_instructions else torch.float32)
    for wished in (True, False):
        with precision.encoder_autocast(CPU, wished):
            assert (layer(rows).dtype == torch.bfloat16) == wished


def test_an_older_torch_cannot_tell_and_is_not_asked_to_round(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bfloat16(CPU)


@pytest.mark.parametrize(("capability", "has_instructions"), [((7, 5), False), ((9, 0), True)])
def test_a_gpu_is_asked_how_new_it_is(capability, has_instructions, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_in_bfloat16(torch.device("cuda")) == has_instructions


def test_what_would_be_rounded_is_copied_and_all_else_is_as_it_was():
    rows = torch.tensor([1.001, 2.0])
    with WithoutBfloat16():
        copies = [rows.bfloat16(), rows.to(torch.bfloat16), rows.to(dtype=torch.bfloat16)]
        halves, doubled = rows.to(torch.float16), rows * 2
    for copy in copies:
        assert torch.equal(copy, rows) and copy.dtype == torch.float32
        assert copy.data_ptr() != rows.data_ptr()
    assert halves.dtype == torch.float16 and torch.equal(doubled, rows + rows)
    assert rows.bfloat16().dtype == torch.bfloat16


def test_nothing_else_uses_autocast():
    lines = [
        (path.name, line.strip())
        for path in python_files(*PRODUCT)
        for line in path.read_text(encoding="utf-8").splitlines()
        if ".autocast(" in line and "enabled=False" not in line
    ]
    assert [name for name, _ in lines] == ["precision.py"], lines
