"""Files of tensors: equal ones for equal tensors, read once, and refused if they were changed."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rarememory.base import tensor_files
from rarememory.base.tensor_files import encoded, read_tensors

TENSORS = {
    "keys": torch.arange(6.0).view(2, 3),
    "values": torch.tensor([7, -1]),
    "half": torch.ones(3, dtype=torch.float16),
    "none": torch.zeros(0),
}
TEXTS = {name: name * 3 for name in ("format", "version", "header", "é", "a", "b", "c")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "birds.safetensors"


def test_equal_tensors_and_texts_give_equal_bytes(path):
    content = encoded(TENSORS, TEXTS)
    backwards = [dict(reversed(part.items())) for part in (TENSORS, TEXTS)]
    assert all(encoded(*backwards) == content for _ in range(20))
    path.write_bytes(content)
    tensors, texts = read_tensors(path)
    assert texts == TEXTS and tensors.keys() == TENSORS.keys()
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, TENSORS[name]) and torch.equal(tensor, tensors[name])


def test_the_digest_is_that_of_header_and_data(path):
    content = encoded(TENSORS, TEXTS)
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    digest = header["__metadata__"].pop("sha256")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode() + content[begin:]).hexdigest()
    assert begin % 8 == 0


def test_a_turned_bit_is_seen_wherever_it_is(path):
    content = encoded(TENSORS, TEXTS)
    for place in range(0, len(content), 7):
        spoilt = bytearray(content)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        if b'"sha256"' not in spoilt:
            # Then there is no digest, but a text by a name that nobody has given it.
            assert read_tensors(path)[1].keys() > TEXTS.keys()
            continue
        with pytest.raises(ValueError, match=r"is damaged: its content is not|is no safetensors"):
            read_tensors(path)


def test_a_file_of_another_program_has_no_digest_and_is_read(path):
    save_file(TENSORS, path, {"format": "pt"})
    assert read_tensors(path)[1] == {"format": "pt"}
    save_file(TENSORS, path)
    assert read_tensors(path)[1] == {}


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(path, monkeypatch):
    path.write_bytes(encoded({"keys": torch.ones(2)}, {"of": "ones"}))
    read = Path.read_bytes

    def read_and_replace(self):
        content = read(self)
        self.write_bytes(encoded({"keys": torch.zeros(2)}, {"of": "zeros"}))
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    tensors, texts = read_tensors(path)
    assert texts == {"of": "ones"} and tensors["keys"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0{}      ",
        b"\xff" * 16,
        b"\x02\0\0\0\0\0\0\0[]",
        b"PK\x03\x04" * 9,
        (8).to_bytes(8, "little") + b'{"a":7} ',
        (2016).to_bytes(8, "little") + b'{"a":{"dtype":"' + b"x" * 1998 + b'"}}',
    ],
)
def test_whatever_else_is_refused_in_one_line(path, content):
    path.write_bytes(content)
    if content.endswith(b"{}      "):
        assert read_tensors(path) == ({}, {})
        return
    with pytest.raises(ValueError, match="is no safetensors file, or only a part of one") as error:
        read_tensors(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("error", [KeyError("a\nb"), RecursionError("a\n b"), TypeError()])
def test_whatever_the_parser_stumbles_over_is_said_in_one_line(path, monkeypatch, error):
    def stumble(_):
        raise error

    monkeypatch.setattr(tensor_files, "load", stumble)
    path.write_bytes(encoded(TENSORS, TEXTS))
    with pytest.raises(ValueError, match=r"only a part of one \((a b|'a\\nb'|TypeError)\)") as said:
        read_tensors(path)
    assert "\n" not in str(said.value)


def test_what_is_no_file_is_refused(path):
    for place in (path, path.parent):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_tensors(place)
