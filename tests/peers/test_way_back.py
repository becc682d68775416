"""Answers on their way back: compression, redirects and cookies behind a rewrite, error pages."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from daemon import Daemon
from scenarios import from_haproxy, from_nginx

ROUTES = [
    {"match": {"path": {"prefix": "/zip/"}}, "pool": "app", "compression": {"types": ["text/plain"]}},
    {"match": {"path": {"prefix": "/small/"}}, "pool": "app", "compression": {"min_length": "1KiB"}},
    {
        "match": {"path": {"prefix": "/app/"}},
        "pool": "app",
        "rewrite": {"prefix": "/"},
        "response_rewrite": {
            "cookie_path": {"/path/": "/new/"},
            "cookie_domain": {"www.example.org": ".example.com"},
        },
    },
    {
        "match": {"path": {"prefix": "/off/"}},
        "pool": "app",
        "rewrite": {"prefix": "/"},
        "response_rewrite": {"location": "off"},
    },
    {
        "match": {"path": {"prefix": "/pairs/"}},
        "pool": "app",
        "rewrite": {"prefix": "/"},
        "response_rewrite": {"location": "off", "locations": {"http://far.test/": "/replaced/"}},
    },
    {
        "match": {"path": {"prefix": "/caught/"}},
        "pool": "app",
        "error_pages": [{"on": [401, 500], "body": "intercepted", "intercept": True}],
    },
    {
        "match": {"path": {"prefix": "/denied/403"}},
        "pool": "nobody",
        "error_pages": [{"on": [503], "body": "route 503"}],
    },
    {"match": {"path": {"prefix": "/denied/"}}, "pool": "nobody"},
]


class App(ThreadingHTTPServer):
    """Answers as the query says: `status`, `length` of the body, and any header; `flush` waits for `going` in the
    middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Said)
        self.going = Event()
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Said(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: App

    def answer(self) -> None:
        wanted = parse_qsl(urlsplit(self.path).query)
        said = dict(wanted)
        body = b"X" * int(said.get("length", 100))
        self.send_response(int(said.get("status", 200)))
        for name, value in wanted:
            if name not in ("status", "length", "flush"):
                self.send_header(name, value)
        if "flush" in said:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\nDATA\r\n")
            self.server.going.wait(20)
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon], app: App, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    page = tmp_path_factory.mktemp("pages") / "503.html"
    page.write_text("listener 503")
    listener = {
        "bind": "127.0.0.1:0",
        "protocol": "http",
        "error_pages": [{"on": [503], "file": str(page)}, {"on": ["4xx"], "body": "listener 4xx", "status": 404}],
        "routes": ROUTES,
    }
    pools = {
        "app": {"protocol": "http", "endpoints": [f"127.0.0.1:{app.server_address[1]}"], "outlier": "off"},
        "nobody": {"protocol": "http", "endpoints": [{"address": "127.0.0.1:9", "weight": 0}]},
    }
    return run({"listeners": {"web": listener}, "pools": pools})


