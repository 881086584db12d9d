import itertools
import json
import math
import re
import socket
import sys
from functools import partial
from io import BytesIO, TextIOWrapper

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
from rarememory.commands.cli import app, main
from rarememory.commands.encoders import encoder_by_name, ink
from rarememory.data import draw_glyphs, read_omniglot
from rarememory.evaluation import embed, few_shot_accuracies
from rarememory.variants.attention import HUBNESS_CORRECTION, class_attention

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
    """A folder of three classes with one drawing each, in the working folder."""
    for name in SHAPES:
        (tmp_path / "shapes" / name).mkdir(parents=True)
        drawing(name).save(tmp_path / "shapes" / name / "1.png")
        drawing(name, turn=6).save(tmp_path / f"{name}.png")
    (tmp_path / "shapes" / "ring" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def run(*words, code=0):
    """The output of a command, with every run of white space as one space."""
    return re.sub(r"\s+", " ", invoke(*words, code=code).output)


def run_json(*words, code=0):
    return json.loads(invoke(*words, "--json", code=code).stdout)


LEARN = ("learn", "shapes", "-m", "m.safetensors", "--encoder", "omniglot")


def test_the_classes_of_a_learnt_folder_are_predicted(shapes):
    assert "learnt 3 images of 3 classes into m.safetensors" in run(*LEARN)
    answers = run_json("predict", "ring.png", "cross.png", "bar.png", "-m", "m.safetensors")
    assert [answer["label"] for answer in answers] == ["ring", "cross", "bar"]
    assert answers[0]["because"][0]["ref"] == "shapes/ring/1.png"
    assert answers[0]["because"][0]["label"] == "ring" and 0 < answers[0]["confidence"] <= 1
    table = run("predict", "ring.png", "-m", "m.safetensors", "-k", 3)
    assert "ring.png" in table and "%" in table
    assert all(f"{name}/1" in table for name in SHAPES)


def test_an_unknown_image_has_no_confidence(shapes):
    run(*LEARN)
    strict = MemoryClassifier.load("m.safetensors", None)
    strict.threshold.fill_(1e6)
    strict.save("m.safetensors")
    (answer,) = run_json("predict", "ring.png", "-m", "m.safetensors")
    assert answer["label"] == "unknown" and answer["confidence"] is None and answer["because"]
    assert "%" not in run("predict", "ring.png", "-m", "m.safetensors")


def test_a_memory_learns_more_with_the_same_encoder_only(shapes):
    run(*LEARN)
    (shapes / "more" / "blot").mkdir(parents=True)
    Image.linear_gradient("L").save(shapes / "more" / "blot" / "a.png")
    report = run_json("learn", "more", "-m", "m.safetensors")
    assert report["learnt"] == {"blot": 1} and report["lost"] == 0
    assert set(report["classes"]) == {"ring", "cross", "bar", "blot"}
    refused = run("learn", "more", "-m", "m.safetensors", "--encoder", "resnet18", code=1)
    assert "learnt with the encoder omniglot, and cannot go on with resnet18" in refused


def test_a_full_memory_reports_what_it_lost(shapes):
    assert "lost its 1 oldest: learn with more --slots" in run(*LEARN, "--slots", 2)


def test_inspect_lists_classes_and_slots(shapes):
    run(*LEARN)
    report = run_json("inspect", "m.safetensors")
    assert {one["label"]: one["slots"] for one in report["classes"]} == dict.fromkeys(SHAPES, 1)
    assert (report["slots"], report["occupied"], report["encoder"]) == (8192, 3, "omniglot")
    assert math.isfinite(report["threshold"])
    assert "cross" in run("inspect", "m.safetensors")


def test_forgetting_leaves_nothing_in_the_file(shapes):
    run(*LEARN)
    assert run_json("forget", "m.safetensors", "ring") == {"slots": 1, "classes": ["bar", "cross"]}
    assert b"ring" not in (shapes / "m.safetensors").read_bytes()
    assert run_json("predict", "ring.png", "-m", "m.safetensors")[0]["label"] != "ring"
    before = (shapes / "m.safetensors").read_bytes()
    assert "'ring' is not known here" in run("forget", "m.safetensors", "cross", "ring", code=1)
    assert (shapes / "m.safetensors").read_bytes() == before
    assert "forgot 1 examples; 1 classes are left" in run("forget", "m.safetensors", "cross")


def test_a_class_is_forgotten_in_either_spelling_of_its_name(shapes):
    # As a Mac spells it, and as a keyboard does.
    (shapes / "shapes" / "bar").rename(shapes / "shapes" / "ka\u0304ka\u0304")
    run(*LEARN)
    assert run_json("forget", "m.safetensors", "k\u0101k\u0101")["slots"] == 1


def test_the_doctor_exits_with_1_if_there_is_a_problem(shapes):
    run(*LEARN)
    assert run_json("doctor", "m.safetensors")["well"] is True
    assert "3 of 8192 slots, 3 classes" in run("doctor", "m.safetensors")
    (shapes / "shapes" / "hoop").mkdir()
    drawing("ring").save(shapes / "shapes" / "hoop" / "1.png")
    run(*LEARN)
    assert "nearly equal examples of different labels" in run("doctor", "m.safetensors", code=1)
    clashes = run_json("doctor", "m.safetensors", code=1)["clashes"]
    assert {(label, other) for _, label, _, other, _ in clashes} == {("ring", "hoop")}


def test_noise_is_unknown(shapes):
    run(*LEARN, "--false-accept-rate", 0.05)
    torch.manual_seed(0)
    noise = (torch.rand(105, 105) * 255).byte().numpy()
    Image.fromarray(noise).save(shapes / "noise.png")
    assert run_json("predict", "noise.png", "-m", "m.safetensors")[0]["label"] == "unknown"


def test_the_rate_of_false_accepts_is_heard_by_its_old_name_too(shapes):
    thresholds = []
    for words in (["--false-accept-rate", 0.9], ["--far", 0.9], []):
        said = invoke(*LEARN, *words)
        assert ("--far is called" in said.stderr) == ("--far" in words)
        thresholds.append(float(MemoryClassifier.load("m.safetensors", None).threshold))
        (shapes / "m.safetensors").unlink()
    assert thresholds[0] == thresholds[1] < thresholds[2]
    for name, rate in itertools.product(("--false-accept-rate", "--far"), ("0", "1.5", "nan")):
        assert "must be between 0 and 1" in invoke(*LEARN, name, rate, code=2).output
    assert not (shapes / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("learn", "nowhere"), "there is no folder 'nowhere'"),
        (("learn", "shapes/ring"), "'shapes/ring' has 0 folders and no image in them"),
        (("learn", "shapes", "--encoder", "eye"), "no encoder is called 'eye'"),
        (("predict", "ring.png"), "there is no file 'memory.safetensors'"),
        (("inspect", "ring.png"), "no safetensors file, or only a part of one"),
        (("predict", "shapes/ring/notes.txt", "-m", "m"), "cannot be read as an image"),
    ],
)
def test_an_error_is_one_sentence(shapes, words, message):
    run("learn", "shapes", "-m", "m", "--encoder", "omniglot")
    assert message in run(*words, code=1)


