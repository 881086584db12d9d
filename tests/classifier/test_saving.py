"""Files, checkpoints and copies hold the whole state; a file is whole or it is refused."""

import json
import os
import pickle
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from classifiers import at, bare, everything, hosted
from safetensors.torch import load_file, save_file
from torch import nn

from rarememory import AverageOrReplace, FirstInFirstOut, MeanMemory, Memory, MemoryClassifier
from rarememory.classifier import persistence
from rarememory.classifier.persistence import read_file, write_file

LABELS = ["kea", 7, True, 2.5, None, ("weka", (1, False))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "birds.safetensors"


def used(memory_size=8, **options):
    """A classifier that has learnt, forgotten and been fitted."""
    classifier = hosted(3 * at(0, 120, 240), memory_size, classes=["a", "b", "c"], **options)
    classifier.learn(at(*range(0, 360, 60)), LABELS, [1, "p", ("q", 2), None, 2.5, False])
    classifier.learn(at(10)[0], "kea", "averaged")
    classifier.forget(7, "b")
    classifier.fit_threshold(unknown=at(45, 46, 100), false_accept_rate=0.3)
    classifier.calibrate(at(5, 110), ["kea", True])
    return classifier


def over(memory, **options):
    """A classifier without a host over this memory, which has learnt two classes."""
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=memory, **options)
    classifier.learn(at(0, 40, 90), ["kea", "kea", "weka"])
    return classifier


