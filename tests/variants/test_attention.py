"""Attention within classes, against loops, and at the ends of its temperature."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

import rarememory
from rarememory import EMPTY, FirstInFirstOut, MeanMemory, Memory, class_attention
from rarememory.variants import attention
from tests.memories import NewTensors, bits, holding
from tests.oracle import class_attention_scores


def drawn(seed, n_keys, key_dim=3, classes=4):
    generator = torch.Generator().manual_seed(seed)
    keys = normalize(torch.randn(n_keys, key_dim, generator=generator), dim=1)
    values = torch.randint(0, 3 * classes, (n_keys,), generator=generator) // 3
    return keys, values.tolist(), torch.randn(5, key_dim, generator=generator)


@given(
    seed=st.integers(0, 2**31),
    n_keys=st.integers(1, 20),
    temperature=st.sampled_from([0.05, 0.4, 3.0]),
    hubness_correction=st.sampled_from([0.0, 0.15, 2.0]),
    cells=st.sampled_from([1, 30, 2**24]),
)
def test_scores_are_what_loops_over_the_keys_of_each_class_say(
    seed, n_keys, temperature, hubness_correction, cells
):
    keys, values, queries = drawn(seed, n_keys)
    # Room is left, and before what is there as well as behind it.
    memory = holding(torch.cat([keys[:1], keys]), [EMPTY, *values], memory_size=n_keys + 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORES_AT_ONCE", cells)
        found = class_attention(
            memory, queries, temperature=temperature, hubness_correction=hubness_correction
        )
    for query, scores, answer in zip(queries, found.scores, found.prediction, strict=True):
        expected = class_attention_scores(
            keys.tolist(), values, query.tolist(), temperature, hubness_correction
        )
        assert found.classes.tolist() == list(expected)
        assert scores.tolist() == pytest.approx(list(expected.values()), abs=1e-4)
        assert expected[int(answer)] == pytest.approx(max(expected.values()), abs=1e-4)


def test_a_hot_class_is_its_mean_and_a_cold_one_its_nearest_key():
    keys, values, queries = drawn(1, 12)
    memory = holding(keys, values)
    means = MeanMemory(3, 12)
    means.write(keys, torch.tensor(values))
    assert torch.equal(
        class_attention(memory, queries, temperature=1e6).prediction, means(queries).prediction
    )
    cold = class_attention(memory, queries, temperature=1e-4)
    assert torch.equal(cold.prediction, memory(queries).prediction)
    nearest = memory(queries).scores[:, 0]
    torch.testing.assert_close(cold.scores.amax(1), nearest, atol=1e-5, rtol=0)


def test_with_one_key_a_class_the_scores_are_cosines():
    keys, _, queries = drawn(2, 7)
    found = class_attention(holding(keys, [9, 4, 6, 2, 0, 7, 1]), queries)
    assert found.classes.tolist() == [0, 1, 2, 4, 6, 7, 9]
    cosines = normalize(queries, dim=1) @ keys[[4, 6, 3, 1, 2, 5, 0]].T
    torch.testing.assert_close(found.scores, cosines)


def test_a_class_of_two_kinds_is_known_where_its_mean_is_not():
    keys = normalize(torch.tensor([[1.0, 0.9, 0.0], [-1.0, 0.9, 0.0], [0.6, 1.0, 0.5]]), dim=1)
    memory, query = holding(keys, [3, 3, 5]), keys[:1] + 0.1
    assert class_attention(memory, query, temperature=1e6).prediction == 5
    assert class_attention(memory, query).prediction == 3


def test_a_class_amid_others_answers_less_often_once_its_hubness_is_taken_off():
    def towards(*degrees):
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    # Class 2 has two others beside it, and class 3 none.
    memory = holding(towards(0.0, 26.0, 37.0, 66.0, 90.0, 30.0), [0, 1, 2, 3, 4, 5])
    query = towards(50.0)
    assert class_attention(memory, query).prediction == 2
    assert class_attention(memory, query, hubness_correction=0.3).prediction == 3


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("left", [0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_keys_that_cancel_score_no_more_than_a_cosine(left, pairs):
    # Four pairs are more keys than they are wide: such a class is asked in another way.
    one, query = normalize(torch.tensor([[1.0, 2.0, 3.0], [2.0, -1.0, 0.0]]), dim=1)
    keys = torch.stack([one, -one] * pairs) + left * query
    memory = holding(torch.cat([keys, torch.eye(3)[:1]]), [1] * 2 * pairs + [2])
    length = left / (1 + left**2) ** 0.5
    score = class_attention(memory, query).scores[0].item()
    assert score == pytest.approx(min(1.0, length / 0.01), abs=2e-3)


def test_keys_that_cancel_but_for_rounding_add_no_hubness():
    third = normalize(torch.tensor([[1.0, 2.0, 3.0]]), dim=1)
    keys = torch.cat([third, -third + torch.tensor([[1e-7, 0.0, 0.0]]), torch.eye(3)[:1]])
    plain = class_attention(holding(keys, [1, 1, 2]), third)
    scaled = class_attention(holding(keys, [1, 1, 2]), third, hubness_correction=1.0)
    assert (plain.scores - scaled.scores)[0, 0].abs() < 1e-3


def test_a_class_of_many_keys_needs_no_cosine_of_each_pair_of_them():
    memory, queries = holding(torch.randn(900, 8), [1] * 900), torch.randn(3, 8)
    with NewTensors(memory.keys) as new:
        class_attention(memory, queries, hubness_correction=0.5)
    assert new.largest <= 900 * 8


def test_autocast_rounds_nothing():
    keys, values, queries = drawn(6, 12)
    memory = holding(keys, values)
    with torch.autocast("cpu", torch.bfloat16):
        found = class_attention(memory, queries, hubness_correction=0.5)
    assert torch.equal(
        found.scores, class_attention(memory, queries, hubness_correction=0.5).scores
    )


def test_an_empty_memory_answers_nothing():
    found = class_attention(Memory(3, 4), torch.ones(2, 3), hubness_correction=1.0)
    assert found.scores.shape == (2, 0) and found.prediction.tolist() == [EMPTY, EMPTY]


def test_no_queries_find_nothing():
    found = class_attention(holding(torch.eye(3), [1, 2, 2]), torch.ones(0, 3))
    assert found.scores.shape == (0, 2) and found.prediction.shape == (0,)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_answers_have_the_shape_of_the_queries(shape):
    found = class_attention(holding(torch.eye(3), [1, 2, 2]), torch.randn(*shape, 3))
    assert found.scores.shape == (*shape, 2) and found.prediction.shape == shape


def test_a_row_that_the_memory_leaves_out_answers_nothing():
    memory = holding(torch.eye(2), [1, 2], validate=False)
    found = class_attention(memory, torch.tensor([[0.0, 0.0], [1.0, 0.1]]))
    assert found.prediction.tolist() == [EMPTY, 1]


def test_it_changes_nothing_and_sees_what_a_memory_projects():
    torch.manual_seed(0)
    memory = Memory(3, 8, projection=True, update=FirstInFirstOut())
    torch.nn.init.normal_(memory.projection.weight)
    memory.write(torch.randn(8, 3), torch.randint(0, 3, (8,)))
    before, queries = bits(memory), torch.randn(4, 3)
    found = class_attention(memory, queries)
    assert bits(memory) == before
    projected = memory.projection(queries)
    memory.projection = None
    torch.testing.assert_close(class_attention(memory, projected).scores, found.scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keys_of_every_kind(dtype):
    keys, values, queries = drawn(4, 9)
    memory = Memory(3, 9, key_dtype=dtype, update=FirstInFirstOut())
    memory.write(keys, torch.tensor(values))
    found = class_attention(memory, queries.to(dtype), hubness_correction=0.5)
    wide = holding(memory.keys.float(), memory.values.tolist())
    again = class_attention(wide, queries.to(dtype), hubness_correction=0.5)
    torch.testing.assert_close(found.scores.float(), again.scores, atol=2e-2, rtol=0)


def test_gradients_reach_the_queries():
    keys, values, queries = drawn(5, 9)
    memory = holding(keys.double(), values)
    assert torch.autograd.gradcheck(
        lambda asked: class_attention(memory, asked).scores, queries.double().requires_grad_()
    )


def test_bad_numbers_are_refused_in_a_sentence(unchecked):
    memory = holding(torch.eye(2), [1, 2])
    with pytest.raises(ValueError, match="temperature must be a positive number, not 0"):
        class_attention(memory, torch.ones(1, 2), temperature=0)
    with pytest.raises(
        ValueError, match="hubness_correction must be 0 or a positive number, not -1"
    ):
        class_attention(memory, torch.ones(1, 2), hubness_correction=-1)
    with pytest.raises(ValueError, match="hubness_correction must be a finite number, not inf"):
        class_attention(memory, torch.ones(1, 2), hubness_correction=torch.inf)
    with pytest.raises(ValueError, match="queries have width 3"):
        class_attention(memory, torch.ones(1, 3))


def test_the_old_names_work_with_a_warning():
    memory = holding(torch.eye(2), [1, 2])
    with pytest.warns(DeprecationWarning, match="rarememory.attended is now class_attention;"):
        old = rarememory.attended
    with pytest.warns(DeprecationWarning, match="is now ClassScores;"):
        assert rarememory.Attended is rarememory.ClassScores
    with pytest.warns(DeprecationWarning, match=r"\(crowding=\) is now .*\(hubness_correction=\)"):
        found = old(memory, torch.ones(2), crowding=0.5)
    expected = class_attention(memory, torch.ones(2), hubness_correction=0.5)
    assert torch.equal(found.scores, expected.scores)
