"""The command line, as one who has a folder of pictures meets it."""

import json
import math
import re
import socket
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("typer", reason="Typer is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from PIL import Image, ImageDraw
from safetensors.torch import save_file
from typer.testing import CliRunner

from rarememory import MemoryClassifier, wrap
from rarememory.backbones import Conv4, stored_encoder
from rarememory.commands.cli import app
from rarememory.commands.images import encoder_called, ink
from rarememory.data import draw_glyphs, read_omniglot
from rarememory.evaluation import embed, few_shot_accuracies
from rarememory.variants.class_attention import CROWDING, attended

SHAPES = {
    "ring": lambda draw, turn: draw.ellipse([20, 20, 80 + turn, 80], outline=0, width=6),
    "cross": lambda draw, turn: (
        draw.line([15, 15 + turn, 85, 85], fill=0, width=6),
        draw.line([15, 85, 85 - turn, 15], fill=0, width=6),
    ),
    "bar": lambda draw, turn: draw.line([50 + turn, 10, 50, 90], fill=0, width=6),
}


def drawing(name, turn=0):
    picture = Image.new("RGB", (105, 105), "white")
    SHAPES[name](ImageDraw.Draw(picture), turn)
    return picture


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A folder of three drawings, one a class; the working folder is above it."""
    for name in SHAPES:
        (tmp_path / "shapes" / name).mkdir(parents=True)
        drawing(name).save(tmp_path / "shapes" / name / "1.png")
        drawing(name, turn=6).save(tmp_path / f"{name}.png")
    (tmp_path / "shapes" / "ring" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return re.sub(r"\s+", " ", done.output)


def in_json(*words, code=0):
    return json.loads(said(*words, "--json", code=code))


LEARN = ("learn", "shapes", "-m", "m.safetensors", "--encoder", "omniglot")


def test_a_folder_is_learnt_and_its_classes_are_known_again(shapes):
    assert "learnt 3 pictures of 3 classes into m.safetensors" in said(*LEARN)
    answers = in_json("predict", "ring.png", "cross.png", "bar.png", "-m", "m.safetensors")
    assert [answer["label"] for answer in answers] == ["ring", "cross", "bar"]
    assert answers[0]["because"][0]["ref"] == "shapes/ring/1.png"
    assert answers[0]["because"][0]["label"] == "ring" and 0 < answers[0]["confidence"] <= 1
    table = said("predict", "ring.png", "-m", "m.safetensors", "-k", 3)
    assert "ring.png" in table and "%" in table
    assert all(f"{name}/1" in table for name in SHAPES)


def test_what_is_unknown_has_no_confidence(shapes):
    said(*LEARN)
    strict = MemoryClassifier.load("m.safetensors", None)
    strict.threshold.fill_(2.0)
    strict.save("m.safetensors")
    (answer,) = in_json("predict", "ring.png", "-m", "m.safetensors")
    assert answer["label"] == "unknown" and answer["confidence"] is None and answer["because"]
    assert "%" not in said("predict", "ring.png", "-m", "m.safetensors")


def test_more_can_be_learnt_later_with_the_same_encoder(shapes):
    said(*LEARN)
    (shapes / "more" / "blot").mkdir(parents=True)
    Image.new("L", (50, 50), 0).save(shapes / "more" / "blot" / "a.png")
    report = in_json("learn", "more", "-m", "m.safetensors")
    assert report["learnt"] == {"blot": 1} and report["lost"] == 0
    assert set(report["classes"]) == {"ring", "cross", "bar", "blot"}
    refused = said("learn", "more", "-m", "m.safetensors", "--encoder", "resnet18", code=1)
    assert "learnt with the encoder omniglot, and cannot go on with resnet18" in refused


def test_a_full_memory_says_what_it_gave_up(shapes):
    assert "gave up its 1 oldest: learn with more --slots" in said(*LEARN, "--slots", 2)


def test_inspect_lists_classes_and_slots(shapes):
    said(*LEARN)
    report = in_json("inspect", "m.safetensors")
    assert {one["label"]: one["slots"] for one in report["classes"]} == dict.fromkeys(SHAPES, 1)
    assert (report["slots"], report["occupied"], report["encoder"]) == (8192, 3, "omniglot")
    assert -1 < report["threshold"] < 1
    assert "cross" in said("inspect", "m.safetensors")


def test_forgetting_leaves_nothing_in_the_file(shapes):
    said(*LEARN)
    assert in_json("forget", "m.safetensors", "ring") == {"slots": 1, "classes": ["bar", "cross"]}
    assert b"ring" not in (shapes / "m.safetensors").read_bytes()
    assert in_json("predict", "ring.png", "-m", "m.safetensors")[0]["label"] != "ring"
    before = (shapes / "m.safetensors").read_bytes()
    assert "'ring' is not known here" in said("forget", "m.safetensors", "cross", "ring", code=1)
    assert (shapes / "m.safetensors").read_bytes() == before
    assert "forgot 1 examples" in said("forget", "m.safetensors", "cross")


def test_the_doctor_ends_with_1_if_there_is_something_to_mend(shapes):
    said(*LEARN)
    assert in_json("doctor", "m.safetensors")["well"] is True
    assert "3 of 8192 slots, 3 classes" in said("doctor", "m.safetensors")
    (shapes / "shapes" / "hoop").mkdir()
    drawing("ring").save(shapes / "shapes" / "hoop" / "1.png")
    said(*LEARN)
    assert "nearly equal examples of different labels" in said("doctor", "m.safetensors", code=1)
    assert len(in_json("doctor", "m.safetensors", code=1)["clashes"]) == 1


def test_what_is_unlike_all_that_is_known_is_unknown(shapes):
    said(*LEARN, "--far", 0.05)
    torch.manual_seed(0)
    noise = (torch.rand(105, 105) * 255).byte().numpy()
    Image.fromarray(noise).save(shapes / "noise.png")
    assert in_json("predict", "noise.png", "-m", "m.safetensors")[0]["label"] == "unknown"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("learn", "nowhere"), "there is no folder 'nowhere'"),
        (("learn", "shapes/ring"), "'shapes/ring' holds 0 folders and no picture in them"),
        (("learn", "shapes", "--encoder", "eye"), "no encoder is called 'eye'"),
        (("predict", "ring.png"), "there is no file 'memory.safetensors'"),
        (("inspect", "ring.png"), "no safetensors file, or only a part of one"),
        (("predict", "shapes/ring/notes.txt", "-m", "m"), "cannot be read as a picture"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(shapes, words, sentence):
    said("learn", "shapes", "-m", "m", "--encoder", "omniglot")
    assert sentence in said(*words, code=1)


def test_a_broken_picture_saves_nothing(shapes):
    (shapes / "shapes" / "bar" / "2.png").write_bytes(b"no picture")
    assert "'shapes/bar/2.png' cannot be read as a picture" in said(*LEARN, code=1)
    assert not (shapes / "m.safetensors").exists()


def test_a_memory_from_python_is_looked_at_but_not_asked(shapes):
    classifier = wrap(torch.nn.Linear(3, 2), classes=["a", "b"])
    classifier.learn(torch.eye(3), [7, ("kea", 1), "7b"])
    classifier.save("p.safetensors")
    labels = [one["label"] for one in in_json("inspect", "p.safetensors")["classes"]]
    assert labels == ["a", "b", 7, {"tuple": ["kea", 1]}, "7b"]
    assert in_json("forget", "p.safetensors", 7, "b")["slots"] == 1
    again = MemoryClassifier.load("p.safetensors", classifier.model)
    assert again.classes == ["a", ("kea", 1), "7b"] and again.host.at == ""
    assert "load it in Python, with its model" in said(
        "predict", "ring.png", "-m", "p.safetensors", code=1
    )
    with pytest.raises(ValueError, match="loaded without its model"):
        MemoryClassifier.load("p.safetensors", None).predict(torch.eye(3))


def test_the_page_is_told_of_and_opened_and_ends_with_ctrl_c(shapes, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def drawn_on_until_ctrl_c(server):
        server.session.learn("M60 20L60 200L160 200", "L")
        if "kept.safetensors" in str(server.session.file):
            server.session.save()
        raise KeyboardInterrupt

    monkeypatch.setattr("rarememory.play.server.Server.serve_forever", drawn_on_until_ctrl_c)
    told = said("play", "--port", 0)
    assert f"draw at {opened[0]} (Ctrl-C ends it)" in told and "what was not saved is gone" in told
    told = said("play", "--port", 0, "-m", "kept.safetensors", "--no-browser")
    assert len(opened) == 1 and "gone" not in told
    assert in_json("inspect", "kept.safetensors")["classes"] == [{"label": "L", "slots": 1}]
    assert "a drawing (" in said("predict", "bar.png", "-m", "kept.safetensors")
    assert in_json("doctor", "kept.safetensors")["well"] is True
    said("forget", "kept.safetensors", "L")
    assert b"M60 20L60" not in (shapes / "kept.safetensors").read_bytes()


def test_a_page_that_cannot_be_opened_is_said_in_a_sentence(shapes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be opened" in said("play", "--port", port, code=1)
    assert "no safetensors file" in said("play", "-m", "ring.png", "--no-browser", code=1)
    said("play", "--port", 70000, code=2)


@pytest.fixture
def characters(tmp_path):
    """Made-up characters in Omniglot's own form: one to train on, five to test by."""
    images = draw_glyphs(6, 20, size=105).images
    for part, classes in (("images_background", [0]), ("images_evaluation", range(1, 6))):
        for index in classes:
            folder = tmp_path / "omniglot" / part / "Invented" / f"character{index:02}"
            folder.mkdir(parents=True)
            for drawer in range(20):
                drawn = Image.fromarray(np.asarray(images[index, drawer]) < 128)
                drawn.save(folder / f"{index:04}_{drawer + 1:02}.png")
    return tmp_path / "omniglot"


def test_an_encoder_is_tested_by_both_protocols(characters, tmp_path):
    torch.manual_seed(0)
    save_file(Conv4(16).state_dict(), tmp_path / "conv4.safetensors")
    words = ("omniglot", "--data", characters, "--split", "folders", "--episodes", 3)
    words += ("--way", 20, "--shot", 1, "--shot", 5)
    report = in_json(*words)
    assert (report["classes"], report["episodes"], report["seed"]) == (20, 3, 0)
    assert [(one["way"], one["shot"]) for one in report["accuracy"]] == [(20, 1), (20, 5)]
    for one in report["accuracy"]:
        for protocol in ("sighting", "support_query"):
            assert 0.5 < one[protocol]["mean"] <= 1 and one[protocol]["interval"] >= 0
    table = said(*words)
    assert "20-way 5-shot" in table and "3 episodes, 20 classes" in table
    own = in_json(*words, "--encoder", tmp_path / "conv4.safetensors")
    assert own["accuracy"] != report["accuracy"]
    # README's figures are those of attention, less crowding.
    drawings = read_omniglot(characters, progress=False).evaluation.rotated()
    embeddings = embed(stored_encoder(tmp_path / "conv4.safetensors"), drawings.images)
    attention = partial(attended, crowding=CROWDING)
    found = few_shot_accuracies(embeddings, ways=[20], shots=[5], n_episodes=3, attention=attention)
    assert own["accuracy"][1]["support_query"]["mean"] == found.support[20, 5].mean


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", "nowhere"), "no folder 'nowhere'"),
        (("--encoder", "nothing.safetensors"), "there is no file 'nothing.safetensors'"),
        (("--split", "no-lists"), "no 'no-lists/train.txt'"),
        ((), "no class 'Gurmukhi/character42' among these 6"),
        (("--split", "folders", "--way", 21), "n_way is 21"),
    ],
)
def test_what_cannot_be_tested_is_said_in_a_sentence(characters, words, sentence, monkeypatch):
    monkeypatch.chdir(characters.parent)
    assert sentence in said("omniglot", "--data", characters, *words, code=1)


