"""What is remembered beside keys in C++: what torch gives in doubles, on every instruction set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rarememory
from rarememory import EMPTY, native
from rarememory.classifier.beside_keys import UNKNOWN, norms_of
from rarememory.classifier.discriminant import fit_discriminant
from rarememory.classifier.ensembler import SUREST, Ensembler

pytestmark = pytest.mark.usefixtures("instruction_set")

SIZES = {"seed": st.integers(0, 2**20), "batch": st.integers(0, 5), "width": st.integers(1, 70)}


def for_torch(logits: Tensor) -> Tensor:
    """The same numbers, in a form that the library does not read."""
    return torch.stack([logits, logits], dim=2)[:, :, 0]


@settings(deadline=None, max_examples=60)
@given(**SIZES, exponent=st.integers(-12, 12))
def test_norms_are_those_of_torch(seed, batch, width, exponent):
    features = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))
    features *= 10.0**exponent
    norms = norms_of(features)
    assert norms.dtype == torch.float32
    assert torch.allclose(norms.double(), features.double().norm(dim=1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("number, norm", [(0.0, 1e-15), (3e38, 1e15), (torch.inf, 1e15)])
def test_a_length_beyond_what_can_be_squared_counts_as_the_last_that_can(number, norm):
    assert norms_of(torch.full((2, 9), number)).tolist() == [torch.tensor(norm).item()] * 2


def test_a_row_with_what_is_not_a_number_has_no_length():
    assert norms_of(torch.tensor([[3.0, 4.0], [1.0, torch.nan]])).isnan().tolist() == [False, True]


def test_norms_pass_a_gradient_on():
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    norms_of(features).sum().backward()
    assert features.grad is not None and torch.allclose(features.grad, features.detach() / 5)


@settings(deadline=None, max_examples=60)
@given(**SIZES, forgotten=st.integers(0, 3))
def test_certainties_are_those_of_torch(seed, batch, width, forgotten):
    generator = torch.Generator().manual_seed(seed)
    logits = 9 * torch.randn(batch, width, generator=generator)
    ensembler = Ensembler(width, 0.1, 0.5)
    ensembler.host_ids[torch.randperm(width, generator=generator)[:forgotten]] = EMPTY
    left = ensembler.host_ids != EMPTY
    found, other = (ensembler.certainty(part) for part in (logits, for_torch(logits)))
    assert found is not None and other is not None and found.dtype == torch.float32
    expected = torch.tensor(UNKNOWN).double().expand(batch, 2)
    if left.any():
        known = logits.double()[:, left]
        expected = torch.stack([known.softmax(1).amax(1), known.amax(1) - known.mean(1)], 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_torch", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_certainty_that_is_not_a_number_is_not_known(bad, is_torch):
    logits = torch.tensor([[2.0, bad, 1.0], [-torch.inf, -torch.inf, -torch.inf], [0.0, 0.0, 0.0]])
    found = Ensembler(3, 0.1, 0.5).certainty(for_torch(logits) if is_torch else logits)
    assert found is not None and found[:2].tolist() == [*map(pytest.approx, [UNKNOWN] * 2)]
    assert found[2].tolist() == pytest.approx([1 / 3, 0.0])


def discriminant(rows: Tensor) -> Tensor:
    keys = torch.eye(9).repeat(2, 1) + 0.1
    return fit_discriminant(keys, torch.arange(18) % 9).logits(rows)


@pytest.mark.parametrize(
    "function",
    [norms_of, Ensembler(9, 0.1, 0.5).certainty, discriminant],
    ids=lambda f: f.__name__,
)
# Torch's own, where it first differentiates forwards.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")
def test_transforms_of_torch_use_its_operators(function):
    rows = torch.rand(3, 4, 9, generator=torch.Generator().manual_seed(0))
    each = torch.stack([function(part) for part in rows])
    torch.testing.assert_close(torch.func.vmap(function)(rows), each)
    small = 1e-3 * rows[1]
    found, change = torch.func.jvp(function, (rows[0],), (small,))
    torch.testing.assert_close(found, each[0])
    torch.testing.assert_close(change, function(rows[0] + small) - found, atol=1e-5, rtol=0.1)
    # Outside of it the library answers again.
    assert native.is_supported(rows)


def test_no_host_is_surer_than_can_be_told():
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    for logits in (sure, for_torch(sure)):
        found = Ensembler(3, 0.1, 0.5).certainty(logits)[:, 0]
        assert found.tolist() == [SUREST] and SUREST < 1
        assert (found + 2**-24).tolist() == [1.0]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")
@pytest.mark.parametrize("transform", ["jvp", "grad"])
def test_what_is_found_out_in_a_transform_is_not_kept(transform):
    rows = torch.randn(18, 30, generator=torch.Generator().manual_seed(0))
    classifier = rarememory.wrap(torch.nn.Linear(30, 3))
    classifier.learn(rows, [f"bird {row % 6}" for row in range(18)])
    if transform == "jvp":
        torch.func.jvp(classifier, (rows[:2],), (rows[:2],))
    else:
        torch.func.grad(lambda some: classifier(some).amax(1).sum())(rows[:2])
    fresh = rarememory.wrap(classifier.model)
    fresh.learn(rows, [f"bird {row % 6}" for row in range(18)])
    assert classifier.predict(rows) == fresh.predict(rows)
    assert torch.equal(classifier.predict_proba(rows).values, fresh.predict_proba(rows).values)
    assert classifier.fit_threshold() == fresh.fit_threshold()


def test_they_are_of_the_library(monkeypatch):
    called = []

    class Library:
        def __getattr__(self, name):
            called.append(name)
            return getattr(library, name)

    library = native.library()
    for module in ("beside_keys", "ensembler"):
        monkeypatch.setattr(f"rarememory.classifier.{module}.library", Library)
    norms_of(torch.rand(2, 3)), Ensembler(3, 0.1, 0.5).certainty(torch.rand(2, 3))
    assert called == ["norms", "certainty"]
