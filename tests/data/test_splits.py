"""Splits: the same ones every time, and no character in two parts."""

import pytest
import torch

from rarememory.data import (
    Characters,
    Omniglot,
    Split,
    character_of,
    checksum,
    five_alphabets_split,
    folder_split,
    hashed_split,
    listed_split,
    split_called,
)
from rarememory.data.splits import FIVE_ALPHABETS

ROTATIONS = ("/rot000", "/rot090", "/rot180", "/rot270")


def names(n_characters, rotations=("",)):
    return [f"Greek/character{i:02d}{turn}" for i in range(n_characters) for turn in rotations]


def characters(names):
    return Characters(tuple(names), torch.zeros(len(names), 20, 3, 3, dtype=torch.uint8))


def test_a_hashed_split_has_the_sizes_asked_whatever_the_order_of_names():
    every = names(33)
    split, backward = (hashed_split(order, (20, 6, 7)) for order in (every, every[::-1]))
    assert [len(part) for part in (split.train, split.validation, split.test)] == [20, 6, 7]
    assert sorted(split.train + split.validation + split.test) == every
    # Printed numbers depend on it.
    assert checksum(split) == checksum(backward) == "5c63f2e64eef"
    assert split != hashed_split(every, (20, 6, 7), seed=1)


def assert_rotations_follow(upright, rotated):
    for part in ("train", "validation"):
        characters = {character_of(name) for name in getattr(rotated, part)}
        assert characters == set(getattr(upright, part))
        assert len(getattr(rotated, part)) == 4 * len(characters)


def test_rotations_follow_their_character():
    turns = (("",), ROTATIONS)
    assert_rotations_follow(*(hashed_split(names(33, some), (20, 6, 7)) for some in turns))
    evaluation = characters(["Keble/character01"])
    of_folders = (folder_split(Omniglot(characters(names(12, t)), evaluation)) for t in turns)
    assert_rotations_follow(*of_folders)


@pytest.mark.parametrize("sizes", [(20, 6, 6), (20, 6, 8), (40, -14, 7)])
def test_sizes_that_do_not_add_up_are_refused_with_both_numbers(sizes):
    with pytest.raises(ValueError, match=f"add up to {sum(sizes)}, but there are 33 characters"):
        hashed_split(names(33), sizes)


def test_a_folder_split_tests_on_evaluation_and_validates_on_a_share_of_background():
    background = characters(names(100))
    evaluation = characters([f"Keble/character{i:02d}" for i in range(7)])
    split = folder_split(Omniglot(background, evaluation))
    assert split.test == evaluation.names
    assert (len(split.train), len(split.validation)) == (86, 14)
    assert sorted(split.train + split.validation) == sorted(background.names)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (((), ("b", "a"), ("a",)), "'a' in validation and 'a' in test are one character"),
        ((("a/rot000", "b"), ("a/rot270",), ()), "'a/rot000' in train and 'a/rot270' in valid"),
    ],
)
def test_a_character_in_two_parts_is_a_leak(parts, said):
    with pytest.raises(ValueError, match=said):
        Split(*parts)


def test_rotations_of_one_character_may_be_in_one_part():
    assert len(Split(train=("a/rot000", "a/rot090"), validation=(), test=("b",)).train) == 2


def test_the_checksum_tells_parts_apart_but_not_their_order():
    split = Split(train=("a", "b"), validation=("c",), test=("d",))
    assert checksum(split) == checksum(Split(train=("b", "a"), validation=("c",), test=("d",)))
    others = [
        Split(train=("a",), validation=("b", "c"), test=("d",)),
        Split(train=("d",), validation=("c",), test=("a", "b")),
        Split(train=("a", "b"), validation=("c",), test=()),
    ]
    assert len({checksum(split), *map(checksum, others)}) == 4


def write_lists(folder, train, val, test):
    for name, lines in (("train", train), ("val", val), ("test", test)):
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")


def test_a_listed_split_is_what_its_three_files_list(tmp_path):
    write_lists(
        tmp_path,
        "Greek/character01/rot000\nGreek/character01/rot090\n",
        "\n  Greek/character02/rot000  \r\n",
        "Keble/character11\nN_Ko/character02",
    )
    assert listed_split(tmp_path) == Split(
        train=("Greek/character01/rot000", "Greek/character01/rot090"),
        validation=("Greek/character02/rot000",),
        test=("Keble/character11", "N_Ko/character02"),
    )


def test_a_leak_between_lists_is_refused(tmp_path):
    write_lists(tmp_path, "G/character01/rot000", "G/character02", "G/character01/rot180")
    with pytest.raises(ValueError, match="in train and 'G/character01/rot180' in test"):
        listed_split(tmp_path)


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_a_missing_list_is_named(tmp_path, missing):
    write_lists(tmp_path, "G/character01", "G/character02", "G/character03")
    (tmp_path / f"{missing}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing}\.txt'"):
        listed_split(tmp_path)


@pytest.mark.parametrize("line", ["G/character1/rot45", "G/charm01", "character01", "a/b/c", "G"])
def test_a_line_that_is_no_class_name_is_refused_with_its_number(tmp_path, line):
    write_lists(tmp_path, f"G/character01\n\n{line}\n", "G/character02", "G/character03")
    with pytest.raises(ValueError, match=rf"'{line}' in line 3 of .*train\.txt'"):
        listed_split(tmp_path)


def test_a_list_of_nothing_is_refused(tmp_path):
    write_lists(tmp_path, "G/character01", " \n\n", "G/character03")
    with pytest.raises(ValueError, match=r"val\.txt' lists no class"):
        listed_split(tmp_path)


def test_a_listed_name_that_is_not_in_the_data_is_refused_when_selected(tmp_path):
    write_lists(tmp_path, "Greek/character01", "Greek/character02", "Greek/character99")
    with pytest.raises(KeyError, match="no class 'Greek/character99' among these 2"):
        characters(["Greek/character01", "Greek/character02"]).select(listed_split(tmp_path).test)


def test_the_split_of_five_alphabets_trains_on_no_other_and_tests_on_evaluation():
    background = [f"{name}/character01" for name in (*FIVE_ALPHABETS, "Tifinagh", "Futurama")]
    evaluation = characters(["Keble/character01", "Tengwar/character01"])
    omniglot = Omniglot(characters(background).rotated(), evaluation)
    name, split = split_called("five", omniglot)
    assert name == "five" and split == five_alphabets_split(omniglot)
    assert len(split.train) == 5 * 4 and not split.validation
    assert {each.partition("/")[0] for each in split.train} == set(FIVE_ALPHABETS)
    assert split.test == evaluation.names
