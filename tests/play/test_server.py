"""The page's server answers its own page, on this machine, and refuses the rest in a sentence."""

import http.client
import json
import socket

import pytest
from browsers import serving
from hands import as_path, letter

from rarememory.play.server import LARGEST, Server
from rarememory.play.session import Session

L = as_path(letter("L"))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "letters.safetensors") as server:
        yield server


def asked(server, path, body=None, method="POST", **headers):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=120)
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    given = {"Content-Type": "application/json"} if method == "POST" else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, content, given)
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, answer.headers, read


def said(server, action, status=200, **given):
    got, _, content = asked(server, f"/api/{action}", given)
    assert got == status, content
    return json.loads(content)["answer" if status == 200 else "error"]


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_a_drawing_is_learnt_answered_forgotten_taken_back_saved_and_loaded(server):
    assert said(server, "learn", drawing=L, name="L") == "learnt L"
    assert said(server, "ask", drawing=L)["label"] == "L"
    assert said(server, "forget", name="L") == "forgot L"
    assert said(server, "undo") == "took back: forget L"
    assert said(server, "save").startswith("saved to")
    assert said(server, "load").startswith("loaded")
    assert [one["label"] for one in said(server, "state")["classes"]] == ["L"]


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(server):
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        status, headers, content = asked(server, path, method="GET")
        assert status == 200 and kind in headers["Content-Type"]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"http://" not in content and b"https://" not in content
        assert b"innerHTML" not in content and b"eval(" not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_another_page_is_refused(server, headers):
    status, _, content = asked(server, "/api/state", {}, **headers)
    assert status == 403 and "only http://127.0.0.1" in json.loads(content)["error"]
    assert asked(server, "/", method="GET", **headers)[0] == 403


def test_its_own_page_is_answered_by_either_name(server):
    port = server.server_address[1]
    for home in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert asked(server, "/api/state", {}, Host=home, Origin=f"http://{home}")[0] == 200


def test_a_form_of_another_page_cannot_ask(server):
    # Without asking first, a browser sends other pages' questions only as one of these.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert asked(server, "/api/state", b"{}", Content_Type=kind)[0] == 415


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/nothing", {}, 404, "there is no /api/nothing here"),
        ("/api/ask", {}, 400, "has no 'drawing'"),
        ("/api/ask", {"drawing": 7}, 400, "an object of JSON, all of strings"),
        ("/api/ask", ["M1 2"], 400, "an object of JSON, all of strings"),
        ("/api/ask", b"{", 400, "an object of JSON, all of strings"),
        ("/api/ask", b"\xff", 400, "an object of JSON, all of strings"),
        ("/api/ask", {"drawing": ""}, 400, "nothing on the paper yet"),
        ("/api/learn", {"drawing": L, "name": ""}, 400, "it has no name yet"),
        ("/api/ask", b" " * (LARGEST + 1), 413, f"at most {LARGEST:,} bytes"),
        ("/api/undo", {}, 400, "nothing to take back"),
        ("/api/load", {}, 400, "there is no file"),
    ],
)
def test_a_bad_question_is_refused_in_a_sentence_and_the_next_is_answered(
    server, path, body, status, sentence
):
    got, _, content = asked(server, path, body)
    assert got == status and sentence in json.loads(content)["error"]
    assert said(server, "state")["classes"] == []


def test_nothing_else_of_the_machine_is_served(server):
    for path in ("/session.py", "/../pyproject.toml", "/page.html", "//etc/passwd"):
        assert asked(server, path, method="GET")[0] == 404


def test_a_file_that_cannot_be_written_is_said_in_a_sentence(tmp_path):
    with serving(tmp_path / "nowhere" / "letters.safetensors") as server:
        said(server, "learn", drawing=L, name="L")
        assert "nowhere" in said(server, "save", status=400)


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            Server(Session(tmp_path / "m.safetensors"), taken.getsockname()[1])
