"""Answers of HTTP/1.1 for callers in Python."""

from __future__ import annotations

import pytest

from lb.http.http1_reader import AnswerReader

HEAD = b"HTTP/1.1 200 OK\r\n"


def read(*pieces: bytes, headless: bool = False, ended: bool = False) -> tuple[int, bytes, bool]:
    reader = AnswerReader(headless, 1000)
    body = b"".join(reader.feed(piece) for piece in pieces)
    if ended:
        reader.end()
    return reader.status, body, reader.complete


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", 200, b"hello"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX: y\r\n\r\n", 200, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\n"
         b"Content-Length: 2\r\n\r\nno", 503, b"no"),
    ],
)  # fmt: skip
def test_answers_come_in_any_pieces(answer: bytes, status: int, body: bytes) -> None:
    assert read(answer) == (status, body, True)
    assert read(answer + b"more") == (status, body, True)
    assert read(*[answer[i : i + 1] for i in range(len(answer))], ended=True) == (status, body, True)
    for end in range(len(answer)):
        assert not read(answer[:end])[2]
        with pytest.raises(ValueError, match="closed within it"):
            read(answer[:end], ended=True)


def test_the_end_of_the_connection_may_be_that_of_the_body() -> None:
    assert read(HEAD + b"\r\nhel", b"lo") == (200, b"hello", False)
    assert read(HEAD + b"\r\nhel", b"lo", ended=True) == (200, b"hello", True)


def test_heads_alone() -> None:
    assert read(HEAD + b"Content-Length: 5\r\n\r\n", headless=True) == (200, b"", True)
    assert read(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nany")[0] == 101


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((b"SSH-2.0-OpenSSH\r\n",), "Expected HTTP/"),
        ((HEAD[:-2] + b"\n\r\n",), "Missing expected CR"),
        ((HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",), "transfer coding"),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz"), "chunk size"),
        ((HEAD + b"X: y\r\n" * 1100 + b"\r\n",), "too many header fields"),
        ((HEAD, b"X: " + b"y" * 1000), "too large"),
    ],
)
def test_what_no_worker_takes(pieces: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(*pieces)
