"""Files, checkpoints and copies carry all of it; a file is whole or it is refused."""

import json
import os
import pickle
import stat
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


def lived(memory_size=8, **options):
    """A classifier that has learnt, forgotten and been fitted."""
    classifier = hosted(3 * at(0, 120, 240), memory_size, classes=["a", "b", "c"], **options)
    classifier.learn(at(*range(0, 360, 60)), LABELS, [1, "p", ("q", 2), None, 2.5, False])
    classifier.learn(at(10)[0], "kea", "averaged")
    classifier.forget(7, "b")
    classifier.fit_threshold(unknown=at(45, 46, 100), false_accept_rate=0.3)
    classifier.calibrate(at(5, 110), ["kea", True])
    return classifier


def test_a_file_brings_everything_back(tmp_path):
    classifier, path = lived(unknown=("no", 1), batch_size=3), tmp_path / "birds.safetensors"
    classifier.save(path)
    again = MemoryClassifier.load(path, classifier.model)
    assert everything(again) == everything(classifier)
    assert again.unknown == ("no", 1) and again.batch_size == 3 and again.extractor.at == "1"
    inputs = at(*range(0, 360, 15))
    assert again.predict(inputs) == classifier.predict(inputs)
    assert again.explain(inputs) == classifier.explain(inputs)
    assert [*map(type, again.classes)] == [*map(type, classifier.classes)]


def test_life_goes_on_from_a_file_as_it_would_have_without(tmp_path):
    one = lived()
    one.save(tmp_path / "birds")
    other = MemoryClassifier.load(tmp_path / "birds", one.model)
    for classifier in (one, other):
        classifier.learn(at(*range(5, 360, 40)), list("defghijkl"), list("DEFGHIJKL"))
    assert everything(one) == everything(other)


def test_the_settings_of_the_memory_are_in_the_file(tmp_path):
    options = {"k": 3, "margin": 0.2, "temperature": 0.5, "subtract_margin": True, "seed": 9}
    memory = Memory(2, 5, update=AverageOrReplace(2.5), projection=True, validate=False, **options)
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=memory)
    classifier.learn(at(0, 90), ["kea", "weka"])
    classifier.save(tmp_path / "birds")
    again = MemoryClassifier.load(tmp_path / "birds", nn.Identity(), lookup="torch").memory
    assert (again.k, again.margin, again.temperature, again.subtract_margin) == (3, 0.2, 0.5, True)
    assert again.update == AverageOrReplace(2.5) and not again.validate and again.seed == 9
    assert torch.equal(again.projection.weight, memory.projection.weight)
    assert again.lookup.name == "torch"


def test_a_projection_beside_half_keys_keeps_its_own_precision(tmp_path):
    memory = Memory(2, 5, projection=True, key_dtype=torch.float16)
    MemoryClassifier(nn.Identity(), host=False, memory=memory).save(tmp_path / "birds")
    again = MemoryClassifier.load(tmp_path / "birds", nn.Identity()).memory
    assert again.keys.dtype == torch.float16
    assert torch.equal(again.projection.weight, memory.projection.weight)


@dataclass(frozen=True)
class KeepAll(FirstInFirstOut):
    pass


def test_a_policy_of_ones_own_has_to_be_given_again(tmp_path):
    classifier = bare(update=KeepAll())
    classifier.learn(at(0), ["kea"])
    classifier.save(tmp_path / "birds")
    with pytest.raises(ValueError, match="KeepAll, which is not ours: give update="):
        MemoryClassifier.load(tmp_path / "birds", nn.Identity())
    again = MemoryClassifier.load(tmp_path / "birds", nn.Identity(), update=KeepAll())
    assert again.predict(at(0)) == ["kea"]


def test_the_file_holds_no_weight_of_the_model(tmp_path):
    lived().save(tmp_path / "birds")
    assert set(load_file(tmp_path / "birds")) == {
        "memory.keys", "memory.values", "memory.written", "memory.clock", "memory.seed",
        "ensembler.weights", "ensembler.threshold", "ensembler.host_ids",
    }  # fmt: skip


