"""Bad numbers and policies: one sentence with what was wrong and what is right."""

import re

import numpy as np
import pytest
import torch

from rarememory import (
    AverageOrReplace,
    Memory,
    class_attention,
)
from tests.memory.test_bad_input import LABELS, ROWS, memory, refused

pytestmark = pytest.mark.usefixtures("unchecked")


def test_bad_numbers_of_the_constructor_are_refused():
    for options, sentence in [
        ({"key_dim": 0}, "key_dim must be an integer of at least 1, not 0"),
        ({"key_dim": -2}, "key_dim must be an integer of at least 1, not -2"),
        ({"memory_size": 0}, "memory_size must be an integer of at least 1, not 0"),
        ({"k": 0}, "k must be an integer of at least 1, not 0"),
        ({"k": 2.5}, "k must be an integer of at least 1, not 2.5"),
        ({"seed": 2**63}, "seed must be an integer of 64 bits, not 9223372036854775808"),
        ({"seed": 1.5}, "seed must be an integer of 64 bits, not 1.5"),
        ({"margin": -0.5}, "margin must be 0 or a positive number, not -0.5"),
        ({"margin": float("nan")}, "margin must be 0 or a positive number, not nan"),
        ({"margin": float("inf")}, "margin must be a finite number, not inf"),
        ({"temperature": 0}, "temperature must be a positive number, not 0"),
        ({"temperature": -1.0}, "temperature must be a positive number, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be a positive number, not nan"),
        (
            {"lookup": "hnsw"},
            'no lookup is called \'hnsw\'; choose "auto", "triton", "native", "faiss", "torch"',
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            Memory(**{"key_dim": 4, **options})
    for noise in (-1.0, float("inf"), float("nan"), True, 10**400, "8"):
        with pytest.raises(ValueError, match=f"age_noise must be .* number, not {noise!r}"):
            AverageOrReplace(noise)
    assert Memory(1, 1, k=1, margin=0.0).update == AverageOrReplace()


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"update must be a policy .* not 'fifo'"):
        Memory(4, update="fifo")
    with pytest.raises(ValueError, match="margin must be 0 or a positive number, not 'a'"):
        Memory(4, margin="a")


@pytest.mark.parametrize("temperature", [1e-300, 1e-39, 1e39, torch.inf])
def test_a_temperature_that_float32_does_not_hold_is_refused(temperature):
    sentence = "temperature must be from 1.18e-38 to 3.4e+38, the range of float32, not"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Memory(4, temperature=temperature)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        class_attention(memory(), ROWS, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.2e-38, 3.4e38])
def test_any_temperature_that_float32_holds_gives_weights(temperature):
    filled = Memory(4, 9, temperature=temperature)
    filled.write(ROWS, LABELS)
    weights = filled(ROWS, k=3).weights
    assert torch.allclose(weights.sum(1), torch.ones(3))
    assert class_attention(filled, ROWS, temperature=temperature).scores.isfinite().all()


@pytest.mark.parametrize("lookup", ["auto", "torch", "native", "faiss"])
def test_a_count_may_be_an_integer_of_numpy(lookup):
    filled = Memory(np.int64(4), np.int32(9), k=np.int64(2), lookup=lookup)
    filled.write(ROWS, LABELS)
    assert filled(ROWS).slots.shape == filled(ROWS, k=np.int64(2)).slots.shape == (3, 2)
    filled.resize(np.int64(5))


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(value):
    for name in ("key_dim", "memory_size", "k"):
        said = f"{name} must be an integer of at least 1, not {value!r}"
        with pytest.raises(ValueError, match=said):
            Memory(**{"key_dim": 4, name: value})
    for name in ("margin", "temperature", "seed"):
        with pytest.raises(ValueError, match=f"{name} must be .*, not {value!r}"):
            Memory(4, **{name: value})


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True, False])
def test_a_read_and_a_resize_refuse_what_is_no_count(count):
    filled, sentence = memory(), f"must be an integer of at least 1, not {count!r}"
    for labels in (None, LABELS):
        refused(filled, lambda labels=labels: filled(ROWS, labels, k=count), f"k {sentence}")
    refused(filled, lambda: filled.resize(count), f"memory_size {sentence}")
