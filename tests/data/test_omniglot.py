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

PARTS = {
    "images_background": [
        "Greek/character02",
        "Greek/character01",
        "Japanese_(katakana)/character10",
    ],
    "images_evaluation": ["Keble/character01", "Atlantean/character01"],
}
ROOT = Path(__file__).resolve().parents[2]
PLACES = (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot")
REAL = next((place for place in PLACES if place.is_dir()), PLACES[0])
real = pytest.mark.skipif(
    not REAL.is_dir(), reason="no Omniglot in data/ or ../shared/data/omniglot"
)


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


@pytest.fixture
def zips(tmp_path):
    folder = tmp_path / "zips"
    for part in PARTS:
        write_zip(folder, part, drawings(part))
    return folder


@pytest.fixture
def folders(tmp_path):
    folder = tmp_path / "folders"
    for part in PARTS:
        write_folder(folder, drawings(part))
    return folder


def read(folder, size=28):
    return read_omniglot(folder, size=size, progress=False)


def same(left, right):
    return left.names == right.names and torch.equal(left.images, right.images)


def test_each_part_is_read_by_itself_sorted_by_name(zips):
    omniglot = read(zips)
    assert omniglot.background.names == tuple(sorted(PARTS["images_background"]))
    assert omniglot.evaluation.names == tuple(sorted(PARTS["images_evaluation"]))
    assert omniglot.background.images.shape == (3, 20, 28, 28)
    assert omniglot.background.images.dtype == torch.uint8


def test_the_characters_of_both_parts_are_sorted_by_name_and_keep_their_drawings(zips):
    omniglot = read(zips)
    every = omniglot.characters
    assert every.names == tuple(sorted(PARTS["images_background"] + PARTS["images_evaluation"]))
    for part in omniglot:
        assert same(every.select(part.names), part)


def test_drawing_d_is_by_drawer_d_plus_one_with_ink_255_on_0(zips):
    greek = read(zips, size=105).background.select(["Greek/character02"])
    for drawer in range(1, 21):
        original = np.asarray(Image.open(io.BytesIO(png(100 + drawer))))
        expected = np.where(original, 0, 255)
        assert np.array_equal(greek.images[0, drawer - 1].numpy(), expected)


@pytest.mark.parametrize("size", [28, 33, 129])
def test_scaling_keeps_the_ink_of_a_thin_stroke(tmp_path, size):
    for part in PARTS:
        write_zip(tmp_path, part, drawings(part))
    full, small = read(tmp_path, 105).characters, read(tmp_path, size).characters
    assert small.images.shape[2:] == (size, size)
    means = [some.images.float().mean(dim=(2, 3)) for some in (full, small)]
    torch.testing.assert_close(means[1], means[0], rtol=0.15, atol=0.5)
    assert small.images.amax(dim=(2, 3)).min() > 160


def test_a_drawing_can_be_one_pixel(zips):
    assert read(zips, size=1).characters.images.shape == (5, 20, 1, 1)


def test_zip_and_folder_read_the_same(zips, folders):
    assert all(same(a, b) for a, b in zip(read(zips), read(folders), strict=True))


def test_the_layout_of_torchvision_reads_the_same(zips, folders, tmp_path):
    shutil.copytree(zips, tmp_path / "fetched" / "omniglot-py")
    shutil.copytree(folders, tmp_path / "unpacked" / "omniglot-py")
    for name in ("fetched", "unpacked"):
        found = read(tmp_path / name)
        assert all(same(a, b) for a, b in zip(read(zips), found, strict=True))


def test_one_part_may_be_a_zip_and_the_other_a_folder(zips, folders):
    shutil.rmtree(folders / "images_background")
    shutil.copy(zips / "images_background.zip", folders)
    assert same(read(folders).characters, read(zips).characters)


def test_a_string_names_the_folder_as_well_as_a_path(zips):
    assert same(read(str(zips)).characters, read(zips).characters)


def test_what_an_archiver_left_beside_the_drawings_is_passed_over(zips, folders):
    files = drawings("images_background")
    litter = {f"__MACOSX/{path.replace('/0', '/._0')}": b"no image" for path in files}
    write_zip(zips, "images_background", {**files, **litter, "images_background/note.png": b"no"})
    write_folder(folders, {"images_background/Greek/character01/._0002_01.png": b"no image"})
    assert same(read(zips).background, read(folders).background)


def test_progress_is_shown_in_characters(zips, capsys):
    read_omniglot(zips)
    shown = capsys.readouterr().err
    assert "images_background: 100%" in shown
    assert "3/3" in shown


def test_no_progress_prints_nothing(zips, capsys):
    read(zips)
    assert capsys.readouterr() == ("", "")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*download_omniglot"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(zips, part):
    (zips / f"{part}.zip").unlink()
    with pytest.raises(FileNotFoundError, match=f"neither {part}.zip nor a folder {part}"):
        read(zips)


def test_a_folder_without_drawings_is_refused(folders):
    shutil.rmtree(folders / "images_evaluation")
    (folders / "images_evaluation" / "Keble" / "character01").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no drawings in .*images_evaluation"):
        read(folders)


def test_a_zip_without_drawings_is_refused(zips):
    write_zip(zips, "images_evaluation", {"README.md": b"nothing here"})
    with pytest.raises(FileNotFoundError, match=r"no drawings in .*images_evaluation\.zip"):
        read(zips)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_zip_cut_short_is_named(zips, kept):
    path = zips / "images_evaluation.zip"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"images_evaluation\.zip' is damaged or cut short"):
        read(zips)


