"""Clients that send slowly, too much, nothing, or nonsense, over real sockets: they are ended, the others are served on."""

import socket
import ssl
import time
from contextlib import closing, contextmanager
from http.client import HTTPResponse

import httpx
import pytest

from service.api.app import create_app
from service.api.guard import protocol
from service.errors import SettingsError
from service.settings import load_settings
from tasks.local_server import free_port
from tasks.waiting import wait_until
from tests.support.asking import NOWHERE
from tests.support.certificates import authority, keystore
from tests.support.serving import running

HEAD = b"POST /v1/visits HTTP/1.1\r\nHost: 127.0.0.1\r\n"
JSON = HEAD + b"Content-Type: application/json\r\n"
FORM = HEAD + b'Content-Type: multipart/form-data; boundary="b"\r\n'


@contextmanager
def serving(folder, **settings):
    given = {
        "database_uri": NOWHERE, "upload_dir": folder / "up", "port": free_port(), "header_timeout_s": 0.5, "body_timeout_s": 0.5,
        "idle_timeout_s": 1, "max_upload_mb": 1, "max_connections": 400,
    }  # fmt: skip
    effective = load_settings(**{**given, **settings})
    with running(create_app(effective), effective):
        yield effective.port


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hostile")) as port:
        yield port


def connect(port, *parts):
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    for part in parts:
        client.sendall(part)
    return client


def status_of(client):
    """Status of one whole answer, in however many pieces it came; the connection stays open."""
    answer = HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def read_all(client):
    """What came until the server closed."""
    got = b""
    with client:
        try:
            while data := client.recv(65536):
                got += data
        except ConnectionResetError:  # it closed with something of ours unread: after its answer, never instead of one
            assert got
    return got


