"""The service answers over a store, and refuses what is malformed, huge, slow or not allowed."""

import asyncio
import base64
import inspect
import io
import json
import re
from contextlib import closing

import pytest
import torch
from torch import nn

pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
from fastapi.testclient import TestClient

from benchmarks.store.service import under_load
from rarememory import FirstInFirstOut, Memory
from rarememory.serve.service import application
from rarememory.store import wrap
from rarememory.store.session import Lost
from tests.sources import ROOT

EYE = torch.eye(4).tolist()
HEADERS = {"Authorization": "Bearer of the birds"}


@pytest.fixture
def stored(tmp_path):
    memory = Memory(4, 8, update=FirstInFirstOut())
    url = f"sqlite:///{tmp_path}/birds.db"
    with closing(wrap(nn.Identity(), host=False, memory=memory, store=url, poll=None)) as one:
        yield one


@pytest.fixture
def client(stored):
    limited = application(stored, "of the birds", max_bytes=5000, patience=0.2)
    return TestClient(limited, headers=HEADERS, raise_server_exceptions=False)


def test_it_learns_predicts_explains_and_forgets(client, stored):
    body = {"inputs": EYE[:2], "labels": ["kea", 7], "refs": ["1.png", None], "once": "a"}
    for _ in range(2):
        learnt = client.post("/learn", json=body).json()
        assert learnt == {"version": 1, "slots": [0, 1], "hits": [False, False], "lost": []}
    found = client.post("/predict", json={"inputs": EYE[:2], "at_least": 1}).json()
    assert found["labels"] == ["kea", 7] and found["version"] == 1
    reasons = client.post("/explain", json={"inputs": EYE[:1], "k": 1}).json()["examples"]
    assert reasons[0][0]["label"] == "kea" and reasons[0][0]["ref"] == "1.png"
    assert client.post("/forget", json={"labels": [7]}).json() == {"version": 2, "count": 1}
    assert stored.classes == ["kea"]
    health = client.get("/health").json()
    assert health == {"version": 2, "following": True, "trouble": None}
    text = client.get("/metrics").text
    assert 'rarememory_requests_total{status="200",verb="learn"}' in text
    assert "rarememory_version 2.0" in text


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/learn", {"inputs": EYE, "labels": ["kea"]}, 400, "1 labels for 4 inputs"),
        ("/learn", {"inputs": [[0, 0, 0, 0]], "labels": ["kea"]}, 400, "zero"),
        ("/learn", {"inputs": EYE[:1], "labels": ["unknown"]}, 400, "choose another label"),
        ("/learn", {"inputs": EYE[:1], "labels": [["kea"]]}, 422, "labels"),
        ("/learn", {"inputs": EYE[:1], "labels": ["kea"], "slots": 7}, 422, "slots"),
        ("/learn", {"inputs": EYE[:1], "labels": ["kea"], "once": "a b"}, 422, "once"),
        ("/predict", {"inputs": []}, 422, "inputs"),
        ("/predict", {"inputs": [[1, 2]]}, 400, "width 2"),
        ("/predict", {"inputs": [[1, 2], [3]]}, 400, "length"),
        ("/predict", {"inputs": [["1", 2, 3, 4]]}, 422, "inputs"),
        ("/explain", {"inputs": EYE, "k": 0}, 422, "k"),
        ("/forget", {"labels": ["weka"]}, 400, "'weka' is not known"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(client, stored, path, body, status, said):
    response = client.post(path, json=body)
    assert response.status_code == status and said in response.json()["detail"]
    assert stored.version == 0


def test_bytes_that_are_no_request_are_refused(client):
    surrogate = b'{"inputs":[[1,0,0,0]],"labels":["\\ud800"]}'
    kinds = {"Content-Type": "application/json"}
    for content in (b"[" * 4000, b"9" * 4900, b"\xff\xfe", b'{"inputs": NaN}', surrogate):
        assert client.post("/learn", content=content, headers=kinds).status_code in (400, 422)


def test_without_the_token_only_health_is_answered(client):
    for headers in ({"Authorization": "Bearer of birds"}, {"Authorization": ""}):
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.post("/predict", headers=headers).status_code == 401
        assert client.get("/health", headers=headers).status_code == 200


def test_a_large_body_is_refused_whether_or_not_it_says_its_length(client):
    assert client.post("/predict", content=b" " * 5001).status_code == 413
    parts = (b" " * 100 for _ in range(60))
    assert client.post("/predict", content=parts).status_code == 413


def test_a_body_that_comes_slowly_is_refused(stored):
    sent = []

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/predict", "headers": [(b"authorization", b"Bearer t")]}
    asyncio.run(application(stored, "t", patience=0.05)(scope, receive, send))
    assert (
        sent[0]["status"] == 408 and "within 0.05 seconds" in json.loads(sent[1]["body"])["detail"]
    )


def test_with_the_store_away_it_predicts_and_says_so(client, stored, monkeypatch):
    stored.learn(torch.eye(4)[:1], ["kea"])

    def lose(*_):
        raise Lost("the database does not answer")

    monkeypatch.setattr(stored.replica, "write", lose)
    monkeypatch.setattr(stored.replica, "newest", lose)
    body = {"inputs": EYE[:1], "labels": ["weka"]}
    assert client.post("/learn", json=body).status_code == 503
    assert client.post("/predict", json={"inputs": EYE[:1]}).json()["labels"] == ["kea"]
    stored.look()
    assert client.get("/health").json()["trouble"] == "the database does not answer"


def test_several_workers_lose_nothing_under_load(tmp_path):
    found, lost = under_load(f"sqlite:///{tmp_path}/birds.db", tmp_path, clients=12, seconds=2.0)
    assert found.errors == [] and lost == 0
    assert len(found.learnt) > 5 and len(found.seconds) > len(found.learnt)


def test_the_example_of_compose_starts_the_service_with_options_that_it_has():
    pytest.importorskip("rich", reason="the command line is not installed")
    from rarememory.commands.serve import serve

    text = (ROOT / "examples" / "compose.yaml").read_text(encoding="utf-8")
    given = {option.replace("-", "_") for option in re.findall(r"--([a-z-]+) ", text)}
    assert given & {"store", "token_file"} and given - {"no_cache_dir"} <= {
        *inspect.signature(serve).parameters
    }


@pytest.fixture
def of_images(tmp_path):
    pytest.importorskip("rich", reason="the command line is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from rarememory.commands.serve import Service

    service = Service(f"sqlite:///{tmp_path}/drawings.db", "memory", "omniglot", 0, 8, "t")
    return TestClient(
        service(), headers={"Authorization": "Bearer t"}, raise_server_exceptions=False
    )


def drawing(paper, turned=False, size=(60, 60), **options):
    """An L in base64, as a PNG."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", size, paper)
    ImageDraw.Draw(image).line([20, 10, 20, 50, 35, 50], fill="black", width=6)
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return base64.b64encode(file.getvalue()).decode()


def test_pictures_are_learnt_as_a_viewer_shows_them(of_images):
    plain, clear = drawing("white"), drawing((0, 0, 0, 0))
    learnt = of_images.post("/learn", json={"inputs": [plain], "labels": ["L"]})
    assert learnt.status_code == 200
    for other in (clear, drawing("white", turned=True)):
        body = {"inputs": [other], "k": 1}
        [[same]] = of_images.post("/explain", json=body).json()["examples"]
        assert same["score"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"DDS " + (124).to_bytes(4, "little") + bytes(120), "."),
        (b"no image", "cannot identify"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_by_its_number(of_images, file, said):
    inputs = [drawing("white"), base64.b64encode(file).decode()]
    for path, more in (("/predict", {}), ("/learn", {"labels": ["L", "L"]})):
        response = of_images.post(path, json={"inputs": inputs, **more})
        assert response.status_code == 400
        assert re.match(rf"input 1 is no image in base64 \(.*{said}", response.json()["detail"])


def test_a_picture_of_too_many_pixels_is_refused(of_images):
    response = of_images.post("/predict", json={"inputs": [drawing("white", size=(7100, 7100))]})
    assert response.status_code == 400
    assert "7100 x 7100 pixels, and 50,000,000 are most" in response.json()["detail"]