def fetch(daemon: Daemon, target: str, method: str = "GET", **fields: str) -> tuple[int, HTTPMessage, bytes]:
    connection = HTTPConnection("127.0.0.1", daemon.port(), timeout=20)
    try:
        connection.request(method, target, headers={k.replace("_", "-"): v for k, v in fields.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


TEXT = "Content-Type=text/plain"
GZIP = {"Accept_Encoding": "gzip"}


@from_haproxy("compression/basic.vtc", differs="Errors are compressed as well: HAProxy compresses 200 to 203 only.")
@from_nginx("gzip.t", differs="`HEAD` names the length without compression; nginx says that it would be compressed.")
def test_who_asks_for_gzip_gets_it(daemon: Daemon) -> None:
    """A client that accepts gzip gets an answer of a type that is listed compressed, with the same content; others, and
    answers that are encoded, forbid it, answer HEAD or are of another type, stay as they are."""
    plain = f"/zip/a?{TEXT}&length=4000&Accept-Ranges=bytes"
    status, fields, body = fetch(daemon, plain, **GZIP)
    assert (status, fields["content-encoding"], fields["content-length"]) == (200, "gzip", None)
    assert fields["accept-ranges"] is None
    assert gzip.decompress(body) == b"X" * 4000
    for target, method, asked in (
        (plain, "GET", {}),
        (plain, "GET", {"Accept_Encoding": "gzip;q=0, identity"}),
        (plain, "HEAD", GZIP),
        (plain + "&Cache-Control=no-transform", "GET", GZIP),
        ("/zip/a?Content-Type=text/css&length=4000", "GET", GZIP),
        ("/zip/a?Content-Type=multipart/mixed&length=4000", "GET", GZIP),
    ):
        _, fields, body = fetch(daemon, target, method, **asked)
        assert fields["content-encoding"] is None, target
        assert body == (b"" if method == "HEAD" else b"X" * 4000), target
    _, fields, body = fetch(daemon, plain + "&Content-Encoding=something", **GZIP)
    assert (fields["content-encoding"], body) == ("something", b"X" * 4000)


@from_haproxy("compression/vary.vtc")
def test_vary_says_that_the_client_decides(daemon: Daemon) -> None:
    """All answers that may be compressed vary by what the client accepts, once, whatever else they vary by."""
    for more, expected in (
        ("", ["accept-encoding"]),
        ("&Vary=Accept-Encoding", ["accept-encoding"]),
        ("&Vary=Other", ["accept-encoding", "other"]),
        ("&Vary=Other,Accept-Encoding", ["accept-encoding", "other"]),
    ):
        for asked in (GZIP, {"Accept_Encoding": "invalid"}, {}):
            _, fields, _ = fetch(daemon, f"/zip/a?{TEXT}&length=2000{more}", **asked)
            values = sorted(x.strip().lower() for v in fields.get_all("vary", []) for x in v.split(","))
            assert values == expected, (more, asked)
    assert fetch(daemon, "/zip/a?Content-Type=text/html&length=2000", **GZIP)[1]["vary"] is None


@from_haproxy("compression/min_size.vtc", differs="Requests are not compressed.")
def test_short_answers_stay_as_they_are(daemon: Daemon) -> None:
    """An answer below the least length is not compressed, and keeps its tag; one as long as that is."""
    for length, coding, tag in (
        (50, None, '"1"'),
        (1023, None, '"1"'),
        (1024, "gzip", 'W/"1"'),
        (9000, "gzip", 'W/"1"'),
    ):
        _, fields, _ = fetch(daemon, f'/small/a?{TEXT}&length={length}&ETag="1"', **GZIP)
        assert (fields["content-encoding"], fields["etag"]) == (coding, tag)


@from_haproxy("compression/etags_conversion.vtc")
def test_a_strong_tag_becomes_a_weak_one(daemon: Daemon) -> None:
    """A strong ETag of a compressed answer becomes weak, a weak one stays. Several, or what is no ETag, stay as they
    are with their answer."""
    for tag, expected in (('"123"', 'W/"123"'), ('W/"456"', 'W/"456"'), ('""', 'W/""')):
        _, fields, _ = fetch(daemon, f"/zip/a?{TEXT}&length=2000&ETag={tag}", **GZIP)
        assert (fields["content-encoding"], fields["etag"]) == ("gzip", expected)
    for tags in (['"invalid'], ['invalid"'], ["invalid"], ['W/"invalid'], ['W/invalid"'], ['"one"', '"two"']):
        target = f"/zip/a?{TEXT}&length=2000" + "".join(f"&ETag={tag}" for tag in tags)
        _, fields, body = fetch(daemon, target, **GZIP)
        assert (fields["content-encoding"], fields.get_all("etag"), len(body)) == (None, tags, 2000)


@from_nginx("gzip_flush.t")
def test_what_has_come_is_not_held_back_by_compression(daemon: Daemon, app: App) -> None:
    """What an endpoint has sent of a stream reaches the client, compressed, while the endpoint pauses."""
    connection = HTTPConnection("127.0.0.1", daemon.port(), timeout=20)
    try:
        connection.request("GET", f"/zip/a?{TEXT}&flush=1", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.headers["content-encoding"] == "gzip"
        received = answer.read1(4096)
        while b"DATA" not in _so_far(received):
            received += answer.read1(4096)
        app.going.set()
        assert gzip.decompress(received + answer.read()) == b"DATA"
    finally:
        app.going.set()
        connection.close()


def _so_far(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


@from_nginx(
    "proxy_redirect.t",
    differs=(
        "Paths alone are undone, too: they lead nowhere otherwise. Patterns are beginnings, not regular expressions."
    ),
)
def test_redirects_behind_a_rewrite_lead_back(daemon: Daemon, app: App) -> None:
    """The endpoint's own address in Location and Refresh becomes the path that leads to it, unless that is off; pairs
    say what else becomes what."""
    inside = f"http://127.0.0.1:{app.server_address[1]}/test.html"
    for path, field, said, expected in (
        ("/app/", "Location", inside, "/app/test.html"),
        ("/app/", "Refresh", f"7; url={inside}", "7; url=/app/test.html"),
        ("/off/", "Location", inside, inside),
        ("/pairs/", "Location", "http://far.test/test.html", "/replaced/test.html"),
        ("/pairs/", "Location", inside, inside),
    ):
        assert fetch(daemon, f"{path}?{field}={said.replace(' ', '%20').replace(';', '%3B')}")[1][field] == expected


@from_nginx("proxy_cookie.t", differs="Beginnings of paths and whole domains are replaced, not regular expressions.")
def test_cookies_behind_a_rewrite_fit(daemon: Daemon) -> None:
    """Path and domain of cookies are replaced by the pairs, whatever the case of a domain; without pairs they stay."""
    for path, said, expected in (
        ("/app/", "v=1; domain=www.Example.org", "v=1; domain=.example.com"),
        ("/app/", "v=1; path=/path/test.html", "v=1; path=/new/test.html"),
        ("/app/", "v=1; domain=www.example.org; path=/path/a", "v=1; domain=.example.com; path=/new/a"),
        ("/off/", "v=1; domain=www.example.org; path=/path/a", "v=1; domain=www.example.org; path=/path/a"),
    ):
        target = path + "?Set-Cookie=" + said.replace("; ", "%3B%20")
        assert fetch(daemon, target)[1]["set-cookie"] == expected


@from_nginx("proxy_intercept_errors.t")
def test_errors_of_endpoints_get_a_page(daemon: Daemon) -> None:
    """An endpoint's error of a named status gets the page and keeps each WWW-Authenticate; others pass as they are."""
    assert fetch(daemon, "/caught/a")[::2] == (200, b"X" * 100)
    assert fetch(daemon, "/caught/a?status=502")[::2] == (502, b"X" * 100)
    assert fetch(daemon, "/caught/a?status=500")[::2] == (500, b"intercepted")
    status, fields, body = fetch(daemon, "/caught/a?status=401&WWW-Authenticate=foo&WWW-Authenticate=bar")
    assert (status, fields.get_all("www-authenticate"), body) == (401, ["foo", "bar"], b"intercepted")


@from_haproxy(
    "http-errorfiles/errorfiles.vtc",
    "http-errorfiles/http_errors.vtc",
    differs="A page is a body; its headers and its status are keys of their own, not a file with a whole answer.",
)
def test_own_errors_have_pages_of_the_route_before_those_of_the_listener(daemon: Daemon) -> None:
    """An error of the proxy gets the page of its route; without one, that of the listener, by status or class."""
    assert fetch(daemon, "/denied/403")[::2] == (503, b"route 503")
    assert fetch(daemon, "/denied/other")[::2] == (503, b"listener 503")
    assert fetch(daemon, "/nobody-takes-this")[::2] == (404, b"listener 4xx")
    status, fields, body = fetch(daemon, "/denied/other", "HEAD")
    assert (status, fields["content-length"], body) == (503, str(len("listener 503")), b"")
