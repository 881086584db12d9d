"""The encoders: shapes, and the shipped weights."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from rarememory import Memory
from rarememory.backbones import (
    BACKBONES,
    Conv4,
    Ensemble,
    PaperCNN,
    Residual,
    omniglot_encoder,
    stored_encoder,
    unseen_characters,
)
from rarememory.data import character_of, folder_split, listed_split
from rarememory.evaluation import embed, support_query_accuracy
from tests.sources import omniglot, omniglot_folder

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "rarememory" / "weights" / "omniglot.safetensors"
IMAGES = torch.rand(2, 1, 28, 28)


def read_back(weights, folder):
    save_file(weights, folder / "weights.safetensors")
    return stored_encoder(folder / "weights.safetensors")


@pytest.mark.parametrize("backbone", [Conv4, PaperCNN, Residual])
@pytest.mark.parametrize("size", [28, 33])
def test_an_encoder_makes_keys_of_images(backbone, size):
    keys = backbone(12, size=size)(torch.rand(3, 1, size, size))
    assert keys.shape == (3, 12)
    keys.square().sum().backward()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("half", [False, True])
def test_a_stored_encoder_is_read_back_with_the_size_of_its_drawings(name, half, tmp_path):
    encoder = BACKBONES[name](12).eval()
    assert encoder.size == (56 if name == "residual56" else 28)
    weights = encoder.state_dict()
    read = read_back({k: v.half() if half else v for k, v in weights.items()}, tmp_path)
    assert type(read) is type(encoder) and read.size == encoder.size and not read.training
    images = torch.rand(2, 1, encoder.size, encoder.size)
    torch.testing.assert_close(read(images), encoder(images), atol=1e-2 * half, rtol=0)


def test_the_papers_cnn_has_the_papers_layers():
    counts = [parameter.numel() for parameter in PaperCNN(256).parameters() if parameter.dim() > 1]
    convolutions = [9 * 64, 9 * 64 * 64, 9 * 64 * 128, 9 * 128 * 128]
    assert counts == [*convolutions, 128 * 7 * 7 * 256, 256 * 256]


def test_conv_4_has_four_convolutions_of_64():
    counts = [parameter.numel() for parameter in Conv4(128).parameters() if parameter.dim() == 4]
    assert counts == [9 * 64, *[9 * 64 * 64] * 3]


def test_the_shipped_encoder_is_small_and_the_one_that_the_committed_result_tested():
    assert SHIPPED.stat().st_size <= 2_000_000
    result = ROOT / "benchmarks" / "results" / "omniglot_shipped.json"
    tested = json.loads(result.read_text(encoding="utf-8"))["weights_sha256"]
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == tested


def test_the_shipped_encoder_knows_new_characters_from_one_drawing():
    # The test characters of the Vinyals split are all among the evaluation characters.
    names = folder_split(omniglot()).test[::14]
    keys = embed(omniglot_encoder(), omniglot().characters.select(names).images)
    accuracy = support_query_accuracy(Memory(128, 20), keys, n_way=20, n_shot=1, n_episodes=100)
    assert accuracy.mean > 0.95


def test_a_cosine_of_an_ensemble_is_the_mean_of_its_members_cosines():
    members = [Conv4(12).eval(), Residual(7).eval(), Conv4(12).eval()]
    images = torch.rand(5, 1, 28, 28)
    each = [normalize(encoder(images), dim=1) for encoder in members]
    keys = normalize(Ensemble(members)(images), dim=1)
    torch.testing.assert_close(keys @ keys.T, sum(k @ k.T for k in each) / 3)


def test_an_ensemble_is_of_encoders_of_images_of_one_size():
    with pytest.raises(ValueError, match=r"encoders of images of 2 sizes, \[28, 56\]"):
        Ensemble([Conv4(12), Conv4(12, size=56)])
    with pytest.raises(ValueError, match="encoders of images of 0 sizes"):
        Ensemble([])


def test_a_stored_ensemble_is_read_with_its_members_in_their_order(tmp_path):
    # More than ten: as text, 10 comes before 2.
    encoder = Ensemble([*(Conv4(n) for n in range(1, 12)), PaperCNN(5)]).eval()
    read = read_back(encoder.state_dict(), tmp_path)
    assert type(read) is Ensemble and read.size == 28 and not read.encoders[-1].training
    assert torch.equal(read(IMAGES), encoder(IMAGES))


def test_what_is_no_encoder_of_ours_is_refused(tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        stored_encoder(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no safetensors file"):
        stored_encoder(path)
    member = {f"encoders.0.{name}": each for name, each in Conv4(12).state_dict().items()}
    for other in (
        *({}, {"weight": torch.zeros(3, 3)}, Conv4(12, size=56).state_dict()),
        *(member | {"weight": torch.zeros(3, 3)}, {"encoders.1.weight": torch.zeros(3, 3)}),
    ):
        with pytest.raises(ValueError, match="none of residual, residual56, conv4, paper"):
            read_back(other, tmp_path)


def test_the_characters_never_seen_are_the_test_of_vinyals_split_in_its_order():
    listed = listed_split(omniglot_folder() / "splits_vinyals").test
    assert unseen_characters() == tuple(dict.fromkeys(character_of(name) for name in listed))
