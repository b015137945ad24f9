"""What of HTTP only sockets show: interim answers, order, ends of connections, clients that still send."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import ServerThread
from tests.raw import RawClient, RawResponse, Truncated

Serve = Callable[..., ServerThread]

# Far above what a test takes, far below what would hide a server that waits for one of its own deadlines.
QUICK_SECONDS = 5.0


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with method, path, and size and digest of the content."""
    content = environ["wsgi.input"].read()
    answer = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {digest(content)}".encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def digest(content: bytes) -> str:
    return f"{len(content)} {hashlib.sha256(content).hexdigest()[:16]}"


def answer_of(method: str, path: str, content: bytes = b"") -> bytes:
    return f"{method} {path} {digest(content)}".encode()


def generate(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Answer with blocks, whose size together nobody knows beforehand."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one "
    yield b"two"


class Counted:
    """An application that counts its requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        return echo(environ, start_response)


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, "Host: test", *fields, "", ""]).encode()


def get(path: str, *fields: str) -> bytes:
    return head(f"GET {path} HTTP/1.1", *fields)


def post(path: str, content: bytes, *fields: str) -> bytes:
    return head(f"POST {path} HTTP/1.1", f"Content-Length: {len(content)}", *fields) + content


def post_chunked(path: str, *blocks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks)
    return head(f"POST {path} HTTP/1.1", "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"


def assert_refused(client: RawClient, status_code: int) -> RawResponse:
    """Read a refusal, and the orderly end of the connection after it."""
    response = client.receive()
    assert response.status_code == status_code
    assert response.value("Connection") == "close"
    assert client.at_end()
    return response


# 100 Continue: RFC 9110 §10.1.1.


@pytest.mark.parametrize(
    ("framing", "content"),
    [("Content-Length: 5", b"abcde"), ("Transfer-Encoding: chunked", b"5\r\nabcde\r\n0\r\n\r\n")],
)
def test_expect_with_a_waiting_client_is_told_to_continue(serve: Serve, framing: str, content: bytes) -> None:
    with serve(echo).connect() as client:
        client.send(head("POST /a HTTP/1.1", framing, "Expect: 100-continue"))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(content)
        response = client.receive()
        assert response.interim == []
        assert response.content == answer_of("POST", "/a", b"abcde")
        assert client.get("/b").content == answer_of("GET", "/b")


@pytest.mark.parametrize("sent", [b"abcde", b"a"])
def test_expect_with_content_already_there_is_not_told_to_continue(serve: Serve, sent: bytes) -> None:
    with serve(echo).connect() as client:
        client.send(head("POST /a HTTP/1.1", "Content-Length: 5", "Expect: 100-continue") + sent)
        client.send(b"abcde"[len(sent) :])
        response = client.receive()
        assert response.interim == []
        assert response.content == answer_of("POST", "/a", b"abcde")


def test_expect_in_http_1_0_is_not_told_to_continue(serve: Serve) -> None:
    with serve(echo).connect() as client:
        client.send(head("POST /a HTTP/1.0", "Content-Length: 5", "Expect: 100-continue"))
        client.send(b"abcde")
        response = client.receive()
        assert response.interim == []
        assert response.content == answer_of("POST", "/a", b"abcde")


@pytest.mark.parametrize("fields", [(), ("Content-Length: 0",)])
def test_expect_without_content_is_not_told_to_continue(serve: Serve, fields: tuple[str, ...]) -> None:
    with serve(echo).connect() as client:
        client.send(head("POST /a HTTP/1.1", "Expect: 100-continue", *fields))
        response = client.receive()
        assert response.interim == []
        assert response.status_code == 200


def test_expect_of_a_pipelined_request_is_told_to_continue_after_the_answer_before_it(serve: Serve) -> None:
    with serve(echo).connect() as client:
        client.send(get("/a") + head("POST /b HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"))
        first = client.receive()
        assert (first.interim, first.content) == ([], answer_of("GET", "/a"))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"abcde")
        assert client.receive().content == answer_of("POST", "/b", b"abcde")


def test_expect_with_too_much_content_is_413_before_any_of_it(serve: Serve) -> None:
    application = Counted()
    with serve(application, limit_request_body=1000).connect(QUICK_SECONDS) as client:
        client.send(head("POST /a HTTP/1.1", "Content-Length: 1001", "Expect: 100-continue"))
        assert assert_refused(client, 413).interim == []
    assert application.paths == []


def test_expect_unknown_is_417(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(head("POST /a HTTP/1.1", "Content-Length: 5", "Expect: wonders"))
        assert assert_refused(client, 417).interim == []


# HEAD: RFC 9110 §9.3.2.


@pytest.mark.parametrize("application", [echo, generate])
def test_head_has_no_content_and_the_connection_goes_on(serve: Serve, application: Any) -> None:
    with serve(application).connect() as client:
        client.send(head("HEAD /a HTTP/1.1") + get("/b"))
        response = client.receive("HEAD")
        assert response.status_code == 200
        following = client.receive()
        assert following.status_code == 200
        assert following.content == (answer_of("GET", "/b") if application is echo else b"one two")


def test_head_says_the_length_that_get_has(serve: Serve) -> None:
    with serve(echo).connect() as client:
        length = client.get("/a", method="HEAD").value("Content-Length")
        assert length == str(len(answer_of("HEAD", "/a")))


def test_head_that_is_refused_has_no_content_either(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(b"HEAD /a HTTP/1.1\r\nHost: a b\r\n\r\n")
        assert client.receive("HEAD").status_code == 400
        assert client.at_end()


# Pipelining: RFC 9112 §9.3.2.


def test_pipelined_requests_in_one_packet_are_answered_in_order(serve: Serve, parser_name: str) -> None:
    paths = [f"/{number}" for number in range(50)]
    with serve(echo, http=parser_name).connect() as client:
        client.send(b"".join(get(path) for path in paths))
        assert [client.receive().content for _ in paths] == [answer_of("GET", path) for path in paths]


def test_pipelined_requests_with_content_are_answered_in_order(serve: Serve, parser_name: str) -> None:
    sent = b""
    expected = []
    for number in range(20):
        content = bytes([number]) * (number * 531)
        path = f"/{number}"
        sent += post(path, content) if number % 2 else post_chunked(path, content[:100] or b"x", content[100:] or b"y")
        whole = content if number % 2 else (content[:100] or b"x") + (content[100:] or b"y")
        expected.append(answer_of("POST", path, whole))
    with serve(echo, http=parser_name).connect() as client:
        client.send(sent)
        assert [client.receive().content for _ in expected] == expected


def test_pipelined_request_is_not_run_before_the_answer_of_the_one_before_it(serve: Serve) -> None:
    begun: list[str] = []
    go_on = threading.Event()
    first_begun = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        begun.append(environ["PATH_INFO"])
        first_begun.set()
        assert go_on.wait(QUICK_SECONDS)
        return echo(environ, start_response)

    thread = serve(application)
    with thread.connect() as client:
        client.send(get("/a") + get("/b"))
        assert first_begun.wait(QUICK_SECONDS)
        thread.call(lambda: None)  # the loop has been round once more
        assert begun == ["/a"]
        go_on.set()
        assert client.receive().content == answer_of("GET", "/a")
        assert client.receive().content == answer_of("GET", "/b")


def test_pipelined_fault_is_answered_after_the_requests_before_it(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(get("/a") + get("/b") + b"GET / HTTP/2.0\r\n\r\n" + get("/c"))
        assert client.receive().content == answer_of("GET", "/a")
        assert client.receive().content == answer_of("GET", "/b")
        assert_refused(client, 505)


# Persistence: RFC 9112 §9.3, §9.6.


def test_keep_alive_of_http_1_1_serves_request_after_request(serve: Serve, parser_name: str) -> None:
    with serve(echo, http=parser_name).connect() as client:
        for number in range(10):
            response = client.get(f"/{number}")
            assert response.content == answer_of("GET", f"/{number}")
            assert response.value("Connection") is None
            assert client.post(b"x" * number).content == answer_of("POST", "/", b"x" * number)


def test_keep_alive_of_http_1_0_on_request_serves_request_after_request(serve: Serve, parser_name: str) -> None:
    with serve(echo, http=parser_name).connect() as client:
        for number in range(5):
            client.send(head(f"GET /{number} HTTP/1.0", "Connection: keep-alive"))
            response = client.receive()
            assert response.content == answer_of("GET", f"/{number}")
            assert response.value("Connection") == "keep-alive"
        client.send(head("GET /last HTTP/1.0"))
        assert client.receive().content == answer_of("GET", "/last")
        assert client.at_end()


def test_http_1_0_without_keep_alive_closes(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(b"GET /a HTTP/1.0\r\n\r\n")
        response = client.receive()
        assert response.value("Connection") == "close"
        assert client.at_end()


def test_http_1_0_with_an_unknown_length_ends_with_the_connection(serve: Serve) -> None:
    with serve(generate).connect(QUICK_SECONDS) as client:
        client.send(head("GET /a HTTP/1.0", "Connection: keep-alive"))
        response = client.receive()
        assert response.value("Connection") == "close"
        assert response.value("Transfer-Encoding") is None
        assert response.content == b"one two"


def test_http_1_1_with_an_unknown_length_is_chunked_and_goes_on(serve: Serve) -> None:
    with serve(generate).connect() as client:
        for _ in range(3):
            response = client.get("/a")
            assert response.value("Transfer-Encoding") == "chunked"
            assert response.content == b"one two"


def test_connection_close_followed_by_data_is_one_answer_and_an_orderly_end(serve: Serve, parser_name: str) -> None:
    application = Counted()
    with serve(application, http=parser_name).connect(QUICK_SECONDS) as client:
        client.send(get("/a", "Connection: close") + get("/b") + b"x" * 100_000)
        response = client.receive()
        assert response.value("Connection") == "close"
        assert response.content == answer_of("GET", "/a")
        assert client.at_end()
    assert application.paths == ["/a"]


def test_connection_close_of_one_client_does_not_show_in_another(serve: Serve, parser_name: str) -> None:
    thread = serve(echo, http=parser_name)
    with thread.connect() as lasting:
        for _ in range(3):
            with thread.connect() as leaving:
                assert leaving.get("/a", "Connection: close").status_code == 200
            assert lasting.get("/b").content == answer_of("GET", "/b")


def test_empty_line_after_content_does_not_begin_a_request(serve: Serve) -> None:
    # RFC 9112 §2.2: old clients send one. The deadline of a head must not run for it.
    thread = serve(echo, header_timeout=0.1, keep_alive=60)
    with thread.connect() as client, thread.connect() as slow:
        client.send(post("/a", b"abc") + b"\r\n")
        assert client.receive().content == answer_of("POST", "/a", b"abc")
        slow.send(b"GET")
        assert_refused(slow, 408)
        assert client.get("/b").content == answer_of("GET", "/b")
        client.send(b"\r\n")
        client.end()
        assert client.at_end()


def test_large_response_with_an_empty_block_ends_with_its_connection(serve: Serve) -> None:
    # What asyncio of CPython 3.12 and later keeps of it for good: gh-155888.
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [content, b""]

    content = bytes(70_000)
    with serve(application).connect(QUICK_SECONDS) as client:
        assert client.get("/", "Connection: close").content == content
        assert client.at_end()


# The client's end.


def test_half_close_after_a_request_is_still_answered(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(post("/a", b"abc"))
        client.end()
        assert client.receive().content == answer_of("POST", "/a", b"abc")
        assert client.at_end()


def test_half_close_after_pipelined_requests_still_answers_all(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(b"".join(post(f"/{number}", b"x" * 1000) for number in range(20)))
        client.end()
        for number in range(20):
            assert client.receive().content == answer_of("POST", f"/{number}", b"x" * 1000)
        assert client.at_end()


def test_half_close_after_a_request_and_part_of_another_is_answered_and_refused(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(get("/a") + get("/b")[:-3])
        client.end()
        assert client.receive().content == answer_of("GET", "/a")
        assert_refused(client, 400)


@pytest.mark.parametrize("sent", [b"GET", get("/a")[:-1], post("/a", b"abc")[:-1], post_chunked("/a", b"abc")[:-1]])
def test_half_close_in_a_request_is_400_and_never_reaches_the_application(serve: Serve, sent: bytes) -> None:
    application = Counted()
    with serve(application).connect(QUICK_SECONDS) as client:
        client.send(sent)
        client.end()
        assert_refused(client, 400)
    assert application.paths == []


def test_half_close_before_any_request_is_an_orderly_end(serve: Serve) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.end()
        assert client.at_end()


def test_reset_in_a_request_leaves_the_server_serving(serve: Serve) -> None:
    application = Counted()
    thread = serve(application)
    for sent in (b"GET", post("/a", b"abc")[:-1], post_chunked("/a", b"abc")[:-1]):
        client = thread.connect()
        client.send(sent)
        client.reset()
    with thread.connect() as client:
        assert client.get("/b").content == answer_of("GET", "/b")
    assert application.paths == ["/b"]


# Refusals to a client that still sends: RFC 9112 §9.6.

LARGE_SIZE = 6 * 1024 * 1024


@pytest.mark.parametrize(
    ("sent", "status_code"),
    [
        (head("POST /a HTTP/1.1", f"Content-Length: {LARGE_SIZE}"), 413),
        (head("POST /a HTTP/1.1", "Transfer-Encoding: chunked") + f"{LARGE_SIZE:x}\r\n".encode(), 413),
        (head("POST /a HTTP/1.1", "Transfer-Encoding: gzip"), 501),
        (head("POST /a HTTP/1.1", f"Content-Length: {LARGE_SIZE}", "Content-Length: 0"), 400),
    ],
)
def test_refusal_is_readable_by_a_client_that_still_sends_its_content(
    serve: Serve, sent: bytes, status_code: int
) -> None:
    application = Counted()
    with serve(application, limit_request_body=1000).connect(QUICK_SECONDS) as client:
        client.send(sent)
        client.send(b"x" * LARGE_SIZE)
        assert_refused(client, status_code)
    assert application.paths == []


def test_refusal_does_not_wait_for_the_content_to_end(serve: Serve) -> None:
    with serve(echo, limit_request_body=1000).connect(QUICK_SECONDS) as client:
        client.send(head("POST /a HTTP/1.1", "Content-Length: 1000000") + b"x" * 500)
        assert_refused(client, 413)
        client.send(b"x" * 500)  # the server still reads, and drops it


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
    ],
)
def test_endless_head_is_refused_before_its_end(serve: Serve, sent: bytes) -> None:
    with serve(echo).connect(QUICK_SECONDS) as client:
        client.send(sent)
        assert_refused(client, 414 if sent.startswith(b"GET /a") else 431)


# Other protocols on this port.


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_tls_hello_is_refused_at_once(serve: Serve) -> None:
    application = Counted()
    with serve(application, header_timeout=60).connect(QUICK_SECONDS) as client:
        client.send(client_hello())
        assert_refused(client, 400)
    assert application.paths == []


def test_tls_client_learns_at_once_that_nobody_speaks_tls(serve: Serve) -> None:
    thread = serve(echo, header_timeout=60)
    with (
        socket.create_connection(("127.0.0.1", thread.port), QUICK_SECONDS) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)wrong.version|record.layer"),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="a.example")


@pytest.mark.parametrize(
    ("sent", "status_code"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
        (b"EHLO a.example\r\n", 400),
        (b"GET /\r\n", 400),
        (b"\x05\x01\x00", 400),
        (b"OPTIONS sip:a@a.example SIP/2.0\r\n", 400),
    ],
)
def test_another_protocol_is_refused_at_once(serve: Serve, sent: bytes, status_code: int) -> None:
    with serve(echo, header_timeout=60).connect(QUICK_SECONDS) as client:
        client.send(sent)
        assert_refused(client, status_code)


# However the bytes come, however many clients there are.


def test_request_byte_by_byte_is_answered(serve: Serve, parser_name: str) -> None:
    with serve(echo, http=parser_name).connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent in (post("/a", b"abcde"), post_chunked("/a", b"ab", b"cde"), b"\r\n" + post("/a", b"abcde")):
            for index in range(len(sent)):
                client.send(sent[index : index + 1])
            assert client.receive().content == answer_of("POST", "/a", b"abcde")


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 3_000_000])
def test_content_of_any_size_arrives_whole(serve: Serve, size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    blocks = [content[start : start + 50_000] for start in range(0, size, 50_000)]
    with serve(echo).connect() as client:
        assert client.post(content, "/a").content == answer_of("POST", "/a", content)
        client.send(post_chunked("/b", *blocks))
        assert client.receive().content == answer_of("POST", "/b", content)


def test_200_connections_in_parallel_are_all_answered(serve: Serve, parser_name: str) -> None:
    thread = serve(echo, http=parser_name)
    with ExitStack() as stack:
        clients = [stack.enter_context(thread.connect()) for _ in range(200)]
        requests = [
            post(f"/{number}", b"%d" % number) if number % 2 else post_chunked(f"/{number}", b"%d" % number)
            for number in range(200)
        ]
        # Every head is half there before any is whole, so that the connections' states all differ at once.
        for start, end in ((0, 25), (25, 60), (60, None)):
            for client, request in zip(clients, requests, strict=True):
                client.send(request[start:end])
        for number, client in enumerate(clients):
            assert client.receive().content == answer_of("POST", f"/{number}", b"%d" % number)


def test_faulty_and_good_clients_side_by_side_do_not_disturb_each_other(serve: Serve, parser_name: str) -> None:
    thread = serve(echo, http=parser_name)
    faults = [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (post_chunked("/", b"abc").replace(b"abc\r\n", b"abcd\r\n"), 400),
    ]
    with thread.connect() as good:
        good.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent, status_code in faults * 5:
            with thread.connect(QUICK_SECONDS) as bad:
                good.send(get("/good")[:20])
                bad.send(sent)
                assert_refused(bad, status_code)
                good.send(get("/good")[20:])
                assert good.receive().content == answer_of("GET", "/good")


def test_answer_cut_short_is_seen_by_the_raw_client(serve: Serve) -> None:
    # The instrument itself: without this, a test that waits for whole answers could not fail.
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"abc"

    with serve(application).connect(QUICK_SECONDS) as client:
        client.send(get("/"))
        with pytest.raises((Truncated, ConnectionResetError)):
            client.receive()
