"""A real browser without a window, and the origin that its pages come from."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

Answer = tuple[int, str, bytes]  # status, content type, body


@contextmanager
def origin(answer: Callable[[str], Answer]) -> Iterator[str]:
    """Serves what `answer` gives for a path; the origin as browsers write it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def page_of(url: str, folder: str, milliseconds: int = 5000) -> str:
    """The document that a browser has made of `url` when its scripts have had so much time, in which waiting for
    answers does not count. `folder` is for its profile."""
    done = subprocess.run(
        [
            "chromium-headless-shell", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            f"--virtual-time-budget={milliseconds}", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def tables_of(page: str) -> list[list[list[str]]]:
    """The tables of a document: rows of texts, heads first."""
    parser = _Tables()
    parser.feed(page)
    return parser.tables
