"""The whole benchmark, from zips to the result file, on a handful of made-up characters."""

import hashlib
import io
import json
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import results
from benchmarks.omniglot import training as omniglot
from rarememory.backbones import Conv4
from rarememory.data import draw_glyphs
from rarememory.evaluation import embed


@pytest.fixture
def folder(tmp_path):
    """15 characters of three alphabets, in Omniglot's own form, and lists of 5 / 5 / 5."""
    images = draw_glyphs(15, 20, size=105).images
    data = tmp_path / "omniglot"
    data.mkdir()
    for part, classes in (("images_background", range(10)), ("images_evaluation", range(10, 15))):
        with zipfile.ZipFile(data / f"{part}.zip", "w") as archive:
            for index in classes:
                for drawer in range(20):
                    picture = Image.fromarray(np.asarray(images[index, drawer]) < 128)
                    png = io.BytesIO()
                    picture.save(png, "png")
                    alphabet, character = divmod(index, 5)
                    archive.writestr(
                        f"{part}/Alphabet{alphabet}/character{character + 1:02}/"
                        f"{index + 1:04}_{drawer + 1:02}.png",
                        png.getvalue(),
                    )
    lists = tmp_path / "lists"
    lists.mkdir()
    for alphabet, name in enumerate(("train", "val", "test")):
        lines = [
            f"Alphabet{alphabet}/character{character:02}/rot{angle:03}"
            for character in range(1, 6)
            for angle in (0, 90, 180, 270)
        ]
        (lists / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", folder)
    monkeypatch.setattr(omniglot, "RESULTS", folder)
    monkeypatch.chdir(folder)

    def run(*more):
        return omniglot.main(
            [
                *("--data", str(folder / "omniglot"), "--split", str(folder / "lists")),
                *("--backbone", "conv4", "--train-ways", "8", "--episodes", "4"),
                *("--weights", str(folder / "weights" / "conv4.safetensors"), *more),
            ]
        )

    return run


def test_it_trains_tests_and_says_where_everything_came_from(run, folder):
    assert run("--steps", "4", "--validate", "2") == 0
    result = json.loads((folder / "runs" / "omniglot_listed_conv4.json").read_text())
    tasks = [f"{way}w{shot}s" for way in (5, 20) for shot in (1, 5)]
    keys = {f"omniglot.listed.{p}.{task}" for p in ("sighting", "support") for task in tasks}
    assert set(result["figures"]) == keys | {f"{key}.interval" for key in keys}
    assert all(0 <= result["figures"][key] <= 100 for key in keys)
    assert result["seed"] == 0 and result["episodes"] == 4 and len(result["split"]) == 12
    assert str(folder) not in json.dumps(result)
    weights = (folder / "weights" / "conv4.safetensors").read_bytes()
    assert result["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(result["accuracy_by_sighting"]["20-way"]) == 11
    assert (folder / "runs" / "omniglot_listed_conv4.png").stat().st_size > 1000


def test_a_quick_try_does_not_replace_a_published_result(run, folder):
    assert run("--steps", "1") == 0
    assert not list(folder.glob("omniglot*.json"))
    assert omniglot._options([]).published
    assert not omniglot._options(["--seed", "1"]).published
    # Its figures have the same keys.
    assert not omniglot._options(["--backbone", "conv4"]).published


def test_the_weights_it_writes_are_those_it_tested(run, folder, monkeypatch):
    tested = []
    monkeypatch.setattr(
        omniglot, "embed", lambda *given: tested.append(embed(*given)) or tested[-1]
    )
    assert run("--steps", "2") == 0
    encoder = Conv4(omniglot.KEY_DIM)
    encoder.load_state_dict(load_file(folder / "weights" / "conv4.safetensors"))
    stored = encoder.head.weight.detach()
    assert torch.equal(stored, stored.half().float())
    characters = omniglot.read_omniglot(folder / "omniglot").evaluation.rotated()
    assert torch.allclose(embed(encoder, characters.images), tested[-1], atol=1e-5)


def test_another_split_never_meets_what_this_one_has_trained_on(run, folder, capsys):
    assert run("--steps", "1") == 0
    for name in ("train", "test"):
        (folder / "lists" / f"{name}.txt").rename(folder / "lists" / f"{name}.old")
    (folder / "lists" / "train.old").rename(folder / "lists" / "test.txt")
    (folder / "lists" / "test.old").rename(folder / "lists" / "train.txt")
    before = list((folder / "runs").glob("*.pt"))
    assert run("--steps", "1", "--checkpoint", str(before[0])) == 1
    assert "the checkpoint is of other images" in capsys.readouterr().err
    assert run("--steps", "1") == 0
    assert len(list((folder / "runs").glob("*.pt"))) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(run, folder, monkeypatch, capsys):
    monkeypatch.setattr(omniglot, "train", partial(omniglot.train, every=2))
    advance, begun = omniglot.Training.advance, []

    def interrupted(training):
        if training.step == 3:
            raise KeyboardInterrupt
        begun.append(training.step)
        return advance(training)

    monkeypatch.setattr(omniglot.Training, "advance", interrupted)
    assert run("--steps", "5") == 130
    assert "the same command goes on from" in capsys.readouterr().err
    monkeypatch.setattr(
        omniglot.Training,
        "advance",
        lambda training: begun.append(training.step) or advance(training),
    )
    assert run("--steps", "5") == 0
    (checkpoint,) = (folder / "runs").glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 5
    assert begun == [0, 1, 2, 2, 3, 4]


def test_a_listed_class_that_is_not_in_the_data_is_named(run, folder, capsys):
    (folder / "lists" / "val.txt").write_text("Alphabet9/character01/rot000\n")
    assert run("--steps", "1") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("no class 'Alphabet9/character01")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--split", "no-lists"), "no-lists"),
        (("--train-ways", "99"), "n_way is 99"),
        (("--episodes", "1"), "--episodes is 1: an interval needs at least 2"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run, capsys, more, said):
    assert run("--steps", "1", *more) == 1
    assert said in capsys.readouterr().err
