import http.client
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from itertools import islice
from threading import Event
from urllib.parse import quote

import pytest

pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from chromium import serving
from drawings import as_path, character

from rarememory.play import page
from rarememory.play import server as serving_
from rarememory.play.page import MAX_BYTES, MAX_WAITING
from rarememory.play.server import Server
from rarememory.play.session import Session

L = as_path(character("L"))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "drawings.safetensors") as server:
        yield server


def request(server, path, body=None, method="POST", token=None, **headers):
    """Status, headers and content of the response to a request of the page, or by another token."""
    path = path if token == "" else f"/{token or server.page.token}{path}"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
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


def raw(server, content, seconds=10.0):
    """What comes back for these bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as client:
        client.sendall(content)
        received = b""
        while more := client.recv(65536):
            received += more
        return received


def test_the_server_listens_on_this_computer_only(server):
    assert re.fullmatch(rf"http://127\.0\.0\.1:{server.port}/[\w-]{{32}}/", server.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


@pytest.mark.parametrize("token", ["", "x" * 32, "é"])
def test_who_does_not_know_the_token_gets_nothing(server, token):
    for path, method in (("/", "GET"), ("/page.js", "GET"), ("/api/state", "POST")):
        status, _, content = request(server, path, {}, method, token and quote(token))
        assert status == 403 and b"the address that `rarememory play` has printed" in content
    other = Server(server.session)
    other.close()
    assert other.page.token != server.page.token


def test_the_address_that_a_browser_is_started_with_opens_the_page_once(server):
    path = server.opening_url.partition(str(server.port))[2]
    assert server.page.token not in path
    assert request(server, path + "x", method="GET", token="")[0] == 403
    assert request(server, path, method="GET", token="", Host="evil.example")[0] == 403
    status, headers, _ = request(server, path, method="GET", token="")
    assert status == 303 and server.url.endswith(headers["Location"])
    assert request(server, headers["Location"], method="GET", token="")[0] == 200
    status, _, content = request(server, path, method="GET", token="")
    assert status == 403 and b"opens the page once" in content


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
    own = f"{host}:{server.port}"
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
        ("ask", b"[" * 60_000, 400, "must be a JSON object of strings"),
        ("ask", b'{"a":' * 10_000, 400, "must be a JSON object of strings"),
        ("ask", b'{"drawing": ' + b"7" * 50_000 + b"}", 400, "must be a JSON object of strings"),
        ("ask", {"drawing": "M1 2" + "L3 4" * 6_000}, 400, "20,000 are allowed"),
        ("ask", {"drawing": "M0 0" + "L255 255L0 0" * 800}, 400, "the pen goes 576,999 units"),
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


def test_a_body_without_an_end_is_not_read_on(server):
    head = f"POST /{server.page.token}/api/ask HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head.encode() + b"10000\r\n" + b" " * 65536 + b"\r\n")
        client.sendall((b"10000\r\n" + b" " * 65536 + b"\r\n") * 2)
        assert b"413 Request Entity Too Large" in client.recv(65536).replace(b"Content", b"Entity")


@pytest.mark.parametrize(
    "line", ["Content-Length: " + "9" * 5_000, "Content-Length: -1", "Content-Length: x", ":"]
)
def test_a_request_that_is_none_is_refused_by_the_protocol(server, line):
    head = f"POST /{server.page.token}/api/state HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    assert b" 400 " in raw(server, f"{head}{line}\r\n\r\n".encode())
    assert act(server, "state")["classes"] == []


def slow(server):
    """Connections that send a part of a request: nothing, half of a header, half of a body."""
    host = f"Host: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    head = f"POST /{server.page.token}/api/state HTTP/1.1\r\n{host}"
    for part in ("", head, f"{head}Content-Length: 9\r\n\r\n{{"):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(part.encode())
        yield client


def is_closed(client):
    """Whether the server has ended this connection, without an answer."""
    try:
        return client.recv(65536) == b""
    except ConnectionResetError:
        return True


def test_a_client_that_sends_no_request_in_time_is_left(server, monkeypatch):
    monkeypatch.setattr(page, "PATIENCE", 0.3)
    monkeypatch.setattr(serving_, "PATIENCE", 0.3)
    for client, answer in zip(slow(server), (b"", b"", b"408 Request Timeout"), strict=True):
        with client:
            begin = time.perf_counter()
            assert answer in client.recv(65536) if answer else is_closed(client)
            assert time.perf_counter() - begin < 5


def test_beyond_so_many_connections_the_one_that_waited_longest_is_closed(server, monkeypatch):
    monkeypatch.setattr(serving_, "MAX_CONNECTIONS", 5)
    clients = [next(slow(server)) for _ in range(20)]
    begin = time.perf_counter()
    assert act(server, "state")["classes"] == []
    assert all(is_closed(client) for client in clients[:14])
    assert time.perf_counter() - begin < 0.8 * page.PATIENCE
    for client in clients:
        client.close()


def test_a_request_that_came_before_many_connections_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_, "MAX_CONNECTIONS", 5)
    server = Server(Session(tmp_path / "drawings.safetensors"))
    with closing(server), ThreadPoolExecutor(1) as pool:
        # Before it accepts any, so that it accepts all at once.
        first = socket.create_connection(("127.0.0.1", server.port))
        first.sendall(
            f"GET /{server.page.token}/ HTTP/1.1\r\nHost: {server.page.address}\r\n\r\n".encode()
        )
        others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        running = pool.submit(server.serve_forever)
        first.settimeout(20)
        try:
            assert first.recv(12) == b"HTTP/1.1 200"
        finally:
            server.shutdown()
            for client in (first, *others):
                client.close()
            running.result()


def test_of_many_requests_at_once_some_are_told_to_wait_and_the_others_are_answered(
    server, monkeypatch
):
    end = Event()
    monkeypatch.setitem(page.ACTIONS, "undo", lambda *_: end.wait(60))
    with ThreadPoolExecutor(MAX_WAITING + 4) as pool:
        asked = [pool.submit(request, server, "/api/undo", {}) for _ in range(MAX_WAITING + 4)]
        refused = [one.result() for one in islice(as_completed(asked), 4)]
        end.set()
        statuses = sorted(one.result()[0] for one in asked)
    assert statuses == [200] * MAX_WAITING + [503] * 4
    assert all(b"too much is asked at once" in content for _, _, content in refused)
    assert act(server, "state")["classes"] == []


def test_actions_of_many_requests_are_done_one_at_a_time(server, monkeypatch):
    inside, most = [], []

    def undo(*_):
        inside.append(None)
        time.sleep(0.01)
        most.append(len(inside))
        inside.pop()

    monkeypatch.setitem(page.ACTIONS, "undo", undo)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: act(server, "undo"), range(8)))
    assert most == [1] * 8


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            Server(Session(tmp_path / "m.safetensors"), taken.getsockname()[1])
