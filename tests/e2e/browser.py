"""A real browser without a window, and the origin that its pages come from."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from waiting import eventually
from websockets.sync.client import connect

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


class Page:
    """A page in a browser that is told what to do by the Chrome DevTools Protocol. `problems` are the errors of scripts
    and the violations of the page's policy so far."""

    def __init__(self, url: str, folder: str) -> None:
        self._process = subprocess.Popen(
            ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
             "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            place = Path(folder) / "DevToolsActivePort"
            port = eventually(lambda: place.exists() and place.read_text().split("\n")[0], "the browser's port", 60)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                found = next(row for row in json.load(answer) if row["type"] == "page")
            self._open = contextlib.ExitStack()
            self._socket = self._open.enter_context(
                connect(found["webSocketDebuggerUrl"], max_size=None, compression=None)
            )
        except BaseException:
            self._end()
            raise
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.open(url)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._end()

    def _end(self) -> None:
        """The command is a script of Debian's that starts the browser, so its whole group has to end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.problems.append(message["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, what: str = "") -> Any:
        """The first value of an expression that is true."""
        return eventually(lambda: self.ask(script), what or script, 30)

    def click(self, selector: str) -> None:
        """On the middle of the element, as a reader does; it is scrolled to first."""
        box = self.wait(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e || e.disabled) return null;"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2]; })()",
            selector,
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def look(self, width: int, height: int, scheme: str = "light", mobile: bool = False) -> None:
        """The size of the window, and what the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])
