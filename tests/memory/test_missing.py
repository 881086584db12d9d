"""Without a package or a library: what is missing is named, and replaced by nothing in silence."""

import functools
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from rarememory import (
    Lookup,
    Memory,
    native,
)
from tests.memory.test_bad_input import LABELS, ROWS, memory, refused

pytestmark = pytest.mark.usefixtures("unchecked")


def without_faiss(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "faiss" else find(name)
    )


def without_library(monkeypatch) -> None:
    # The reason is found once in a process; here it is found anew, and so it will be afterwards.
    made = functools.cache(native._made.__wrapped__)
    monkeypatch.setattr(native, "_made", made)
    monkeypatch.setattr(native, "_FILE", Path("none.so"))


def test_a_missing_library_is_named(monkeypatch):
    without_library(monkeypatch)
    sentence = "the package was built without a C++ compiler, so it has no native searches"
    with pytest.raises(ImportError, match=re.escape(sentence)):
        Memory(4, lookup="native")


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    without_faiss(monkeypatch)
    sentence = 'faiss is not installed; run: pip install "rarememory[faiss]"'
    with pytest.raises(ImportError, match=re.escape(sentence)):
        Memory(4, lookup="faiss")


def test_auto_does_without_a_missing_package(monkeypatch):
    filled = memory()
    names = [lookup.name for lookup in filled.lookup.lookups]
    assert names == ["triton", "native", "faiss", "torch"]
    without_faiss(monkeypatch)
    without_library(monkeypatch)
    without = memory()
    assert [lookup.name for lookup in without.lookup.lookups] == ["triton", "torch"]
    for mine, theirs in zip(filled(ROWS)[:4], without(ROWS)[:4], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("lookup", ["faiss", "native"])
def test_a_named_lookup_that_cannot_serve_never_falls_back_silently(lookup):
    filled = Memory(4, 9, lookup=lookup).double()
    sentence = f"{lookup} searches float32 keys, and these are torch.float64"
    refused(filled, lambda: filled(ROWS), sentence)
    refused(filled, lambda: filled(ROWS, LABELS), sentence)
    refused(filled, lambda: filled.write(ROWS, LABELS), sentence)
    filled = Memory(4, 9, lookup=lookup).to("meta")
    reason = filled.lookup.why_not(ROWS, filled.keys, 1)
    assert reason == f"{lookup} searches on the cpu, and the keys are on meta"


def test_auto_that_cannot_serve_lists_every_refusal():
    class Never(Lookup):
        def __init__(self, name: str) -> None:
            self.name = name

        def nearest(self, queries, keys, occupied, k):
            raise AssertionError

        def why_not(self, queries, keys, k):
            return f"{self.name} will not find {k} of {len(keys)}"

    filled = memory()
    filled.lookup.lookups = [Never("one"), Never("two")]
    sentence = "no lookup supports this call: one will not find 3 of 9; two will not find 3 of 9"
    refused(filled, lambda: filled(ROWS), sentence)
    with pytest.raises(ValueError, match=sentence):
        filled.lookup.nearest(ROWS, filled.keys, filled.values >= 0, 3)