def test_a_broken_or_blank_image_is_named_and_the_others_are_learnt(shapes):
    (shapes / "shapes" / "bar" / "2.png").write_bytes(b"no image")
    Image.new("L", (50, 50), 0).save(shapes / "shapes" / "bar" / "3.png")
    # Black that cannot be told from nothing, since both are transparent.
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(shapes / "shapes" / "ring" / "2.png")
    result = invoke(*LEARN, "--json", code=1)
    report = json.loads(result.stdout)
    assert report["learnt"] == dict.fromkeys(SHAPES, 1)
    assert [*report["failed"]] == ["shapes/bar/2.png", "shapes/bar/3.png", "shapes/ring/2.png"]
    assert result.stderr.splitlines()[:-1] == [*report["failed"].values()]
    assert "'shapes/bar/2.png' cannot be read as an image" in result.stderr
    assert "'shapes/ring/2.png' is blank (all of one colour)" in result.stderr
    assert "learnt 0 images of 0 classes" in run(*LEARN, code=1)
    assert run_json("predict", "bar.png", "-m", "m.safetensors")[0]["label"] == "bar"


def test_where_no_image_can_be_used_nothing_is_saved(shapes):
    for name in SHAPES:
        (shapes / "shapes" / name / "1.png").write_bytes(b"no image")
    assert "nothing is learnt: none of the 3 images can be used" in run(*LEARN, code=1)
    assert not (shapes / "m.safetensors").exists()