def test_a_truncated_file_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "birds"
    lived().save(path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no safetensors file, or only a part of one"):
            read_file(path)


def test_a_foreign_file_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "birds"
    path.write_bytes(pickle.dumps({"keys": [1, 2, 3]}))
    with pytest.raises(ValueError, match="no safetensors file"):
        MemoryClassifier.load(path, nn.Identity())
    for metadata in (None, {"format": "pt"}):
        save_file({"keys": torch.eye(2)}, path, metadata)
        with pytest.raises(ValueError, match="no memory of a classifier"):
            MemoryClassifier.load(path, nn.Identity())
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MemoryClassifier.load(tmp_path / "bird", nn.Identity())


def test_a_newer_file_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(persistence, "VERSION", 3)
    lived().save(tmp_path / "birds")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of version 3, and this rarememory reads up to 2"):
        MemoryClassifier.load(tmp_path / "birds", nn.Identity())


def test_a_file_that_lacks_a_part_is_refused(tmp_path):
    path = tmp_path / "birds"
    classifier = lived()
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


def test_another_model_is_refused(tmp_path):
    lived().save(tmp_path / "birds")
    with pytest.raises(ValueError, match="has no layer '1'"):
        MemoryClassifier.load(tmp_path / "birds", nn.Linear(2, 3))
    with pytest.raises(ValueError, match="width 5 enter '1', and the memory's have 2"):
        MemoryClassifier.load(tmp_path / "birds", nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3)))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path, classifier = tmp_path / "birds", lived()
    classifier.save(path)
    before = path.read_bytes()
    classifier.learn(at(300), ["kiwi"])

    def crash(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="full"):
        classifier.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["birds"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_file_keeps_its_permissions(tmp_path):
    classifier, path = bare(), tmp_path / "birds"
    before = os.umask(0o022)
    try:
        classifier.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.chmod(0o600)
        classifier.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_label_that_json_has_not_is_refused_and_the_old_file_stays(tmp_path):
    path, classifier = tmp_path / "birds", bare()
    classifier.learn(at(0), ["kea"])
    classifier.save(path)
    before = path.read_bytes()
    classifier.learn(at(90), [frozenset({"weka"})])
    with pytest.raises(ValueError, match="is a frozenset"):
        classifier.save(path)
    assert path.read_bytes() == before


def test_a_state_dict_carries_all_of_it(tmp_path):
    classifier = lived()
    save_file(classifier.state_dict(), tmp_path / "all")
    again = hosted(torch.zeros(3, 2), classes=["x", "y", "z"])
    again.load_state_dict(load_file(tmp_path / "all"))
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


def test_copies_live_lives_of_their_own():
    classifier = lived()
    before = everything(classifier)
    for again in (deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert everything(again) == before
        again.learn(at(33), ["kiwi"], ["33"])
        again.forget("kea")
        assert everything(classifier) == before


def test_the_header_is_json_and_nothing_else(tmp_path):
    lived().save(tmp_path / "birds")
    content = (tmp_path / "birds").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "rarememory.classifier" and metadata["version"] == "2"
    names = json.loads(metadata["header"])["book"]["names"]["labels"]
    assert [name for _, name in names][:3] == ["a", "c", "kea"]


@pytest.mark.parametrize("read", ["state_dict", "get_extra_state", "save"])
def test_reading_the_state_changes_nothing(tmp_path, read):
    classifier = lived()
    classes = classifier.classes
    with classifier.memory.snapshot():
        classifier.memory.forget(slots=0)
        assert classifier.classes == [label for label in classes if label != "kea"]
        arguments = [tmp_path / "birds"] if read == "save" else []
        getattr(classifier, read)(*arguments)
    assert classifier.classes == classes
    assert classifier.explain(at(10)[0], k=1)[0].refs == (1, "averaged")


def of_means():
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=MeanMemory(2, 4))
    classifier.learn(at(0, 40, 90), ["kea", "kea", "weka"])
    return classifier


def from_state_dict(classifier, _):
    again = MemoryClassifier(nn.Identity(), host=False, memory=MeanMemory(2, 4))
    again.load_state_dict(classifier.state_dict())
    return again


def from_file(classifier, path):
    classifier.save(path)
    return MemoryClassifier.load(path, nn.Identity())


def from_file_of_version_1(classifier, path):
    return MemoryClassifier.load(version_1(classifier, path), nn.Identity())


def version_1(classifier, path):
    """Rewrite a file with the names that version 0.1 had, which did not name the memory's class."""
    classifier.save(path)
    tensors, header = read_file(path)
    header.pop("memory_class")
    old = {"weights": "weighing", "threshold": "threshold", "host_ids": "host_ids"}
    for new, name in old.items():
        tensors[name] = tensors.pop(f"ensembler.{new}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistence, "VERSION", 1)
        write_file(path, tensors, header)
    return path


@pytest.mark.parametrize("copied", [from_state_dict, from_file, from_file_of_version_1])
def test_a_memory_of_means_comes_back_as_one_and_learns_on(tmp_path, copied):
    classifier = of_means()
    again = copied(classifier, tmp_path / "birds")
    assert type(again.memory) is MeanMemory
    for one in (classifier, again):
        one.learn(at(170, 100), ["kea", "weka"])
    torch.testing.assert_close(again.memory.lengths, classifier.memory.lengths, rtol=0, atol=0)
    assert everything(again) == everything(classifier)


class OwnMemory(Memory):
    pass


def test_a_memory_of_ones_own_has_to_be_named_again(tmp_path):
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=OwnMemory(2, 4))
    classifier.save(tmp_path / "birds")
    with pytest.raises(ValueError, match="a OwnMemory, which is not ours: give memory_class="):
        MemoryClassifier.load(tmp_path / "birds", nn.Identity())
    again = MemoryClassifier.load(tmp_path / "birds", nn.Identity(), memory_class=OwnMemory)
    assert type(again.memory) is OwnMemory


def test_a_file_and_a_state_dict_of_version_1_load(tmp_path):
    classifier = lived()
    path = version_1(classifier, tmp_path / "birds")
    assert everything(MemoryClassifier.load(path, classifier.model)) == everything(classifier)
    old = {
        name.replace("ensembler.weights", "weighing")
        .removeprefix("ensembler.")
        .replace("extractor.", "host."): part
        for name, part in classifier.state_dict().items()
    }
    again = hosted(torch.zeros(3, 2), classes=["x", "y", "z"])
    again.load_state_dict(old)
    assert everything(again) == everything(classifier)
    assert torch.equal(again.model[1].weight, classifier.model[1].weight)
