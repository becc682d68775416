"""Sets of keys of issuers whose servers answer slowly, in parts, or not at all."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from joserfc import jwk

from lb.config.schema.file import Config
from lb.control.key_sets import MOST, KeySets

GOOD = json.dumps({"keys": [{**jwk.ECKey.generate_key("P-256").as_dict(private=False), "kid": "a"}]}).encode()
HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD


@contextmanager
def server(answer: bytes, drip: bytes = b"") -> Iterator[str]:
    """Answers each request by `answer`, and a byte of `drip` every 20 ms for ever; the URL."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            try:
                self.request.sendall(answer)
                while drip and not over.wait(0.02):
                    self.request.sendall(drip)
            except OSError:
                return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}/"
        finally:
            over.set()
            made.shutdown()


def config_of(*urls: str) -> Config:
    auth = {
        f"a{i}": {"type": "jwt", "url": url, "issuer": "x", "audience": ["y"], "refresh": "1s"}
        for i, url in enumerate(urls)
    }
    return Config.model_validate({"listeners": {}, "pools": {}, "auth": auth})


def test_a_server_that_never_ends_its_answer_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A limit for each read would let a byte now and then keep the watch of files, and every reload, for ever."""
    with ExitStack() as stack:
        served = (
            (HEAD, b"X"),  # a head without an end
            (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),  # a body that comes by the byte
            (HEAD + b"\r\n" + b" " * (MOST + 1), b" "),  # one without an end
            (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", b""),
            (b"", b"x"),  # no HTTP
            (WHOLE, b""),
        )
        config = config_of(*(stack.enter_context(server(*one)) for one in served))
        found = list(KeySets(patience=0.5).refresh(config).values())
    assert found == [b""] * (len(served) - 1) + [GOOD]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(served) - 1
    for i, what in enumerate(("within 0.5 s", "within 0.5 s", "longer than", "status 302", "cannot be used")):
        assert f"auth.a{i}:" in said[i]
        assert what in said[i]


def test_keys_that_are_known_stay() -> None:
    now = 0.0
    sets = KeySets(patience=0.5, clock=lambda: now)
    with server(WHOLE) as url:
        config = config_of(url)
        assert sets.refresh(config) == {url: GOOD}
    now = 1.0
    assert sets.refresh(config) == {url: GOOD}