def test_a_broken_image_takes_no_answer_from_the_others(shapes):
    run(*LEARN)
    words = ("predict", "ring.png", "shapes/ring/notes.txt", "bar.png", "-m", "m.safetensors")
    answers = run_json(*words, code=1)
    assert [answer["label"] for answer in answers] == ["ring", None, "bar"]
    assert "notes.txt' cannot be read as an image" in answers[1]["error"]
    assert "error" not in answers[0] and answers[1].keys() > answers[0].keys()
    table = invoke(*words, code=1)
    assert "ring.png" in table.stdout and "notes.txt" not in table.stdout
    assert table.stderr == answers[1]["error"] + "\n"


def test_folders_of_programs_are_no_classes_and_what_is_skipped_is_named(shapes):
    home = shapes / "shapes"
    for name in (".ipynb_checkpoints/1.png", "ring/.thumbnails/1.png", "ring/._1.png", ".DS_Store"):
        (home / name).parent.mkdir(exist_ok=True)
        drawing("bar").save(home / name, "png")
    for name in ("1.JFIF", "2.Jpg"):
        drawing("cross", turn=2).save(home / "cross" / name, "jpeg")
    (home / "hoop").mkdir()
    (home / "cross" / "folder.png").mkdir()
    drawing("ring").save(home / "loose.png")
    result = invoke(*LEARN, "--json")
    assert json.loads(result.stdout)["learnt"] == {"ring": 1, "cross": 3, "bar": 1}
    skipped = ["shapes/loose.png", "shapes/hoop", "shapes/ring/notes.txt"]
    assert json.loads(result.stdout)["skipped"] == skipped
    named = ", ".join(map(repr, skipped))
    assert result.stderr == f"skipped, since it is no image of a class: {named}\n"
    for number in range(9):
        (home / "bar" / f"{number}.raw").touch()
    assert "'shapes/bar/2.raw' and 7 more" not in run(*LEARN)
    assert "'shapes/bar/3.raw' and 7 more" in run(*LEARN)


@pytest.mark.parametrize(
    "words", [LEARN, ("predict", "ring.png", "-m", "m.safetensors"), ("demo",), ("omniglot",)]
)
def test_ctrl_c_is_one_line_and_saves_nothing(shapes, monkeypatch, words):
    run(*LEARN)
    before = (shapes / "m.safetensors").read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for place in ("cli.read_image", "images.read_image", "omniglot.omniglot_encoder", "demo.demo"):
        monkeypatch.setattr(f"rarememory.commands.{place}", interrupt)
    result = invoke(*words, code=130)
    assert result.stderr == "interrupted\n" and result.stdout == ""
    assert (shapes / "m.safetensors").read_bytes() == before


