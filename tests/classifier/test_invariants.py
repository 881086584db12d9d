"""What no classifier has is refused, from a file and from a checkpoint, and changes nothing."""

import itertools
import json

import numpy as np
import pytest
import torch
from classifiers import at, everything, hosted
from memories import SPOILT
from torch import Tensor

from benchmarks.soak.damaged import damaged
from rarememory import MemoryClassifier
from rarememory.base.tensor_files import encoded
from rarememory.classifier.persistence import FORMAT, read_file, write_file

pytestmark = pytest.mark.usefixtures("unchecked")


def used(**options):
    classifier = hosted(3 * at(0, 120, 240), classes=["a", "b", "c"], **options)
    classifier.learn(at(0, 90, 200), ["kea", 7, ("weka", 1)], ["1.png", "2.png", ("p", 3)])
    classifier.forget("b")
    return classifier


@pytest.fixture
def path(tmp_path):
    return tmp_path / "birds.safetensors"


def put(place, value):
    """Put a value at a place of the header, such as "memory/k"; a number is a place in a list."""

    def spoil(_, header):
        *above, last = [int(x) if x.isdecimal() else x for x in place.split("/")]
        for name in above:
            header = header[name]
        header[last] = value

    return spoil


def without(name):
    return lambda _, header: header.pop(name)


def changed(name, change):
    def spoil(tensors, _):
        tensors[name] = change(tensors[name])

    return spoil


def spoilt(name, place, value):
    def spoil(tensors, _):
        tensors[name][place] = value

    return spoil


DEEP = {"tuple": [1]}
for _ in range(30):
    DEEP = {"tuple": [DEEP]}

INSIDE = {}
for _ in range(4):
    INSIDE = {"policy": {"name": "PerClass", "fields": INSIDE}}

