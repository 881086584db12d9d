"""Characters: named classes, chosen by name and turned by quarters."""

import numpy as np
import pytest
import torch

from rarememory.data import Characters, character_of, families


def characters(n_classes=3, n_drawings=5, height=7, width=7):
    generator = torch.Generator().manual_seed(1)
    shape = (n_classes, n_drawings, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Characters(tuple(f"Greek/character{i + 1:02d}" for i in range(n_classes)), images)


@pytest.mark.parametrize(("n_classes", "n_drawings"), [(0, 20), (1, 1), (7, 33)])
def test_the_length_is_the_number_of_classes(n_classes, n_drawings):
    some = characters(n_classes, n_drawings)
    assert (len(some), some.drawings) == (n_classes, n_drawings)


def test_select_gives_the_named_classes_in_the_order_asked():
    some = characters()
    chosen = some.select(["Greek/character03", "Greek/character01"])
    assert chosen.names == ("Greek/character03", "Greek/character01")
    assert torch.equal(chosen.images, some.images[[2, 0]])


def test_a_selection_is_a_copy_and_may_be_empty():
    some = characters()
    before = some.images.clone()
    some.select(some.names).images.zero_()
    assert torch.equal(some.images, before)
    assert len(some.select([])) == len(characters(0).rotated()) == 0


@pytest.mark.parametrize(
    ("n_classes", "names", "error", "said"),
    [
        (3, ["Greek/charcter02"], KeyError, r"no class 'Greek/charcter02'.*'Greek/character0"),
        (0, ["a"], KeyError, "among these 0: there are none"),
        (3, ["Greek/character02"] * 2, ValueError, "'Greek/character02' names 2 classes"),
    ],
)
def test_names_that_cannot_be_selected_are_refused(n_classes, names, error, said):
    with pytest.raises(error, match=said):
        characters(n_classes).select(names)


def test_as_many_names_as_classes_are_needed():
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        Characters(("a", "b"), characters(3).images)


def test_rotation_makes_four_classes_of_each_character_counter_clockwise():
    some = characters(n_classes=3)
    rotated = some.rotated()
    assert rotated.names[4:8] == tuple(
        f"Greek/character02/rot{degrees}" for degrees in ("000", "090", "180", "270")
    )
    for index, name in enumerate(rotated.names):
        character, quarter = divmod(index, 4)
        assert character_of(name) == some.names[character]
        expected = np.rot90(some.images[character].numpy(), quarter, axes=(1, 2))
        assert np.array_equal(rotated.images[index].numpy(), expected)


def test_a_quarter_turn_brings_the_top_right_corner_to_the_top_left():
    image = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    image[0, 0, 0, 2] = 255
    assert Characters(("a",), image).rotated().images[1, 0, 0, 0] == 255


def test_what_cannot_be_rotated_is_refused():
    with pytest.raises(ValueError, match="'Greek/character01/rot000' is rotated already"):
        characters().rotated().rotated()
    with pytest.raises(ValueError, match="cannot stack 3 x 7 drawings"):
        characters(height=3, width=7).rotated()


def test_only_a_rotation_at_the_end_of_a_name_is_taken_off():
    assert character_of("Greek/character07/rot270") == "Greek/character07"
    for name in ("Greek/character07", "rot090/a", "a/rot045", "a/rot0900", "rot090"):
        assert character_of(name) == name


def test_showing_characters_gives_numbers_and_not_every_name():
    assert repr(characters(3, 5, 7, 9)) == "Characters(3 classes, 5 drawings each, 7 x 9)"


def test_a_mirror_image_is_a_class_of_its_own_of_the_same_character():
    some = characters(n_classes=3)
    both = some.rotated().mirrored()
    assert both.names[12:14] == (
        "Greek/character01/rot000/mirror",
        "Greek/character01/rot090/mirror",
    )
    assert torch.equal(both.images[12:], both.images[:12].flip(3))
    assert character_of(both.names[13]) == "Greek/character01"


def test_rotations_and_mirror_images_are_of_the_family_of_their_character():
    blank = torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    names = Characters(("a", "b"), blank).rotated().mirrored().names
    assert families(names).tolist() == ["ab".index(name[0]) for name in names]