def answered(port, *parts):
    """Status, code of the problem and head of the one answer to what is sent."""
    head, _, body = read_all(connect(port, *parts)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body, head.lower()


def test_three_hundred_half_sent_bodies_hold_nobody_up_and_end(port):
    begin = time.monotonic()
    half = [connect(port, JSON + b"Content-Length: 100\r\n\r\n{") for _ in range(300)]
    reply = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
    assert reply.status_code == 200
    ends = [read_all(client) for client in half]
    assert all(end.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in end for end in ends)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("sent", "status", "code"), [
    ((HEAD,), 408, b"request_timeout"),  # the head never ends
    ((JSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{",), 408, b"request_timeout"),
    ((FORM + b"Content-Length: 500\r\n\r\n--b\r\n",), 408, b"request_timeout"),
    ((JSON + b"Content-Length: 1048577\r\n\r\n",), 413, b"too_large"),
    ((JSON + b"Transfer-Encoding: chunked\r\n\r\n180000\r\n" + b" " * 0x180000,), 413, b"too_large"),
    ((FORM + b"Transfer-Encoding: chunked\r\n\r\n180000\r\n--b\r\nContent-Disposition: form-data; name=science; filename=x\r\n\r\n" + b"x" * 0x17ffff,), 413, b"too_large"),
    ((b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % k for k in range(10_000)) + b"\r\n",), 431, b"headers_too_large"),
    ((b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",), 431, b"headers_too_large"),
    ((b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",), 431, b"headers_too_large"),
    ((b"\x16\x03\x01\x02\x00\x01\x00 nonsense\r\n\r\n",), 400, b"bad_message"),
    ((b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",), 400, b"bad_message"),
    ((b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",), 400, b"bad_message"),
])  # fmt: skip
def test_what_is_too_slow_too_large_or_no_http_gets_a_problem_and_an_end(port, sent, status, code):
    got, body, head = answered(port, *sent)
    assert (got, code in body) == (status, True), body
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert b"server:" not in head


def test_a_client_that_goes_away_in_the_middle_of_a_body_is_no_fault_of_the_program(port, caplog):
    caplog.set_level("INFO", "alertprod.api")
    connect(port, JSON + b"Content-Length: 100\r\n\r\n{").close()
    assert wait_until(lambda: "a client went away" in caplog.messages, 10)
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == []


def test_a_body_that_drips_is_ended_although_it_never_pauses(port):
    begin = time.monotonic()
    client = connect(port, JSON + b"Content-Length: 1000\r\n\r\n")
    client.settimeout(0.05)
    got = b""
    while not got and time.monotonic() - begin < 5:
        try:
            client.sendall(b" ")
            got = client.recv(65536)
        except TimeoutError:
            continue
    client.close()
    assert got.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begin < 3


def test_a_connection_that_says_nothing_is_closed_without_a_word(port):
    begin = time.monotonic()
    assert read_all(connect(port)) == b""
    idle = connect(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_all(idle).startswith(b"HTTP/1.1 200 ")
    assert time.monotonic() - begin < 8


def test_a_refused_request_does_not_keep_the_connection_for_the_rest_of_its_body(port):
    begin = time.monotonic()
    client = connect(port, HEAD + b"Content-Type: text/plain\r\nContent-Length: 1000\r\n\r\nx")
    assert b" 415 " in read_all(client).partition(b"\r\n")[0]
    assert time.monotonic() - begin < 5


def test_a_connection_whose_body_came_after_the_answer_is_good_for_the_next_requests(port, monkeypatch):
    """As clients do that send head and body one after the other: what is asked next is not cut off."""
    monkeypatch.setattr(protocol, "LINGER_S", 0.3)
    with closing(connect(port, HEAD + b"Content-Type: text/plain\r\nContent-Length: 4\r\n\r\n")) as client:
        assert status_of(client) == 415
        client.sendall(b"body")
        ended = time.monotonic() + 0.6
        while time.monotonic() < ended:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert status_of(client) == 200


def test_a_body_that_comes_in_many_pieces_is_taken(port):
    body = b'{"surprise": ' + b" " * 200_000 + b"1}"
    client = connect(port, JSON + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
    for k in range(0, len(body), 50_000):
        client.sendall(body[k : k + 50_000])
    assert b" 422 " in read_all(client).partition(b"\r\n")[0]


def test_more_uploads_than_the_disk_could_take_are_told_to_come_back(port):
    half = [connect(port, FORM + b"Content-Length: 500\r\n\r\n--b\r\n") for _ in range(8)]
    whole = FORM + b"Connection: close\r\nContent-Length: 7\r\n\r\n--b--\r\n"
    deadline, status = time.monotonic() + 5, 0
    while status != 503:  # as soon as all of them are being read
        status, body, head = answered(port, whole)
        assert time.monotonic() < deadline
    assert (b"busy" in body, b"retry-after: 5" in head) == (True, True)
    assert all(read_all(client).startswith(b"HTTP/1.1 408 ") for client in half)
    assert answered(port, whole)[0] == 422


def test_more_connections_than_allowed_are_told_to_come_back(tmp_path):
    with serving(tmp_path, max_connections=3) as port:
        held = [connect(port) for _ in range(3)]
        status, body, head = answered(port)
        assert (status, b"busy" in body, b"retry-after: 5" in head) == (503, True, True)
        for client in held:
            client.close()
        deadline = time.monotonic() + 5
        while httpx.get(f"http://127.0.0.1:{port}/healthz").status_code != 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(("trusted", "seen"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")])
def test_only_a_trusted_proxy_says_where_a_client_is(tmp_path, trusted, seen):
    with serving(tmp_path, access="tokens", trusted_proxies=trusted, host="127.0.0.1") as port:
        head = {"Authorization": "Bearer bad", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.8"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=head) as client:
            answers = [client.get("/mode") for _ in range(61)]
    assert [a.status_code for a in answers] == [401] * 60 + [429]
    assert f"came from {seen}:" in answers[-1].json()["detail"]


def test_tls_by_option_and_nothing_older_than_1_2(tmp_path):
    pem = keystore(tmp_path, *authority(tmp_path, "authority"))
    with serving(tmp_path, tls_certificate=pem, tls_key=pem) as port:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
        reply = httpx.get(f"https://127.0.0.1:{port}/healthz", verify=trusting)
        assert reply.status_code == 200
        assert "max-age" in reply.headers["strict-transport-security"]
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        assert {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3} >= {_spoken(port, old)}
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _spoken(port, _only_1_1())


def _spoken(port, context):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as secure:
        return {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[secure.version()]


def _only_1_1():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_a_certificate_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "x.pem").write_text("no certificate")
    for given in ({"tls_certificate": tmp_path / "x.pem"}, {"tls_certificate": tmp_path / "x.pem", "tls_key": tmp_path / "x.pem"},
                  {"tls_certificate": tmp_path / "gone", "tls_key": tmp_path / "gone"}):  # fmt: skip
        with pytest.raises(SettingsError, match="ALERTPROD_TLS_CERTIFICATE"), serving(tmp_path, **given):
            pass