TENSORS = {
    "a key of no length": (spoilt("memory.keys", 0, 0.0), r"keys must be of length 1.*\[0\]"),
    "a value of no name": (spoilt("memory.values", 0, 99), r"has the values \[99\], which have no"),
    "a huge value": (spoilt("memory.values", 0, 2**62), r"values \[4611686018427387904\], which"),
    "written after the clock": (spoilt("memory.written", 0, 9), "writes must be from 0 to 1"),
    "a weight that is NaN": (spoilt("ensembler.weights", 3, torch.nan), "of its weights must be"),
    "a temperature of 0": (spoilt("ensembler.weights", 0, 0.0), "of its weights must be positive"),
    "a threshold of NaN": (spoilt("ensembler.threshold", (), torch.nan), "not NaN"),
    "a class of no name": (spoilt("ensembler.host_ids", 0, 50), r"classes \[50\], which have no"),
    "a class twice": (spoilt("ensembler.host_ids", 0, 2), "must have different numbers"),
    "a class below -1": (spoilt("ensembler.host_ids", 0, -2), "must have different numbers"),
    "classes that are floats": (changed("ensembler.host_ids", Tensor.float), "a row of int64"),
    "classes in a table": (changed("ensembler.host_ids", lambda x: x[None]), "a row of int64"),
    "weights that are integers": (changed("ensembler.weights", Tensor.long), "must be four floats"),
}
BOOKS = {
    "a ref of no slot": (put("book/refs/0/0", 8), "refs must be of different slots from 0 to 7"),
    "a slot twice": (put("book/refs/0/0", 1), "refs must be of different slots"),
    "a ref that is a list": (put("book/refs/0/1/0", []), "a ref must be a text, a number"),
    "refs that are no list": (put("book/refs/0/1", 7), "refs of a slot must be a list"),
    "a label that is NaN": (put("book/names/labels/0/1", float("nan")), "a label must be a text"),
    "a label that is a list": (put("book/names/labels/0/1", [1]), "a label must be a text"),
    "a label nested too deep": (put("book/names/labels/0/1", DEEP), "a label must be a text"),
    "a label twice": (put("book/names/labels/0/1", "kea"), "two of its labels are the same"),
    "a number twice": (put("book/names/labels/0/0", 2), "have the same number"),
    "a number above": (put("book/names/labels/0/0", 99), "must have numbers from 0 to 5"),
    "a number that is true": (put("book/names/labels/0/0", True), "must have numbers from 0"),
    "the label for unknown": (put("book/names/labels/0/1", "unknown"), "no class can be called"),
    "no labels": (put("book/names/labels", None), "must have a list as labels, not None"),
    "no next number": (put("book/names", {}), "its header has no next"),
    "an unknown reader": (put("book/reader", "x"), "there is no reader 'x'"),
    "settings that are a list": (put("book/reader_settings", [1]), "an object as reader_settings"),
    "settings of no reader": (
        put("book/reader_settings/kea", 1),
        r"has \['shrinkage', 'penalty', 'distances'\]",
    ),
    "settings called self": (put("book/reader_settings/self", 1), "penalty'.*not.*self"),
    "a penalty that is a text": (put("book/reader_settings/penalty", "x"), "penalty must be 0 or"),
    "no penalty": (put("book/reader_settings/penalty", None), "penalty must be 0 or a positive"),
    "a shrinkage above 1": (put("book/reader_settings/shrinkage", 2), "must be at most 1"),
    "a shrinkage of 0": (put("book/reader_settings/shrinkage", 0), "shrinkage must be a positive"),
    "a reader that is none": (put("book/reader", []), "must have a text as reader"),
    "remarks that are no text": (put("book/about", {"a": 1}), "its remarks must be texts"),
    "a protected class of no number": (put("book/protected", [99]), "protected classes must have"),
    "refs without their slot": (put("book/refs/0", [1]), "must have pairs as refs"),
    "dimensions below 0": (put("book/example_dims", -1), "cannot have -1 dimensions"),
}
HEADERS = {
    "no host": (without("host"), "its header has no host"),
    "a host that is a list": (put("host", []), "must have an object as host"),
    "a layer without a name": (put("host/at", "a..b"), "must name a layer"),
    "layers of a thousand names": (put("host/at", "a" + ".a" * 999), "must name a layer, not 'a.a"),
    "a layer of torch's own name": (
        put("host/at", "training"),
        "must name a layer, not 'training'",
    ),
    "answers that are a number": (put("host/answers", 1), "must have true or false as answers"),
    "an output that is a list": (put("host/output", [1]), "must name the output of the model"),
    "no memory": (without("memory"), "its header has no memory"),
    "k that is true": (put("memory/k", True), "must have an integer as k, not True"),
    "k below 1": (put("memory/k", 0), "k must be an integer of at least 1, not 0"),
    "k of 401 digits": (put("memory/k", 10**400), "k must be an integer of at least 1"),
    "a margin of 401 digits": (put("memory/margin", 10**400), "margin must be 0 or a positive"),
    "more slots than keys": (put("memory/memory_size", 2**40), r"has \[8, 2\] for keys, and it"),
    "a setting too many": (put("memory/kea", 1), "cannot have its settings"),
    "a policy that is none": (put("update", 7), "must have an object as update, not 7"),
    "a policy of too much": (put("update/fields", {"kea": 1}), "has no options, not {'kea': 1}"),
    "policies in policies": (put("update/fields", INSIDE), "a policy in a policy, and so on"),
    "a policy of too little": (put("update/name", "Protected"), "cannot have its options"),
    "no threshold": (lambda tensors, _: tensors.pop("ensembler.threshold"), "has nothing for ens"),
    "a fingerprint of no row": (changed("fingerprint", lambda x: x[None]), "a row of finite"),
    "a policy of a long name": (put("update/name", "kea" * 999), "was learnt by a keakea"),
    "a memory that is a list": (put("memory_class", []), "must have a text as memory_class"),
    "a batch of none": (put("batch_size", 0), "batch_size must be an integer of at least 1"),
    "a guess that is a number": (put("guesses", [1, 2]), "must have two guesses"),
    "a book that is a list": (put("book", []), "must have an object as book"),
    "an unknown that is a list": (put("unknown", []), "the label for what is unknown must be"),
    "a form that is a list": (put("example", [1]), "form of its examples must be an object"),
    "a form of terabytes": (put("example", {"": [[2**20] * 2, "float32", None]}), "at most 67,"),
    "a form of one number": (put("example", {"": [7]}), "must have shapes, dtypes and numbers"),
    "a dtype that is none": (put("example", {"": [[2], "load", None]}), "which is none of torch's"),
    "a text that is a list": (put("text", [1]), "must have true or false as text"),
    "a form of other numbers": (put("example", {"": [[2], "int64", 7]}), "is not 0 or 1"),
}


@pytest.mark.parametrize(("spoil", "said"), (ALL := TENSORS | BOOKS | HEADERS).values(), ids=ALL)
def test_a_file_that_no_classifier_writes_is_refused_in_a_line(path, spoil, said):
    used().save(path)
    tensors, header = read_file(path)
    spoil(tensors, header)
    write_file(path, tensors, header)
    with pytest.raises(ValueError, match=said) as error:
        MemoryClassifier.load(path, used().model)
    assert "birds.safetensors" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(("spoil", "said"), (PARTS := TENSORS | BOOKS).values(), ids=PARTS)
