import http.client
import json
import socket

import pytest
from chromium import serving
from drawings import as_path, character

from rarememory.play.server import MAX_BYTES, Server
from rarememory.play.session import Session

L = as_path(character("L"))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "drawings.safetensors") as server:
        yield server


def request(server, path, body=None, method="POST", **headers):
    """Status, headers and content of the response."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=120)
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    kind = {"Content-Type": "application/json"} if method == "POST" else {}
    connection.request(method, path, content, {**kind, **headers})
    response = connection.getresponse()
    read = response.read()
    connection.close()
    return response.status, response.headers, read


def act(server, action, expected=200, **body):
    """The answer of an action, or its error if another status than 200 is expected."""
    status, _, content = request(server, f"/api/{action}", body)
    assert status == expected, content
    return json.loads(content)["answer" if status == 200 else "error"]


def test_the_server_listens_on_this_computer_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_every_action_of_a_session_can_be_requested(server):
    assert act(server, "learn", drawing=L, name="L") == "learnt L"
    assert act(server, "ask", drawing=L)["label"] == "L"
    assert act(server, "forget", name="L") == "forgot L"
    assert act(server, "undo") == "undid: forget L"
    assert act(server, "save").startswith("saved to")
    assert act(server, "load").startswith("loaded")
    assert [one["label"] for one in act(server, "state")["classes"]] == ["L"]


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")]
)
def test_the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only(server, path, kind):
    status, headers, content = request(server, path, method="GET")
    assert status == 200 and kind in headers["Content-Type"]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for forbidden in (b"http://", b"https://", b"innerHTML", b"eval("):
        assert forbidden not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_request_of_another_page_is_refused(server, headers):
    status, _, content = request(server, "/api/state", {}, **headers)
    assert status == 403 and "only requests of http://127.0.0.1" in json.loads(content)["error"]
    assert request(server, "/", method="GET", **headers)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_page_is_answered_by_either_name(server, host):
    own = f"{host}:{server.server_address[1]}"
    assert request(server, "/api/state", {}, Host=own, Origin=f"http://{own}")[0] == 200


# The types that a browser sends to another origin without asking it first.
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_form_of_another_page_is_refused(server, kind):
    assert request(server, "/api/state", b"{}", **{"Content-Type": kind})[0] == 415


@pytest.mark.parametrize(
    ("action", "body", "status", "message"),
    [
        ("nothing", {}, 404, "there is no /api/nothing here"),
        ("ask", {}, 400, "the request has no 'drawing'"),
        ("ask", {"drawing": 7}, 400, "must be a JSON object of strings"),
        ("ask", ["M1 2"], 400, "must be a JSON object of strings"),
        ("ask", b"{", 400, "must be a JSON object of strings"),
        ("ask", b"\xff", 400, "must be a JSON object of strings"),
        ("ask", {"drawing": ""}, 400, "the drawing is empty"),
        ("learn", {"drawing": L, "name": ""}, 400, "the name is empty"),
        ("ask", b" " * (MAX_BYTES + 1), 413, f"at most {MAX_BYTES:,} bytes"),
        ("undo", {}, 400, "nothing to undo"),
        ("load", {}, 400, "there is no file"),
    ],
)
def test_a_bad_request_is_refused_and_the_next_is_answered(server, action, body, status, message):
    got, _, content = request(server, f"/api/{action}", body)
    assert got == status and message in json.loads(content)["error"]
    assert act(server, "state")["classes"] == []


@pytest.mark.parametrize(
    "path", ["/session.py", "/../pyproject.toml", "/page.html", "//etc/passwd"]
)
def test_no_other_file_is_served(server, path):
    assert request(server, path, method="GET")[0] == 404


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    with serving(tmp_path / "nowhere" / "drawings.safetensors") as server:
        act(server, "learn", drawing=L, name="L")
        assert "nowhere" in act(server, "save", 400)


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            Server(Session(tmp_path / "m.safetensors"), taken.getsockname()[1])