def test_wrong_words_end_with_2(shapes):
    said("predict", code=2)
    said("forget", "m.safetensors", code=2)


def test_an_encoder_of_torchvision_is_listened_to_before_its_head(monkeypatch, shapes):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    untrained = models.resnet18()
    monkeypatch.setattr(models, "get_model", lambda name, weights: untrained)
    eyes = encoder_called("resnet18")
    assert eyes.at == "fc" and eyes.prepare(drawing("ring")).shape == (3, 224, 224)
    said("learn", "shapes", "-m", "r.safetensors")
    assert in_json("inspect", "r.safetensors")["width"] == 512
    (answer,) = in_json("predict", "shapes/bar/1.png", "-m", "r.safetensors")
    assert math.isclose(answer["because"][0]["score"], 1, abs_tol=1e-4)


def test_weights_that_cannot_be_downloaded_are_said_in_a_sentence(monkeypatch, shapes):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")

    def offline(name, weights):
        raise OSError("no network")

    monkeypatch.setattr(models, "get_model", offline)
    refused = said("learn", "shapes", code=1)
    assert "weights of 'resnet18' could not be downloaded (no network)" in refused


def test_ink_is_1_whichever_of_both_is_the_lighter():
    dark_on_light = ink(drawing("ring"))
    light_on_dark = ink(Image.eval(drawing("ring"), lambda value: 255 - value))
    assert dark_on_light.shape == (1, 28, 28) and dark_on_light.mean() < 0.3
    torch.testing.assert_close(dark_on_light, light_on_dark)
