"""Omniglot: read alike from zip and folder, refused when damaged, split without a leak."""

import io
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import rarememory.data.omniglot as module
from rarememory.data import (
    character_of,
    checksum,
    download_omniglot,
    folder_split,
    hashed_split,
    listed_split,
    read_omniglot,
)
from tests.sources import omniglot, omniglot_folder

PARTS = {
    "images_background": [
        "Greek/character02",
        "Greek/character01",
        "Japanese_(katakana)/character10",
    ],
    "images_evaluation": ["Keble/character01", "Atlantean/character01"],
}


def png(seed, size=105):
    """A drawing as Omniglot has it: one bit, ink 0, three lines."""
    image = Image.new("1", (size, size), 1)
    points = np.random.default_rng(seed).integers(5, size - 5, (4, 2))
    ImageDraw.Draw(image).line([tuple(map(int, point)) for point in points], fill=0, width=3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def drawings(part):
    """Paths and bytes of one part, the way its zip has them, last drawer first."""
    number = 0 if part == "images_background" else 500
    files = {}
    for name in PARTS[part]:
        number += 1
        for drawer in range(20, 0, -1):
            path = f"{part}/{name}/{number:04d}_{drawer:02d}.png"
            files[path] = png(100 * number + drawer)
    return files


def write_folder(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def write_zip(folder, part, files):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same drawings as zips and as folders."""
    folder = tmp_path_factory.mktemp("both")
    for part in PARTS:
        files = drawings(part)
        write_zip(folder / "zips", part, files)
        write_folder(folder / "folders", files)
    return folder


@pytest.fixture
def zips(both, tmp_path):
    return shutil.copytree(both / "zips", tmp_path / "zips")


@pytest.fixture
def folders(both, tmp_path):
    return shutil.copytree(both / "folders", tmp_path / "folders")


def read(folder, size=28):
    return read_omniglot(folder, size=size, progress=False)


def same(left, right):
    return left.names == right.names and torch.equal(left.images, right.images)


def test_parts_and_all_characters_are_sorted_by_name_and_keep_their_drawings(zips):
    omniglot = read(zips)
    assert omniglot.background.images.shape == (3, 20, 28, 28)
    assert omniglot.background.images.dtype == torch.uint8
    for part, names in zip(omniglot, PARTS.values(), strict=True):
        assert part.names == tuple(sorted(names))
        assert same(omniglot.characters.select(part.names), part)
    assert omniglot.characters.names == tuple(
        sorted(omniglot.background.names + omniglot.evaluation.names)
    )


def test_drawing_d_is_by_drawer_d_plus_one_with_ink_255_on_0(zips):
    greek = read(zips, size=105).background.select(["Greek/character02"])
    for drawer in range(1, 21):
        original = np.asarray(Image.open(io.BytesIO(png(100 + drawer))))
        expected = np.where(original, 0, 255)
        assert np.array_equal(greek.images[0, drawer - 1].numpy(), expected)


@pytest.mark.parametrize("size", [28, 33, 129])
def test_scaling_keeps_the_ink_of_a_thin_stroke(zips, size):
    full, small = read(zips, 105).characters, read(zips, size).characters
    assert small.images.shape[2:] == (size, size)
    means = [some.images.float().mean(dim=(2, 3)) for some in (full, small)]
    torch.testing.assert_close(means[1], means[0], rtol=0.15, atol=0.5)
    assert small.images.amax(dim=(2, 3)).min() > 160


def test_a_drawing_can_be_one_pixel_and_not_less(zips):
    assert read(zips, size=1).characters.images.shape == (5, 20, 1, 1)
    with pytest.raises(ValueError, match="size is 0"):
        read(zips, size=0)


@pytest.mark.parametrize(
    "moved",
    [
        lambda zips, folders: folders,
        lambda zips, folders: shutil.copytree(zips, zips / "new" / "omniglot-py").parent,
        lambda zips, folders: shutil.copytree(folders, zips / "new" / "omniglot-py").parent,
        lambda zips, folders: Path(shutil.copy(zips / "images_background.zip", folders)).parent,
        lambda zips, folders: str(zips),
    ],
    ids=["folders", "torchvision's zips", "torchvision's folders", "one of each", "str"],
)
def test_every_layout_reads_the_same(zips, folders, moved):
    expected = read(zips)
    assert all(same(*parts) for parts in zip(read(moved(zips, folders)), expected, strict=True))


def test_what_an_archiver_left_beside_the_drawings_is_passed_over(zips, folders):
    files = drawings("images_background")
    litter = {f"__MACOSX/{path.replace('/0', '/._0')}": b"no image" for path in files}
    write_zip(zips, "images_background", {**files, **litter, "images_background/note.png": b"no"})
    write_folder(folders, {"images_background/Greek/character01/._0002_01.png": b"no image"})
    assert same(read(zips).background, read(folders).background)


def test_progress_is_shown_in_characters_or_not_at_all(zips, capsys):
    read(zips)
    assert capsys.readouterr() == ("", "")
    read_omniglot(zips)
    shown = capsys.readouterr().err
    assert "images_background: 100%" in shown and "3/3" in shown


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*download_omniglot"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(zips, part):
    (zips / f"{part}.zip").unlink()
    with pytest.raises(FileNotFoundError, match=f"neither {part}.zip nor a folder {part}"):
        read(zips)


def test_a_folder_or_zip_without_drawings_is_refused(zips, folders):
    shutil.rmtree(folders / "images_evaluation/Keble")
    shutil.rmtree(folders / "images_evaluation/Atlantean")
    write_zip(zips, "images_evaluation", {"README.md": b"nothing here"})
    for folder, name in ((folders, "images_evaluation'"), (zips, r"images_evaluation\.zip'")):
        with pytest.raises(FileNotFoundError, match=f"no drawings in .*{name}"):
            read(folder)


def zeroed(data):
    return data[:1000] + bytes(100) + data[1100:]


def packed_in_an_unknown_way(data):
    changed = bytearray(data)
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    changed[local + 8] = changed[central + 10] = 99
    return changed


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 3],
        lambda data: data[: int(0.999 * len(data))],
        zeroed,
        packed_in_an_unknown_way,
    ],
    ids=["empty", "cut", "cut at the end", "zeroed", "unknown"],
)
def test_a_damaged_zip_is_named(zips, damage):
    path = zips / "images_evaluation.zip"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"images_evaluation\.zip' is damaged or cut short"):
        read(zips)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda greek: (greek / "0002_07.png").unlink(),
            "19 drawings of Greek/character01 in .*_b",
        ),
        (lambda greek: (greek / "0002_21.png").write_bytes(png(1)), "21 drawings of Greek/char"),
        (lambda greek: (greek / "0002_07.png").rename(greek / "0003_08.png"), "each of 20 drawers"),
    ],
    ids=["missing", "too many", "a drawer twice"],
)
def test_other_than_one_drawing_by_each_drawer_is_refused_with_the_character(folders, change, said):
    change(folders / "images_background/Greek/character01")
    with pytest.raises(ValueError, match=said):
        read(folders)


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"no image", lambda data: data[:-30], lambda data: data[:40]],
    ids=["empty", "text", "cut at the end", "cut at the start"],
)
def test_a_drawing_that_cannot_be_decoded_is_named(folders, damage):
    path = folders / "images_background/Greek/character01/0002_07.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot decode .*Greek/character01/0002_07\.png"):
        read(folders)


@pytest.mark.parametrize("byte", range(8, 200, 7))
def test_a_drawing_with_a_flipped_byte_is_read_or_refused_by_name(byte):
    data = bytearray(png(3))
    data[byte % len(data)] ^= 0x55
    try:
        assert module._decode(bytes(data), 28, "here").shape == (28, 28)
    except ValueError as error:
        assert str(error).startswith("cannot decode here")


@pytest.mark.parametrize(
    ("package", "name"), [("PIL", "Pillow"), ("tqdm", "tqdm"), ("torchvision", "torchvision")]
)
def test_a_missing_package_gives_the_command_that_brings_it(zips, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    action = download_omniglot if package == "torchvision" else read_omniglot
    with pytest.raises(ModuleNotFoundError) as caught:
        action(zips)
    assert f'needs {name}: pip install "rarememory[vision]"' in str(caught.value)


def test_download_asks_torchvision_for_both_parts_and_gives_the_folder(monkeypatch, tmp_path):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    asked = []
    monkeypatch.setattr(
        torchvision.datasets, "Omniglot", lambda root, **options: asked.append((root, options))
    )
    assert download_omniglot(tmp_path) == tmp_path
    assert asked == [
        (str(tmp_path), {"background": background, "download": True})
        for background in (True, False)
    ]


def test_the_real_omniglot_has_964_and_659_characters_by_20_drawers():
    real = omniglot()
    assert real.background.images.shape == (964, 20, 28, 28)
    assert real.evaluation.images.shape == (659, 20, 28, 28)
    assert len({name.split("/")[0] for name in real.characters.names}) == 50
    # The faintest drawing of all keeps a visible stroke.
    assert real.characters.images.amax(dim=(2, 3)).min() >= 150


def test_the_lists_of_vinyals_fit_the_real_characters():
    split = listed_split(omniglot_folder() / "splits_vinyals")
    rotated = omniglot().characters.rotated()
    for part, n_characters in ((split.train, 1028), (split.validation, 172), (split.test, 423)):
        assert len(rotated.select(part)) == 4 * n_characters
        assert len({character_of(name) for name in part}) == n_characters


def test_the_default_split_of_the_real_characters_has_its_printed_checksum():
    split = hashed_split(omniglot().characters.names)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1028, 172, 423]
    assert checksum(split) == "443c6f479f26"
    assert checksum(folder_split(omniglot())) == "c771a41682d7"