def version_1(classifier, path):
    """A file with the names of tensors of version 1, which did not name the memory's class."""
    classifier.save(path)
    tensors, header = read_file(path)
    header.pop("memory_class")
    header.pop("reader", None)
    header["book"].pop("reader", None)
    old = {"weights": "weighing", "threshold": "threshold", "host_ids": "host_ids"}
    for new, name in old.items():
        tensors[name] = tensors.pop(f"ensembler.{new}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistence, "VERSION", 1)
        write_file(path, tensors, header)


@pytest.mark.parametrize(
    ("save", "reader"),
    [(MemoryClassifier.save, "nearest"), (MemoryClassifier.save, "fitted"), (version_1, "nearest")],
)
def test_a_classifier_from_a_file_is_the_same_and_learns_the_same(path, save, reader):
    classifier = used(unknown=("no", 1), batch_size=3, reader=reader)
    save(classifier, path)
    again = MemoryClassifier.load(path, classifier.model)
    assert everything(again) == everything(classifier)
    assert again.unknown == ("no", 1) and again.batch_size == 3 and again.extractor.at == "1"
    inputs = at(*range(0, 360, 15))
    assert again.reader.name == reader
    assert again.predict(inputs) == classifier.predict(inputs)
    assert again.explain(inputs) == classifier.explain(inputs)
    assert [*map(type, again.classes)] == [*map(type, classifier.classes)]
    for one in (classifier, again):
        one.learn(at(*range(5, 360, 40)), list("defghijkl"), list("DEFGHIJKL"))
    assert everything(again) == everything(classifier)


@pytest.mark.parametrize("save", ["file", "version 1", "state_dict"])
def test_a_memory_of_means_comes_back_as_one_and_learns_the_same(path, save):
    # Version 1 knew no other reader.
    classifier = over(MeanMemory(2, 4), reader="nearest" if save == "version 1" else "fitted")
    if save == "state_dict":
        again = MemoryClassifier(nn.Identity(), host=False, memory=MeanMemory(2, 4))
        again.load_state_dict(classifier.state_dict())
    else:
        version_1(classifier, path) if save == "version 1" else classifier.save(path)
        again = MemoryClassifier.load(path, nn.Identity())
    assert type(again.memory) is MeanMemory
    for one in (classifier, again):
        one.learn(at(170, 100), ["kea", "weka"])
    assert torch.equal(again.memory.lengths, classifier.memory.lengths)
    assert everything(again) == everything(classifier)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
@pytest.mark.parametrize("read", ["state_dict", "get_extra_state", "save"])
def test_reading_the_state_changes_nothing(path, read, reader):
    classifier = used(reader=reader)
    classes = classifier.classes
    keas = [one.slot for one in classifier.examples() if one.label == "kea"]
    with classifier.memory.snapshot():
        classifier.memory.forget(slots=keas)
        assert classifier.classes == [label for label in classes if label != "kea"]
        getattr(classifier, read)(*([path] if read == "save" else []))
    assert classifier.classes == classes
    refs = [ref for one in classifier.examples() if one.label == "kea" for ref in one.refs]
    assert refs == [1, "averaged"]


def test_the_settings_of_the_memory_are_in_the_file(path):
    options = {"k": 3, "margin": 0.2, "temperature": 0.5, "subtract_margin": True, "seed": 9}
    memory = Memory(2, 5, update=AverageOrReplace(2.5), projection=True, validate=False, **options)
    over(memory).save(path)
    again = MemoryClassifier.load(path, nn.Identity(), lookup="torch").memory
    assert (again.k, again.margin, again.temperature, again.subtract_margin) == (3, 0.2, 0.5, True)
    assert again.update == AverageOrReplace(2.5) and not again.validate and again.seed == 9
    assert torch.equal(again.projection.weight, memory.projection.weight)
    assert again.lookup.name == "torch"


def test_a_projection_beside_half_keys_keeps_its_own_precision(path):
    memory = Memory(2, 5, projection=True, key_dtype=torch.float16)
    MemoryClassifier(nn.Identity(), host=False, memory=memory).save(path)
    again = MemoryClassifier.load(path, nn.Identity()).memory
    assert again.keys.dtype == torch.float16
    assert torch.equal(again.projection.weight, memory.projection.weight)


@dataclass(frozen=True)
class OwnPolicy(FirstInFirstOut):
    pass


class OwnMemory(Memory):
    pass


@pytest.mark.parametrize(
    ("memory", "said", "given"),
    [
        (
            Memory(2, 4, update=OwnPolicy()),
            "OwnPolicy, which is not ours: give update=",
            {"update": OwnPolicy()},
        ),
        (
            OwnMemory(2, 4),
            "OwnMemory, which is not ours: give memory_class=",
            {"memory_class": OwnMemory},
        ),
    ],
)
def test_what_is_not_of_this_package_has_to_be_given_again(path, memory, said, given):
    over(deepcopy(memory)).save(path)
    with pytest.raises(ValueError, match=said):
        MemoryClassifier.load(path, nn.Identity())
    again = MemoryClassifier.load(path, nn.Identity(), **given)
    assert type(again.memory) is type(memory) and type(again.memory.update) is type(memory.update)
    assert again.predict(at(0)) == ["kea"]


def test_the_file_holds_no_weight_of_the_model_and_its_header_is_json(path):
    used().save(path)
    assert set(load_file(path)) == {
        "memory.keys", "memory.values", "memory.written", "memory.clock", "memory.seed",
            "memory.norms", "memory.confidences", "memory.max_logits",
        "ensembler.weights", "ensembler.threshold", "ensembler.host_ids", "fingerprint",
    }  # fmt: skip
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "rarememory.classifier" and metadata["version"] == "2"
    names = json.loads(metadata["header"])["book"]["names"]["labels"]
    assert [name for _, name in names][:3] == ["a", "c", "kea"]


def test_a_new_file_has_the_permissions_that_open_gives(path):
    used().save(path)
    path.with_suffix(".txt").touch()
    assert path.stat().st_mode == path.with_suffix(".txt").stat().st_mode


def test_a_truncated_file_is_refused(path):
    used().save(path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no safetensors file, or only a part of one"):
            read_file(path)


def test_a_file_of_another_kind_or_a_newer_one_is_refused(path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MemoryClassifier.load(path, nn.Identity())
    path.write_bytes(pickle.dumps({"keys": [1, 2, 3]}))
    with pytest.raises(ValueError, match="no safetensors file"):
        MemoryClassifier.load(path, nn.Identity())
    for metadata in (None, {"format": "pt"}):
        save_file({"keys": torch.eye(2)}, path, metadata)
        with pytest.raises(ValueError, match="no memory of a classifier"):
            MemoryClassifier.load(path, nn.Identity())
    with monkeypatch.context() as patch:
        patch.setattr(persistence, "VERSION", 3)
        used().save(path)
    with pytest.raises(ValueError, match="of version 3, and this rarememory reads up to 2"):
        MemoryClassifier.load(path, nn.Identity())


def test_a_file_that_lacks_a_part_is_refused(path):
    classifier = used()
    classifier.save(path)
    tensors, header = read_file(path)
    del tensors["memory.values"]
    write_file(path, tensors, header)
    with pytest.raises(ValueError, match=r"has nothing for memory\.values"):
        MemoryClassifier.load(path, classifier.model)
    tensors["memory.values"] = torch.zeros(3, dtype=torch.int64)
    write_file(path, tensors, header)
    with pytest.raises(ValueError, match=r"has \[3\] for memory\.values, and it must be \[8\]"):
        MemoryClassifier.load(path, classifier.model)


def test_another_model_is_refused(path):
    used().save(path)
    with pytest.raises(ValueError, match="has no layer '1'"):
        MemoryClassifier.load(path, nn.Linear(2, 3))
    with pytest.raises(ValueError, match="width 5 enter '1', and the memory's have 2"):
        MemoryClassifier.load(path, nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3)))


def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    classifier = used()
    classifier.save(path)
    before = path.read_bytes()
    classifier.learn(at(300), ["kiwi"])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(os, "replace", fail)
        classifier.save(path)
    # As an older version learnt it.
    classifier._book.put_refs(0, (frozenset({"weka"}),))
    with pytest.raises(ValueError, match="is a frozenset"):
        classifier.save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("old_names", [False, True])
def test_a_state_dict_holds_the_whole_state(path, old_names):
    classifier = used()
    state = classifier.state_dict()
    if old_names:
        renamed = {"ensembler.weights": "weighing", "ensembler.": "", "extractor.": "host."}
        for new, old in renamed.items():
            state = {name.replace(new, old): part for name, part in state.items()}
        assert {"weighing", "threshold", "host_ids", "host.model.1.weight"} <= state.keys()
    save_file(state, path)
    again = hosted(torch.zeros(3, 2), classes=["x", "y", "z"])
    again.load_state_dict(load_file(path))
    assert everything(again) == everything(classifier)
    assert again.predict(at(0, 60, 120)) == classifier.predict(at(0, 60, 120))


@pytest.mark.parametrize("memory_size", [3, 12])
def test_a_checkpoint_of_another_size_brings_its_refs_along(memory_size):
    classifier = bare()
    for place, name in enumerate("abcde"):
        classifier.learn(at(70 * place), [name], [f"{name}.png"])
    classifier.forget("b")
    again = bare(memory_size)
    again.load_state_dict(classifier.state_dict())
    assert again.classes == (["c", "d", "e"] if memory_size == 3 else ["a", "c", "d", "e"])
    resized = deepcopy(classifier)
    resized.resize(memory_size)
    assert everything(again) == everything(resized)
    for row in again.explain(at(*range(0, 360, 70))):
        assert all(one.refs == (f"{one.label}.png",) for one in row)


def test_copies_are_independent():
    classifier = used()
    before = everything(classifier)
    for again in (deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert everything(again) == before
        again.learn(at(33), ["kiwi"], ["33"])
        again.forget("kea")
        assert everything(classifier) == before
