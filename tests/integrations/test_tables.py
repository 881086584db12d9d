"""Tables: what is remembered as rows, and back to the bit."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from classifiers import at, bare, everything
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rarememory import (
    EMPTY,
    FirstInFirstOut,
    MeanMemory,
    Memory,
    MemoryClassifier,
    VectorMemory,
    wrap,
)
from rarememory.commands.cli import app
from rarememory.integrations.tables import from_frame, read_table, to_frame, write_table
from tests.memories import bits

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


def taken(there, table, path):
    """What is remembered, by way of a table, in another one that was empty."""
    other = bare(len(there.memory.values), update=FirstInFirstOut())
    if table == "frame":
        count = from_frame(other, to_frame(there))
    else:
        write_table(there, path / f"rows.{table}")
        count = read_table(other, path / f"rows.{table}")
    assert count == len(there.memory)
    return other


@pytest.mark.parametrize("table", ["frame", "parquet", "npz"])
@pytest.mark.parametrize(
    ("labels", "refs"),
    [
        (["kea", "weka", "kea"], ["1.png", None, "kea/ü.png"]),
        ([7, 3, 7], [1, 2, None]),
        ([1.5, 2.5, 2.5], None),
        ([True, False, True], ["a", "b", "c"]),
        (["", "a\nb", "鳥"], [1.5, float("inf"), None]),
        ([2**63 - 1, -(2**63), 0], [False, True, None]),
    ],
)
def test_a_table_brings_everything_back_to_the_bit(table, labels, refs, tmp_path):
    there = bare(8, update=FirstInFirstOut())
    for row, angle in enumerate((0, 77, 140)):
        own = None if refs is None else [refs[row]]
        there.learn(at(angle), [labels[row]], refs=own)
    other = taken(there, table, tmp_path)
    assert [(e.label, e.refs) for e in other.examples()] == [
        (e.label, e.refs) for e in there.examples()
    ]
    assert [*map(type, other.classes)] == [*map(type, there.classes)]
    for part in ("keys", "values", "ages"):
        assert torch.equal(getattr(other.memory, part), getattr(there.memory, part))
    assert other.predict(at(5, 80, 300)) == there.predict(at(5, 80, 300))


@pytest.mark.parametrize(
    "labels",
    [
        *([1, 2.5, True], ["kea", None, 7], [None, 3, 4], [2**70, -1, 0], ["kea\0", "\ud800", "k"]),
        [("kea", 1), ("kea", 2), ("kea", ("a", None))],
    ],
)
def test_a_frame_holds_labels_and_refs_of_every_kind(labels):
    there, other = (bare(8, update=FirstInFirstOut()) for _ in range(2))
    there.learn(at(0, 77, 140), labels, refs=labels[::-1])
    assert from_frame(other, to_frame(there)) == 3
    # Python takes 1, 1.0 and True for equal.
    assert repr(other.examples()) == repr(there.examples())


def test_a_frame_has_the_rows_of_a_loop():
    memory = Memory(3, 6, update=FirstInFirstOut(), count_usage=True)
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    memory.write(-torch.eye(3), torch.tensor([5, 6, 5]))
    memory.forget(labels=8)
    memory.record(memory(torch.eye(3)[2:]))
    frame = to_frame(memory)
    assert list(frame) == ["label", "age", "uses", "idle", "key"]
    slots = [slot for slot in range(6) if memory.values[slot] != EMPTY]
    assert frame.index.tolist() == slots
    for slot, row in zip(slots, frame.itertuples(index=False), strict=True):
        assert row.label == memory.values[slot] and row.age == memory.ages[slot]
        assert (row.uses, row.idle) == (memory.usage.uses[slot], memory.usage.idle[slot])
        assert row.key.tolist() == memory.keys[slot].tolist()


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"]),
    st.booleans(),
    st.integers(1, 7),
    st.integers(0, 12),
    st.integers(0, 10**6),
)
def test_rows_join_what_is_there_as_a_merge_does(dtype, usage, size, writes, seed):
    torch.manual_seed(seed)
    one, merged, other = (
        Memory(
            3, n, update=FirstInFirstOut(), count_usage=usage, key_dtype=getattr(torch, dtype[6:])
        )
        for n in (size, size, 5)
    )
    for _ in range(writes):
        row, label = torch.randn(1, 3), torch.randint(0, 5, (1,))
        for memory in (one, merged) if torch.rand(()) < 0.5 else (other,):
            memory.write(row, label)
            if usage:
                memory.record(memory(row))
    assert from_frame(one, to_frame(other)) == int((merged.merge(other) != EMPTY).sum())
    assert torch.equal(one.keys, merged.keys) and torch.equal(one.values, merged.values)
    assert torch.equal(one.ages, merged.ages)
    if usage:
        assert torch.equal(one.usage.uses, merged.usage.uses)
        there = one.values != EMPTY
        assert torch.equal(one.usage.idle[there], merged.usage.idle[there])


def test_other_memories_bring_what_they_keep_of_each_slot(tmp_path):
    means, empty = (MeanMemory(3, 4) for _ in range(2))
    means.write(torch.eye(3)[[0, 0, 1]], torch.tensor([7, 7, 8]))
    write_table(means, tmp_path / "means.npz")
    assert read_table(empty, tmp_path / "means.npz") == 2
    assert torch.equal(empty.lengths, means.lengths) and empty.lengths[0] == 2
    vectors, more = (VectorMemory(Memory(3, 4, update=FirstInFirstOut()), 2) for _ in range(2))
    vectors.write(torch.eye(3)[:1], torch.tensor([[5.0, 6.0]]))
    assert from_frame(more.memory, to_frame(vectors.memory)) == 1
    assert more.memory.vectors[0].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("table", ["frame", "parquet", "npz"])
def test_tuned_keys_go_into_a_table_as_they_were_learnt(table, tmp_path):
    there = bare(4, update=FirstInFirstOut())
    there.learn(at(0, 77), ["kea", "weka"])
    learnt = there.memory.keys.clone()
    with there.tunable_keys() as keys:
        keys.keys.data.copy_(at(10, 60))
    assert not torch.equal(there.memory.keys, learnt)
    assert torch.equal(taken(there, table, tmp_path).memory.keys, learnt)
    # And into one that is tuned, which goes back before.
    assert from_frame(there, to_frame(taken(there, table, tmp_path))) == 2
    assert torch.equal(there.memory.keys, learnt.repeat(2, 1)[[0, 1, 0, 1]])


@pytest.mark.parametrize("table", ["frame", "parquet", "npz"])
def test_nothing_is_a_table_of_no_rows(table, tmp_path):
    assert len(taken(bare(4), table, tmp_path).memory) == 0


def test_a_table_of_ones_own_needs_labels_and_keys():
    birds = bare(4, update=FirstInFirstOut())
    frame = pd.DataFrame({"label": ["kea", "weka"], "key": list(at(0, 90).numpy())})
    assert from_frame(birds, frame) == 2
    assert birds.predict(at(10)) == ["kea"] and birds.memory.ages[:2].tolist() == [0, 0]


def test_a_row_of_refs_is_a_list_or_missing():
    birds = bare(8, update=FirstInFirstOut())
    frame = pd.DataFrame({"label": ["kea", "weka"], "key": list(at(0, 90).numpy())})
    for refs, told in (
        ([["1", "2"], ()], [("1", "2"), ()]),
        ([None, float("nan")], [(), ()]),
        ([np.array([1, 2]), [None, Path("a")]], [(1, 2), ("a",)]),
    ):
        assert from_frame(birds, frame.assign(refs=refs)) == 2
        assert [one.refs for one in birds.examples()] == told
        birds.forget("kea", "weka")
    before = everything(birds)
    for refs, message in (
        (["12", "3"], "column refs must hold a list in each row, not '12'"),
        ([1, 2], "column refs must hold a list"),
        ([[["1"]], []], "must be hashable"),
    ):
        with pytest.raises(ValueError, match=message):
            from_frame(birds, frame.assign(refs=refs))
    with pytest.raises(ValueError, match=r"labels are missing .* in rows 1"):
        from_frame(birds, frame.assign(label=["kea", None]))
    with pytest.raises(ValueError, match="two columns of the table have one name"):
        from_frame(birds, pd.concat([frame, frame[["label"]]], axis=1))
    assert everything(birds) == before


def test_a_table_goes_into_a_classifier_that_has_seen_nothing_and_into_one_of_another_reader():
    there, fresh, nearest = (
        wrap(torch.nn.Flatten(), host=False, reader=reader)
        for reader in ("fitted", "fitted", "nearest")
    )
    there.learn(3 * torch.eye(4)[:2], ["kea", "weka"])
    frame = to_frame(there)
    assert frame["norms"].tolist() == [3, 3]
    assert from_frame(fresh, frame) == from_frame(nearest, frame) == 2
    assert fresh.predict(torch.eye(4)[:2]) == nearest.predict(torch.eye(4)[:2]) == ["kea", "weka"]
    assert fresh.memory.norms[:2].tolist() == [3, 3]
    before = everything(fresh)
    with pytest.raises(ValueError, match=r"keys have width \[4\] in this memory, and \[3\]"):
        from_frame(fresh, frame.assign(key=list(torch.eye(3)[:2].numpy())))
    assert everything(fresh) == before


def refused(change, message, kind=ValueError):
    memory = Memory(2, 4, update=FirstInFirstOut())
    memory.write(at(0, 90), torch.tensor([7, 8]))
    before, frame = bits(memory), to_frame(memory)
    with pytest.raises(kind, match=message):
        from_frame(memory, change(frame))
    assert bits(memory) == before


@pytest.mark.usefixtures("unchecked")
def test_what_no_memory_has_is_refused():
    refused(lambda f: f.drop(columns="label"), "no column label")
    refused(lambda f: f.drop(columns="key"), "no column key")
    refused(lambda f: f.assign(weight=1), r"columns \['weight'\], and this memory keeps")
    refused(lambda f: f.assign(label=["kea", "weka"]), "column label must be integers")
    refused(lambda f: f.assign(label=[7, -2]), r"values must be at least 0, .* slots \[1\]")
    refused(lambda f: f.assign(age=[0, -1]), "writes must be from 0 to 0")
    refused(lambda f: f.assign(age=[0.5, 1]), "column age must be integers")
    refused(lambda f: f.assign(key=[k * 2 for k in f.key]), "keys must be of length 1")
    refused(
        lambda f: f.assign(key=[[1.0, 0, 0], [0, 1.0, 0]]),
        r"keys have width \[2\] in this memory, and \[3\] in the other",
    )
    refused(lambda f: f.assign(key=[1.0, 2.0]), "column key must have a row of numbers")
    refused(lambda f: f.assign(key=["a", "b"]), "column key must be numbers, not <U1")
    refused(
        lambda f: f.assign(key=[[1.0, 0], [1.0]]),
        "column key must have as many numbers in each row",
    )


@pytest.mark.parametrize("table", ["parquet", "npz"])
def test_files_hold_labels_of_one_type(table, tmp_path):
    for labels in (["kea", 7], [("kea", 1), ("kea", 2)]):
        birds = bare(4)
        birds.learn(at(0, 90), labels)
        with pytest.raises(ValueError, match="holds labels of one type, text or number, and these"):
            write_table(birds, tmp_path / f"rows.{table}")
        assert not list(tmp_path.iterdir())
        other = bare(4)
        assert from_frame(other, to_frame(birds)) == 2 and other.classes == birds.classes


@pytest.mark.parametrize("table", ["parquet", "npz"])
def test_files_hold_what_they_give_back(table, tmp_path):
    for labels, refs, message in (
        ([2**63, 1], [1, 2], "holds labels of 64 bits"),
        (["a", "b"], [1, -(2**63) - 1], "holds refs of 64 bits"),
        (["kea\0", "a"], ["1", "2"], "no labels that end in a zero byte"),
        (["a", "b"], ["1\0", "2"], "no refs that end in a zero byte"),
        (["a", "b"], [1, 2.5], "holds refs of one type, text or number, and these are float and"),
    ):
        birds = bare(4)
        birds.learn(at(0, 90), labels, refs=refs)
        with pytest.raises(ValueError, match=message):
            write_table(birds, tmp_path / f"rows.{table}")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("table", ["parquet", "npz"])
def test_a_damaged_file_is_refused_in_a_sentence_or_read_as_it_was(table, tmp_path):
    birds, path = bare(4), tmp_path / f"rows.{table}"
    birds.learn(at(0, 90), ["kea", "weka"], refs=["1", "2"])
    write_table(birds, path)
    whole, random = path.read_bytes(), Random(0)
    told, refusals = birds.examples(), 0
    names = [
        whole[: n + 1] + b"T" + whole[n + 2 :]
        for n in range(len(whole))
        if whole[n:].startswith(b"weka")
    ]
    for part in [b"", whole[:40], whole[:-30], b"x" * 500, *names, *[None] * 100]:
        damaged = bytearray(whole if part is None else part)
        if part is None:
            damaged[random.randrange(len(whole))] ^= random.randrange(1, 256)
        path.write_bytes(damaged)
        other = bare(4)
        before = everything(other)
        try:
            read_table(other, path)
        except ValueError as error:
            assert str(error).startswith(repr(str(path))) and "\n" not in str(error)
            assert everything(other) == before
            refusals += 1
        else:
            # A byte that says nothing, as a date does.
            assert other.examples() == told
    assert refusals > 50


def test_an_archive_whose_list_lost_a_file_is_refused(tmp_path):
    birds, path = bare(4), tmp_path / "rows.npz"
    birds.learn(at(0, 90), ["kea", "weka"], refs=["1", "2"])
    write_table(birds, path)
    parts = dict(np.load(path))
    for lost, message in (
        (("refs", "ref_counts"), "and was written with others"),
        (("age",), "and was written with others"),
    ):
        np.savez(path, **{name: part for name, part in parts.items() if name not in lost})
        with pytest.raises(ValueError, match=message):
            read_table(bare(4), path)
    # Files of others have no list of their columns.
    del parts["columns"], parts["age"]
    np.savez(path, **parts)
    assert read_table(bare(4), path) == 2
    for counts in ([1, 2], [3, -1]):
        np.savez(path, **{**parts, "ref_counts": np.array(counts)})
        with pytest.raises(ValueError, match=f"it has 2 refs, and counts {sum(counts)}"):
            read_table(bare(4), path)


def test_other_files_are_refused(tmp_path):
    birds = bare(4)
    birds.learn(at(0, 90), ["kea", "weka"], refs=["1", "2"])
    before = everything(birds)
    np.savez(tmp_path / "rows.npz", label=np.array(["a"]), key=np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match=r"cannot be taken over: .* 2 rows of key, and 1 of label"):
        read_table(birds, tmp_path / "rows.npz")
    np.savez(tmp_path / "rows.npz", label=np.array([["a"]], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_table(birds, tmp_path / "rows.npz")
    with pytest.raises(ValueError, match=r"a file \.parquet or \.npz, not 'rows\.csv'"):
        write_table(birds, "rows.csv")
    with pytest.raises(FileNotFoundError):
        read_table(birds, tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        write_table(birds, tmp_path / "none" / "rows.npz")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(IsADirectoryError):
        read_table(birds, tmp_path / "folder.parquet")
    assert everything(birds) == before


def test_the_command_line_exports_and_imports(tmp_path):
    birds = bare(8, update=FirstInFirstOut())
    birds.learn(at(0, 90), ["kea", "weka"], refs=["1", "2"])
    birds.save(tmp_path / "birds.safetensors")
    bare(8, update=FirstInFirstOut()).save(tmp_path / "empty.safetensors")

    def run(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    table = tmp_path / "birds.parquet"
    assert json.loads(run("export", tmp_path / "birds.safetensors", table, "--json"))["rows"] == 2
    said = run("import", table, tmp_path / "empty.safetensors")
    assert "took over 2 examples" in said
    loaded = MemoryClassifier.load(tmp_path / "empty.safetensors", None)
    assert [(e.label, e.refs) for e in loaded.examples()] == [("kea", ("1",)), ("weka", ("2",))]
    written = (tmp_path / "empty.safetensors").read_bytes()
    table.write_bytes(table.read_bytes()[:-20])
    for words, said in (
        (("export", tmp_path / "birds.safetensors", "x.csv"), "a table is a file .parquet"),
        (("export", tmp_path / "none.safetensors", tmp_path / "x.npz"), "none.safetensors"),
        (("export", tmp_path / "birds.safetensors", tmp_path / "none" / "x.npz"), "No such file"),
        (("import", tmp_path / "none.npz", tmp_path / "empty.safetensors"), "none.npz"),
        (("import", table, tmp_path / "none.safetensors"), "none.safetensors"),
        (("import", table, tmp_path / "empty.safetensors"), "is damaged, or no table"),
    ):
        answer = run(*words, code=1)
        assert said in answer and "Traceback" not in answer
    assert (tmp_path / "empty.safetensors").read_bytes() == written
    assert not (tmp_path / "none.safetensors").exists()
