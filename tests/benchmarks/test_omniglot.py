"""The whole benchmark, from zips to the result file, on a handful of made-up characters."""

import hashlib
import io
import shutil
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.omniglot import command, testing, training
from rarememory.backbones import Ensemble, stored_encoder
from rarememory.data import draw_glyphs, read_omniglot
from rarememory.evaluation import embed, support_query_accuracy
from rarememory.training import Training


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """15 characters of three alphabets, in Omniglot's own form, and lists of 5 / 5 / 5."""
    folder = tmp_path_factory.mktemp("omniglot")
    images = draw_glyphs(15, 20, size=105).images
    for part, classes in (("images_background", range(10)), ("images_evaluation", range(10, 15))):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for index in classes:
                alphabet, character = divmod(index, 5)
                name = f"{part}/Alphabet{alphabet}/character{character + 1:02}/{index + 1:04}"
                for drawer in range(20):
                    picture, png = (
                        Image.fromarray(np.asarray(images[index, drawer]) < 128),
                        io.BytesIO(),
                    )
                    picture.save(png, "png")
                    archive.writestr(f"{name}_{drawer + 1:02}.png", png.getvalue())
    lists = folder / "lists"
    lists.mkdir()
    for alphabet, name in enumerate(("train", "val", "test")):
        lines = [
            f"Alphabet{alphabet}/character{character:02}/rot{angle:03}"
            for character in range(1, 6)
            for angle in (0, 90, 180, 270)
        ]
        (lists / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folder(omniglot, folders, tmp_path):
    """With lists that a test may change."""
    shutil.copytree(omniglot / "lists", tmp_path / "lists")
    return tmp_path


@pytest.fixture
def run(omniglot, folder, narrow):
    def run(*more):
        return command.main(
            [
                *("--data", str(omniglot), "--split", str(folder / "lists")),
                *("--backbone", "conv4", "--train-ways", "5", "--episodes", "2", "--copies", "1"),
                *("--seeds", "0"),
                *("--weights", str(folder / "weights" / "conv4.safetensors"), *more),
            ]
        )

    return run


def test_it_trains_tests_and_says_where_everything_came_from(run, folder, folders):
    assert run("--steps", "3", "--validate", "2") == 0
    tasks = [f"{way}w{shot}s" for way in (5, 20) for shot in (1, 5)]
    protocols = ("sighting", "support", "mean", "jittered")
    names = {f"{protocol}.{task}" for protocol in protocols for task in tasks}
    names |= {f"by_shot.{way}w5s" for way in (5, 20)}
    upright = ("upright", "mean.upright", "jittered.upright")
    names |= {f"{one}.5w{n}s" for one in upright for n in (1, 5)}
    folders.percentages("omniglot_listed", {f"omniglot.listed.{name}" for name in names})
    result = folders.result("omniglot_listed")
    assert result["seed"] == 0 and result["episodes"] == 2 and len(result["split"]) == 12
    weights = (folder / "weights" / "conv4.safetensors").read_bytes()
    assert result["weights_sha256"] == [hashlib.sha256(weights).hexdigest()]
    assert len(result["accuracy_by_sighting"]["20-way"]) == 11
    assert (folders.runs / "omniglot_listed.png").stat().st_size > 1000


def test_on_wish_it_only_trains(run, folder):
    assert run("--steps", "1", "--untested") == 0
    assert (folder / "weights" / "conv4.safetensors").exists()
    assert not list(folder.rglob("omniglot_*.json"))


def test_encoders_of_several_seeds_are_tested_as_written_side_by_side_and_alone(
    run, omniglot, folder, folders
):
    assert run("--steps", "2", "--seeds", "0", "1") == 0
    result = folders.result("omniglot_listed")
    figures = result["figures"]
    one, other = result["by_seed"]
    assert one != other and len(set(result["weights_sha256"])) == 2
    for key in ("alone.5w5s", "alone.20w1s", "alone.upright.5w1s"):
        assert figures[f"omniglot.listed.{key}"] == pytest.approx(
            (one[key] + other[key]) / 2, abs=1e-3
        )
        within = (one[f"{key}.interval"] ** 2 + other[f"{key}.interval"] ** 2) / 2
        # 12.7062: Student's t of two seeds.
        between = 12.7062**2 * (one[key] - other[key]) ** 2 / 2 / 2
        assert figures[f"omniglot.listed.{key}.interval"] == pytest.approx(
            (within + between) ** 0.5, abs=1e-3
        )
    both = stored_encoder(folder / "weights" / "conv4.safetensors")
    assert isinstance(both, Ensemble)
    assert result["parameters"] == sum(each.numel() for each in both.parameters())
    files = sorted(folders.runs.glob("*_[01].safetensors"))
    assert all(weight.dtype != torch.float32 for weight in load_file(files[0]).values())
    members = map(stored_encoder, files)
    expected = [found["alone.20w1s"] for found in result["by_seed"]]
    characters = read_omniglot(omniglot).evaluation.rotated()
    for encoder, figure in zip(
        (both, *members), (figures["omniglot.listed.support.20w1s"], *expected), strict=True
    ):
        embeddings = embed(encoder, characters.images)
        memory = testing.memory_for(embeddings.shape[2], 20, testing.ATTENDED)
        accuracy = support_query_accuracy(
            memory, embeddings, n_way=20, n_shot=1, n_episodes=2, **testing.ATTENDED
        )
        assert 100 * accuracy.mean == pytest.approx(figure, abs=1e-3)


def test_without_validation_the_validation_characters_are_trained_on_too(run, monkeypatch):
    seen = []

    def watched(encoder, memory, images, recipe, families):
        seen.append((len(images), len(families.unique())))
        return Training(encoder, memory, images, recipe, families)

    monkeypatch.setattr(training, "Training", watched)
    assert run("--steps", "1", "--untested") == 0
    assert run("--steps", "1", "--untested", "--validate", "9", "--seeds", "1") == 0
    # Five characters a part, four rotations each, mirrored.
    assert seen == [(80, 10), (40, 5)]


def test_an_encoder_of_one_split_is_not_tested_on_another(run, folder, capsys):
    assert run("--steps", "1", "--untested") == 0
    (before,) = (folder / "runs").glob("*.pt")
    lists = folder / "lists"
    (lists / "train.txt").rename(lists / "other.txt")
    (lists / "test.txt").rename(lists / "train.txt")
    (lists / "other.txt").rename(lists / "test.txt")
    assert run("--steps", "1", "--untested") == 0
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
    assert run("--steps", "5", "--untested") == 130
    assert "the same command goes on from" in capsys.readouterr().err
    monkeypatch.setattr(Training, "advance", lambda self: begun.append(self.step) or advance(self))
    assert run("--steps", "5", "--untested") == 0
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