def test_a_checkpoint_that_no_classifier_gives_is_refused_and_nothing_is_loaded(spoil, said):
    other = used()
    other.learn(at(300), ["kiwi"])
    state = other.state_dict()
    book = json.loads(bytes(state["_extra_state"].tolist()))
    spoil(state, {"book": book})
    text = np.frombuffer(json.dumps(book).encode(), dtype=np.uint8).copy()
    state["_extra_state"] = torch.from_numpy(text)
    # The clock of this one is at its second write.
    said = said.replace("from 0 to 1", "from 0 to 2").replace("to 5", "to 6")
    classifier = used()
    before = everything(classifier)
    with pytest.raises(RuntimeError, match=said):
        classifier.load_state_dict(state)
    assert everything(classifier) == before
    assert classifier.predict(at(0, 90)) == ["kea", 7]


@pytest.mark.parametrize("text", [b"", b"kea", b"[" * 100_000, b"\xff", b"7", torch.ones(3), None])
def test_labels_of_a_checkpoint_that_are_no_labels_are_refused(text):
    state = used().state_dict()
    state["_extra_state"] = torch.tensor([*text]).byte() if isinstance(text, bytes) else text
    classifier = used()
    before = everything(classifier)
    said = r"its labels (are|must be a row)|its header must be JSON objects"
    with pytest.raises(RuntimeError, match=said):
        classifier.load_state_dict(state)
    assert everything(classifier) == before


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_checkpoint_is_taken_whole_or_not_at_all(spoil):
    state = used().state_dict()
    for name in [name for name in state if not name.startswith("extractor.")]:
        classifier = used()
        classifier.learn(at(45), ["kiwi"])
        before = everything(classifier)
        with pytest.raises(RuntimeError, match=r"^Error\(s\) in loading state_dict"):
            classifier.load_state_dict({**state, name: spoil(state[name])})
        assert everything(classifier) == before


def test_a_memory_of_another_width_leaves_the_labels_as_they_are():
    state = used().state_dict()
    state["memory.keys"] = torch.nn.functional.pad(state["memory.keys"], (0, 1))
    classifier = used()
    classifier.learn(at(45), ["kiwi"])
    before = everything(classifier)
    with pytest.raises(RuntimeError, match="keys have width 3, and this memory's 2"):
        classifier.load_state_dict(state)
    assert everything(classifier) == before


def test_weights_of_the_model_alone_are_loaded_beside_a_memory():
    classifier, other = used(), used()
    state = {n: p + 1 for n, p in other.state_dict().items() if n.startswith("extractor.")}
    before = everything(classifier)
    classifier.load_state_dict(state, strict=False)
    assert everything(classifier) == before
    assert torch.equal(classifier.model[1].weight, other.model[1].weight + 1)


def test_a_memory_without_its_labels_is_refused_beside_others():
    other = used()
    other.learn(at(300), ["kiwi"])
    state = {n: p for n, p in other.state_dict().items() if n != "_extra_state"}
    classifier = used()
    with pytest.raises(RuntimeError, match=r"has the values \[6\], which have no label"):
        classifier.load_state_dict(state, strict=False)


@pytest.mark.parametrize("unknown", [0, "a", None])
def test_what_is_unknown_may_be_a_number_of_the_hosts_outputs(path, unknown):
    classifier = hosted(3 * at(0, 120, 240), classes=["x", "y", "z"], unknown=unknown)
    classifier.save(path)
    assert MemoryClassifier.load(path, classifier.model).unknown == unknown


def test_equal_classifiers_have_equal_files(path, tmp_path):
    used().save(path)
    again = MemoryClassifier.load(path, used().model)
    other = tmp_path / "again.safetensors"
    again.save(other)
    assert other.read_bytes() == path.read_bytes()
    backwards = used()
    backwards.about = {"b": "1", "a": "2"}
    again.about = {"a": "2", "b": "1"}
    backwards.save(path)
    again.save(other)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_raise_only_what_is_documented(tmp_path, seed):
    outcomes = [*itertools.islice(damaged(tmp_path, seed), 60)]
    assert {*outcomes} <= {"refused", "accepted", "other_model"}
    assert "refused" in outcomes


def test_a_digest_by_another_name_is_seen(path):
    used().save(path)
    path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"sha257"'))
    with pytest.raises(ValueError, match=r"is damaged: its header has \['sha257'\]"):
        MemoryClassifier.load(path, used().model)


@pytest.mark.parametrize("version", ["", "x", "-1", "²", "9" * 5_000])
def test_a_version_that_is_no_number_is_refused(path, version):
    path.write_bytes(encoded({}, {"format": FORMAT, "version": version, "header": "{}"}))
    with pytest.raises(ValueError, match=r"is damaged: its version is '.{0,40}', no number$"):
        MemoryClassifier.load(path, None)