def test_a_memory_from_python_can_be_inspected_but_not_queried(shapes):
    classifier = wrap(torch.nn.Linear(3, 2), classes=["a", "b"])
    classifier.learn(torch.eye(3), [7, ("kea", 1), "7b"])
    classifier.save("p.safetensors")
    labels = [one["label"] for one in run_json("inspect", "p.safetensors")["classes"]]
    assert labels == ["a", "b", 7, {"tuple": ["kea", 1]}, "7b"]
    assert run_json("forget", "p.safetensors", 7, "b")["slots"] == 1
    again = MemoryClassifier.load("p.safetensors", classifier.model)
    assert again.classes == ["a", ("kea", 1), "7b"] and again.extractor.at == ""
    assert "load it in Python, with its model" in run(
        "predict", "ring.png", "-m", "p.safetensors", code=1
    )
    with pytest.raises(ValueError, match="loaded without its model"):
        MemoryClassifier.load("p.safetensors", None).predict(torch.eye(3))


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_folder_that_is_learnt_again_is_stored_once(shapes, monkeypatch, reader):
    changed = partial(encoder_by_name("omniglot")._replace, reader=reader)
    monkeypatch.setattr("rarememory.commands.cli.encoder_by_name", lambda _: changed())
    drawing("ring", turn=9).save(shapes / "shapes" / "ring" / "2.png")
    assert run_json(*LEARN)["known"] == 0
    before = MemoryClassifier.load("m.safetensors", None).examples()
    (shapes / "shapes").rename(shapes / "moved")
    for folder in ("moved", "shapes"):
        if folder == "shapes":
            (shapes / "moved").rename(shapes / "shapes")
        elif reader == "nearest":
            # A mean of two rings is known by the paths alone.
            continue
        found = run_json("learn", folder, "-m", "m.safetensors")
        assert found["known"] == 4 and found["learnt"] == {}
        assert MemoryClassifier.load("m.safetensors", None).examples() == before
    drawing("bar", turn=3).save(shapes / "shapes" / "bar" / "2.png")
    said = run("learn", "shapes", "-m", "m.safetensors")
    assert "4 images were known already, and are not learnt again learnt 1 images of 1" in said
    # The same picture under another class is another example.
    (shapes / "shapes" / "kea").mkdir()
    drawing("ring").save(shapes / "shapes" / "kea" / "1.png")
    assert run_json("learn", "shapes", "-m", "m.safetensors")["learnt"] == {"kea": 1}
    # A file with another picture is another example too.
    drawing("cross", turn=20).save(shapes / "shapes" / "cross" / "1.png")
    assert run_json("learn", "shapes", "-m", "m.safetensors")["learnt"] == {"cross": 1}


def test_play_prints_its_address_opens_a_browser_and_ends_with_ctrl_c(shapes, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def draw_and_interrupt(server):
        server.session.learn("M60 20L60 200L160 200", "L")
        if "saved.safetensors" in str(server.session.file):
            server.session.save()
        raise KeyboardInterrupt

    monkeypatch.setattr("rarememory.play.server.Server.serve_forever", draw_and_interrupt)
    output = run("play", "--port", 0)
    assert re.search(r"draw at http://127\.0\.0\.1:\d+/[\w-]{32}/ \(Ctrl-C ends it\)", output)
    assert "/open/" in opened[0] and opened[0] not in output and "unsaved" in output
    output = run("play", "--port", 0, "-m", "saved.safetensors", "--no-browser")
    assert len(opened) == 1 and "unsaved" not in output
    assert run_json("inspect", "saved.safetensors")["classes"] == [{"label": "L", "slots": 1}]
    assert "a drawing (" in run("predict", "bar.png", "-m", "saved.safetensors")
    assert run_json("doctor", "saved.safetensors")["well"] is True
    run("forget", "saved.safetensors", "L")
    assert b"M60 20L60" not in (shapes / "saved.safetensors").read_bytes()


def test_play_reports_a_taken_port_and_a_wrong_file(shapes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be opened" in run("play", "--port", port, code=1)
    assert "no safetensors file" in run("play", "-m", "ring.png", "--no-browser", code=1)
    run("play", "--port", 70000, code=2)


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """Drawn glyphs in Omniglot's folders: one background character, two evaluation characters."""
    home = tmp_path_factory.mktemp("glyphs")
    images = draw_glyphs(3, 20).images
    for part, classes in (("images_background", [0]), ("images_evaluation", range(1, 3))):
        for index in classes:
            folder = home / "omniglot" / part / "Invented" / f"character{index:02}"
            folder.mkdir(parents=True)
            for drawer in range(20):
                drawn = Image.fromarray(np.asarray(images[index, drawer]) < 128)
                drawn.save(folder / f"{index:04}_{drawer + 1:02}.png")
    return home / "omniglot"


def test_an_encoder_is_evaluated_by_both_protocols(characters, tmp_path):
    torch.manual_seed(0)
    save_file(Conv4(16).state_dict(), tmp_path / "conv4.safetensors")
    words = ("omniglot", "--data", characters, "--split", "folders", "--episodes", 3)
    words += ("--way", 5, "--shot", 1, "--shot", 5)
    report = run_json(*words)
    assert (report["classes"], report["episodes"], report["seed"]) == (8, 3, 0)
    assert [(one["way"], one["shot"]) for one in report["accuracy"]] == [(5, 1), (5, 5)]
    for one in report["accuracy"]:
        for protocol in ("sighting", "support_query"):
            assert 0.5 < one[protocol]["mean"] <= 1 and one[protocol]["interval"] >= 0
    words += ("--encoder", tmp_path / "conv4.safetensors")
    table = run(*words)
    assert "5-way 5-shot" in table and "3 episodes, 8 classes" in table
    own = run_json(*words)
    assert own["accuracy"] != report["accuracy"]
    # README's figures are those of class attention with the hubness correction.
    drawings = read_omniglot(characters, progress=False).evaluation.rotated()
    embeddings = embed(stored_encoder(tmp_path / "conv4.safetensors"), drawings.images)
    attention = partial(class_attention, hubness_correction=HUBNESS_CORRECTION)
    found = few_shot_accuracies(embeddings, ways=[5], shots=[5], n_episodes=3, attention=attention)
    assert own["accuracy"][1]["support_query"]["mean"] == found.support[5, 5].mean


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "nowhere"), "no folder 'nowhere'"),
        (("--encoder", "nothing.safetensors"), "there is no file 'nothing.safetensors'"),
        (("--split", "no-lists"), "no 'no-lists/train.txt'"),
        ((), "no class 'Gurmukhi/character42' among these 3"),
        (("--split", "folders", "--way", 21), "n_way is 21"),
    ],
)
def test_an_error_of_the_benchmark_is_one_sentence(characters, words, message, monkeypatch):
    monkeypatch.chdir(characters.parent)
    assert message in run("omniglot", "--data", characters, *words, code=1)


