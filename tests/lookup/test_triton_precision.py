"""How far a score of the Triton search may err, and that what is kept in half bits is exact."""

import numpy as np
import pytest
import torch

from rarememory.lookup.triton_plan import error
from tests.lookup.test_nearest import units
from tests.lookup.test_triton import DEVICE, KINDS, own_best, tight, triton, with_holes

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture
def bfloat16(monkeypatch):
    """The interpreter takes bfloat16 for integers when it multiplies, and cuts it off, not rounds.

    Here it does as a chip.
    """
    if DEVICE == "cuda":
        return
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    convert, multiply = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounded(numbers, source, target, mode):
        if target.scalar == bfloat16:
            digits = numbers.view(np.uint32)
            numbers = (digits + 0x7FFF + (digits >> 16 & 1)).view(np.float32)
        return convert(numbers, source, target, mode)

    def wide(handle):
        if handle.dtype.scalar != bfloat16:
            return handle
        digits = handle.data.view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(digits.view(np.float32), float32)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)
    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda self, a, b, *rest: multiply(self, wide(a), wide(b), *rest),
    )


@pytest.mark.parametrize("kind", ["units", "few", "tight"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keys_are_ordered_by_their_exact_scores(bfloat16, kind, dtype):
    keys, queries = KINDS[kind](301, 17).to(dtype), units(3, 17).to(dtype)
    keys, occupied = with_holes(keys, 40)
    for k in (1, 7, 20):
        found, best = (
            triton().nearest(queries, keys, occupied, k),
            own_best(queries, keys, occupied, k),
        )
        assert torch.equal(found.sort(1).values, best.sort(1).values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_pair_of_half_precision_keys_is_that_of_their_exact_scores(bfloat16, dtype):
    keys, queries = tight(301, 17).to(dtype), units(3, 17).to(dtype)
    values, labels = torch.randint(0, 3, (301,)), torch.tensor([0, 1, 5])
    positive, negative = triton().nearest_pair(queries, keys, values, labels)
    right = values == labels.unsqueeze(1)
    for row in range(3):
        for slot, among in ((positive, right), (negative, ~right)):
            assert slot[row] == own_best(queries[row : row + 1], keys, among[row], 1)


@pytest.mark.parametrize("key_dim", [2, 3, 64, 1000])
@pytest.mark.parametrize(
    ("streamed", "keys"),
    [
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_no_streamed_score_errs_by_more_than_is_allowed_for(key_dim, streamed, keys):
    generator = torch.Generator("cpu").manual_seed(0)
    worst = 0.0
    for _ in range(20):
        drawn = torch.randn(2, 50, key_dim, generator=generator, device="cpu")
        drawn[:, 25:] = drawn[0, 25:] + 1e-3 * drawn[1, 25:]
        q, k = torch.nn.functional.normalize(drawn, dim=2)
        k = k.to(keys)
        own = q.double() @ k.double().T
        rough = [as_streamed(rows, streamed).double() for rows in (q, k)]
        worst = max(worst, float((rough[0] @ rough[1].T - own).abs().max()))
    allowed = error(key_dim, streamed, 0)
    assert allowed / 100 < worst <= allowed


def as_streamed(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype != torch.float32:
        return rows.to(dtype)
    # tf32 reads the upper 19 bits, and may well drop the others.
    return (rows.view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_a_tile_number_in_the_low_bits_is_allowed_for():
    scores = torch.linspace(-1, 1, 10001, device="cpu")
    for tile_bits in (1, 5, 9):
        for tile in (0, 2**tile_bits - 1):
            put = (scores.view(torch.int32) & (-1 << tile_bits)) | tile
            off = (put.view(torch.float32) - scores).abs().max()
            with_tile, without = (error(64, torch.float16, number) for number in (tile_bits, 0))
            assert off <= with_tile - without + 2**-23
