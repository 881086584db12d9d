"""The report page: which confusions it shows, and that it is one file with its pictures in it."""

import base64
import hashlib
import io
import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.omniglot import report
from benchmarks.omniglot.curves import draw_evaluation
from benchmarks.omniglot.report import OTHER_ENCODER, Page, confusions, main, write_page
from rarememory.backbones import Conv4
from rarememory.data import Characters, Omniglot, draw_glyphs


def on_a_circle(*angles):
    angles = torch.tensor(angles)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


@pytest.fixture
def result():
    names, sizes = ("paper", "mean", "fifo"), (20, 44, 200)
    stored = {f"omniglot.storage.{name}.{size}" for name in names for size in sizes}
    return {
        "command": "python -m <this>",
        "commit": "0" * 12,
        "accuracy_by_ways": {f"{n}-shot": {"5": 0.99, "423": 0.8} for n in (1, 5)},
        "lifelong_accuracy_by_sighting": {
            f"{order}.eight.{name}": [0.0] + [0.9] * 19
            for order in ("random", "alphabet")
            for name in names
        },
        "figures": {
            **{f"{key}.keys": float(key.rpartition(".")[2]) for key in stored},
            **{f"{key}.accuracy": 98.0 for key in stored},
            "omniglot.evaluation.659w1s": 80.25,
            "omniglot.evaluation.659w1s.interval": 0.5,
        },
    }


def test_the_surest_mistake_of_each_pair_of_classes_comes_first():
    #        stored, and two queries
    embeddings = torch.stack(
        [
            on_a_circle(0.0, 0.1, 0.9),  # 2nd is nearer to the third class, a little
            on_a_circle(3.0, 3.1, 3.0),  # no mistake
            on_a_circle(1.5, 0.2, 0.1),  # both are nearer to the first class; the 2nd more so
        ]
    )
    confused, predicted = confusions(embeddings)
    assert confused == [(2, 2), (0, 2)] and predicted == [0, 2]


def test_without_mistakes_there_is_nothing_to_show():
    assert confusions(on_a_circle(0.0, 1.0, 2.0).unsqueeze(1).repeat(1, 4, 1)) == ([], [])


def test_the_page_is_one_file_that_holds_its_pictures(result, tmp_path):
    glyphs = draw_glyphs(6, 5)
    characters = Characters(tuple(f"<A>/{n}" for n in range(6)), glyphs.images)
    torch.manual_seed(0)
    drawn = io.BytesIO()
    Image.new("RGB", (300, 201)).save(drawn, "png")
    shown = Page(result, drawn.getvalue(), drawn.getvalue(), same_encoder=True)
    path = write_page(characters, torch.randn(6, 5, 8), shown, tmp_path / "new" / "page.html")
    page = path.read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert sizes[:2] == [(300, 201)] * 2 and OTHER_ENCODER not in page
    assert len(sizes) == 4 and all(min(size) > 200 for size in sizes)
    assert "<script" not in page and "http" not in page
    assert "<td>evaluation.659w1s<td>80.25<td>± 0.50" in page
    assert "python -m &lt;this&gt;" in page


def test_the_curves_have_every_policy_and_what_was_published(result, tmp_path):
    path = draw_evaluation(result, tmp_path / "curves.png")
    with Image.open(path) as picture:
        assert picture.size == (1430, 440)


def test_without_weights_it_says_so(tmp_path, capsys):
    assert main(["--encoder", str(tmp_path / "none.safetensors")]) == 1
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("same_encoder", [True, False])
def test_curves_of_another_encoder_are_said_to_be(same_encoder, result, tmp_path, monkeypatch):
    weights, page = tmp_path / "conv4.safetensors", tmp_path / "page.html"
    save_file(Conv4(key_dim=8).state_dict(), weights)
    glyphs = Characters(tuple(f"A/{n}" for n in range(6)), draw_glyphs(6, 5).images)
    monkeypatch.setattr(report, "read_omniglot", lambda folder, size: Omniglot(glyphs, glyphs))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "result.json").write_text(
        json.dumps(result | {"weights_sha256": digest if same_encoder else "0"})
    )
    Image.new("RGB", (300, 201)).save(tmp_path / "result.png")
    given = {"encoder": weights, "data": "here", "result": tmp_path / "result.json", "page": page}
    assert main([f"--{name}={value}" for name, value in given.items()]) == 0
    assert (OTHER_ENCODER in page.read_text(encoding="utf-8")) != same_encoder