def test_a_name_that_the_terminal_cannot_show_is_escaped(shapes, monkeypatch):
    (shapes / "shapes" / "bar").rename(shapes / "shapes" / "k\u0101k\u0101 \udcff")
    run(*LEARN)
    shown = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "argv", ["rarememory", "inspect", "m.safetensors"])
    with pytest.raises(SystemExit) as left:
        main()
    shown.flush()
    assert left.value.code == 0 and rb"k\u0101k\u0101 \udcff" in shown.buffer.getvalue()


def test_wrong_arguments_exit_with_2(shapes):
    run("predict", code=2)
    run("forget", "m.safetensors", code=2)


def test_features_of_a_torchvision_model_are_the_input_of_its_last_layer(monkeypatch, shapes):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    untrained = models.resnet18()
    monkeypatch.setattr(models, "get_model", lambda name, weights: untrained)
    encoder = encoder_by_name("resnet18")
    assert encoder.at == "fc" and encoder.prepare(drawing("ring")).shape == (3, 224, 224)
    run("learn", "shapes", "-m", "r.safetensors")
    assert run_json("inspect", "r.safetensors")["width"] == 512
    (answer,) = run_json("predict", "shapes/bar/1.png", "-m", "r.safetensors")
    assert math.isclose(answer["because"][0]["score"], 1, abs_tol=1e-4)


def test_weights_that_cannot_be_downloaded_are_reported(monkeypatch, shapes):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")

    def offline(name, weights):
        raise OSError("no network")

    monkeypatch.setattr(models, "get_model", offline)
    refused = run("learn", "shapes", code=1)
    assert "weights of 'resnet18' could not be downloaded (no network)" in refused


def test_ink_is_1_whether_ink_or_paper_is_lighter():
    dark_on_light = ink(drawing("ring"))
    light_on_dark = ink(Image.eval(drawing("ring"), lambda value: 255 - value))
    assert dark_on_light.shape == (1, 28, 28) and dark_on_light.mean() < 0.3
    torch.testing.assert_close(dark_on_light, light_on_dark)
