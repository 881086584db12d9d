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
from benchmarks.omniglot import command, testing, training
from rarememory.backbones import Conv4, Ensemble, stored_encoder
from rarememory.data import draw_glyphs
from rarememory.evaluation import embed, support_query_accuracy
from rarememory.training import Training


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
    monkeypatch.setattr(command, "RESULTS", folder)
    monkeypatch.chdir(folder)

    def run(*more):
        return command.main(
            [
                *("--data", str(folder / "omniglot"), "--split", str(folder / "lists")),
                *("--backbone", "conv4", "--train-ways", "5", "--episodes", "4", "--copies", "1"),
                *("--seeds", "0"),
                *("--weights", str(folder / "weights" / "conv4.safetensors"), *more),
            ]
        )

    return run


def test_it_trains_tests_and_says_where_everything_came_from(run, folder):
    assert run("--steps", "4", "--validate", "2") == 0
    result = json.loads((folder / "runs" / "omniglot_listed.json").read_text())
    tasks = [f"{way}w{shot}s" for way in (5, 20) for shot in (1, 5)]
    protocols = ("sighting", "support", "mean", "jittered")
    names = {f"{protocol}.{task}" for protocol in protocols for task in tasks}
    names |= {f"by_shot.{way}w5s" for way in (5, 20)}
    upright = ("upright", "mean.upright", "jittered.upright")
    names |= {f"{one}.5w{n}s" for one in upright for n in (1, 5)}
    keys = {f"omniglot.listed.{name}" for name in names}
    assert set(result["figures"]) == keys | {f"{key}.interval" for key in keys}
    assert all(0 <= result["figures"][key] <= 100 for key in keys)
    assert result["seed"] == 0 and result["episodes"] == 4 and len(result["split"]) == 12
    assert str(folder) not in json.dumps(result)
    weights = (folder / "weights" / "conv4.safetensors").read_bytes()
    assert result["weights_sha256"] == [hashlib.sha256(weights).hexdigest()]
    assert len(result["accuracy_by_sighting"]["20-way"]) == 11
    assert (folder / "runs" / "omniglot_listed.png").stat().st_size > 1000


def test_a_quick_try_does_not_replace_a_published_result(run, folder):
    assert run("--steps", "1") == 0
    assert not list(folder.glob("omniglot*.json"))
    assert command._options([]).published
    # Their figures have the same keys.
    assert not command._options(["--backbone", "conv4"]).published
    assert not command._options(["--seeds", "0"]).published


def test_on_wish_it_only_trains(run, folder):
    assert run("--steps", "1", "--untested") == 0
    assert (folder / "weights" / "conv4.safetensors").exists()
    assert not list(folder.rglob("omniglot_*.json"))


def test_encoders_of_several_seeds_are_tested_side_by_side_and_alone(run, folder):
    assert run("--steps", "2", "--seeds", "0", "1") == 0
    result = json.loads((folder / "runs" / "omniglot_listed.json").read_text())
    figures = result["figures"]
    one, other = result["by_seed"]
    assert one != other and len(set(result["weights_sha256"])) == 2
    for key in ("alone.5w5s", "alone.20w1s", "alone.upright.5w1s"):
        assert figures[f"omniglot.listed.{key}"] == pytest.approx(
            (one[key] + other[key]) / 2, abs=1e-3
        )
        within = (one[f"{key}.interval"] ** 2 + other[f"{key}.interval"] ** 2) / 2
        # 12.706: Student's t of two seeds.
        between = 12.706**2 * (one[key] - other[key]) ** 2 / 2 / 2
        assert figures[f"omniglot.listed.{key}.interval"] == pytest.approx(
            (within + between) ** 0.5, abs=1e-3
        )
    both = stored_encoder(folder / "weights" / "conv4.safetensors")
    assert isinstance(both, Ensemble)
    assert result["parameters"] == sum(each.numel() for each in both.parameters())
    members = map(stored_encoder, sorted((folder / "runs").glob("*_[01].safetensors")))
    expected = [found["alone.20w1s"] for found in result["by_seed"]]
    characters = command.read_omniglot(folder / "omniglot").evaluation.rotated()
    for encoder, figure in zip(
        (both, *members), (figures["omniglot.listed.support.20w1s"], *expected), strict=True
    ):
        embeddings = embed(encoder, characters.images)
        memory = testing.memory_for(embeddings.shape[2], 20, testing.ATTENDED)
        accuracy = support_query_accuracy(
            memory, embeddings, n_way=20, n_shot=1, n_episodes=4, **testing.ATTENDED
        )
        assert 100 * accuracy.mean == pytest.approx(figure, abs=1e-3)


def test_without_validation_the_characters_to_choose_by_are_learnt_too(run, monkeypatch):
    shown = []

    def watched(encoder, memory, images, recipe, families):
        shown.append((len(images), len(families.unique())))
        return Training(encoder, memory, images, recipe, families)

    monkeypatch.setattr(training, "Training", watched)
    assert run("--steps", "1") == 0
    assert run("--steps", "1", "--validate", "1", "--backbone", "paper") == 0
    # Five characters a part, four rotations each, mirrored.
    assert shown == [(80, 10), (40, 5)]


def test_the_weights_it_writes_are_those_it_tested(run, folder, monkeypatch):
    tested = []
    monkeypatch.setattr(testing, "embed", lambda *given: tested.append(embed(*given)) or tested[-1])
    assert run("--steps", "2") == 0
    encoder = Conv4(training.KEY_DIM)
    encoder.load_state_dict(load_file(folder / "weights" / "conv4.safetensors"))
    stored = encoder.head.weight.detach()
    assert torch.equal(stored, stored.half().float())
    characters = command.read_omniglot(folder / "omniglot").evaluation.rotated()
    assert torch.allclose(embed(encoder, characters.images), tested[-1], atol=1e-5)


def test_another_split_never_meets_what_this_one_has_trained_on(run, folder, capsys):
    assert run("--steps", "1") == 0
    for name in ("train", "test"):
        (folder / "lists" / f"{name}.txt").rename(folder / "lists" / f"{name}.old")
    (folder / "lists" / "train.old").rename(folder / "lists" / "test.txt")
    (folder / "lists" / "test.old").rename(folder / "lists" / "train.txt")
    (before,) = (folder / "runs").glob("*.pt")
    assert run("--steps", "1") == 0
    (other,) = set((folder / "runs").glob("*.pt")) - {before}
    before.replace(other)
    assert run("--steps", "1") == 1
    assert "the checkpoint is of other images" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_stopped(run, folder, monkeypatch, capsys):
    monkeypatch.setattr(training, "train", partial(training.train, every=2))
    advance, begun = Training.advance, []

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        begun.append(self.step)
        return advance(self)

    monkeypatch.setattr(Training, "advance", interrupted)
    assert run("--steps", "5") == 130
    assert "the same command goes on from" in capsys.readouterr().err
    monkeypatch.setattr(Training, "advance", lambda self: begun.append(self.step) or advance(self))
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