def test_a_zip_with_changed_bytes_is_named(zips):
    path = zips / "images_evaluation.zip"
    data = bytearray(path.read_bytes())
    data[1000:1100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"images_evaluation\.zip' is damaged or cut short"):
        read(zips)


def test_a_zip_packed_in_a_way_unknown_is_named(zips):
    path = zips / "images_evaluation.zip"
    data = bytearray(path.read_bytes())
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    data[local + 8] = data[central + 10] = 99
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"images_evaluation\.zip' is damaged or cut short"):
        read(zips)


def test_a_drawing_that_is_lacking_is_refused_with_the_character(folders):
    (folders / "images_background/Greek/character01/0002_07.png").unlink()
    with pytest.raises(ValueError, match=r"19 drawings of Greek/character01 in .*images_b"):
        read(folders)


def test_a_drawing_too_many_is_refused_with_the_character(folders):
    write_folder(folders, {"images_background/Greek/character01/0002_21.png": png(1)})
    with pytest.raises(ValueError, match="21 drawings of Greek/character01"):
        read(folders)


def test_twenty_drawings_not_by_twenty_drawers_are_refused(folders):
    greek = folders / "images_background/Greek/character01"
    (greek / "0002_07.png").rename(greek / "0003_08.png")
    with pytest.raises(ValueError, match="one by each of 20 drawers"):
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


def test_a_size_below_one_pixel_is_refused(zips):
    with pytest.raises(ValueError, match="size is 0"):
        read(zips, size=0)


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


@pytest.fixture(scope="module")
def omniglot():
    return read_omniglot(REAL, progress=False)


@real
def test_the_real_omniglot_has_964_and_659_characters_by_20_drawers(omniglot):
    assert omniglot.background.images.shape == (964, 20, 28, 28)
    assert omniglot.evaluation.images.shape == (659, 20, 28, 28)
    assert len({name.split("/")[0] for name in omniglot.characters.names}) == 50
    # The faintest drawing of all keeps a visible stroke.
    assert omniglot.characters.images.amax(dim=(2, 3)).min() >= 150


@real
def test_the_lists_of_vinyals_fit_the_real_characters(omniglot):
    split = listed_split(REAL / "splits_vinyals")
    rotated = omniglot.characters.rotated()
    for part, n_characters in ((split.train, 1028), (split.validation, 172), (split.test, 423)):
        assert len(rotated.select(part)) == 4 * n_characters
        assert len({character_of(name) for name in part}) == n_characters


@real
def test_the_default_split_of_the_real_characters_has_its_printed_checksum(omniglot):
    split = hashed_split(omniglot.characters.names)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1028, 172, 423]
    assert checksum(split) == "443c6f479f26"
    assert checksum(folder_split(omniglot)) == "c771a41682d7"
