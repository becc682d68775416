"""The pages "coming from …": both programs run with the texts of a section, and give the answers that its table says.

Addresses 10.0.0.N:8000 are endpoints of this test, and 8080 is a free port. An endpoint answers with its address as the
page has it, the request line, and a count of its requests.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import Forked
from ports import free_port
from waiting import eventually

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "howto"
PEERS = ("nginx", "haproxy", "envoy")
ADDRESSES = [f"10.0.0.{number}:8000" for number in (1, 2, 3)]
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (`(?:GET|POST) .*?`) \| (`\d+`.*?) \|$", re.MULTILINE)


class Section(NamedTuple):
    peer: str
    title: str
    theirs: str
    ours: str
    rows: list[tuple[list[str], list[str]]]

    def __str__(self) -> str:
        return f"{self.peer}: {self.title}"


def sections() -> list[Section]:
    found = []
    for peer in PEERS:
        for title, text in _SECTION.findall((PAGES / f"coming-from-{peer}.md").read_text(encoding="utf-8")):
            blocks = dict(_FENCE.findall(text))
            rows = [(re.findall(r"`([^`]+)`", a), re.findall(r"`([^`]+)`", b)) for a, b in _ROW.findall(text)]
            found.append(Section(peer, title, blocks[peer], blocks["yaml"], rows))
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    """An endpoint."""

    protocol_version = "HTTP/1.1"
    name = ""
    count = 0

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = type(self)
        if self.path != "/healthz":
            kind.count += 1
        body = f"{self.name} {self.command} {self.path}, request {kind.count}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=60" if self.path.startswith("/cacheable/") else "no-store")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def endpoints() -> Iterator[dict[str, str]]:
    """The addresses of the pages, and where their endpoints really are."""
    with contextlib.ExitStack() as stack:
        places = {}
        for address in ADDRESSES:
            handler = type("Named", (Handler,), {"name": address, "count": 0})
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            places[address] = f"127.0.0.1:{server.server_port}"
        yield places


def placed(text: str, places: dict[str, str], port: int) -> str:
    for address, place in places.items():
        (host, number), (real, real_number) = address.split(":"), place.split(":")
        text = text.replace(address, place)
        text = text.replace(f"address: {host}, port_value: {number}", f"address: {real}, port_value: {real_number}")
    return re.sub(r"\b8080\b", str(port), text).replace("0.0.0.0", "127.0.0.1")


def nginx(text: str, folder: Path) -> list[str]:
    text = text.replace("/var/cache/nginx", str(folder))
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    body = text if text.startswith("stream") else f"http {{\naccess_log off;\n{paths}{text}}}\n"
    path = folder / "nginx.conf"
    module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" if text.startswith("stream") else ""
    user = "user root;\n" if os.geteuid() == 0 else ""
    path.write_text(f"{module}{user}daemon off;\npid {folder}/pid;\nevents {{}}\n{body}")
    return ["nginx", "-e", f"{folder}/error.log", "-c", str(path)]


def haproxy(text: str, folder: Path) -> list[str]:
    path = folder / "haproxy.cfg"
    defaults = "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n"
    path.write_text(f"{defaults}\n{text}")
    return ["haproxy", "-f", str(path)]


def envoy(text: str, folder: Path) -> list[str]:
    path = folder / "envoy.yaml"
    path.write_text(text)
    program = shutil.which("envoy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "envoy"
    return [program, "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]


COMMANDS = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy}


@contextlib.contextmanager
def running(section: Section, ours: bool, places: dict[str, str], folder: Path) -> Iterator[int]:
    """The port of the program, once it answers or refuses a request."""
    port = free_port()
    text = placed(section.ours if ours else section.theirs, places, port)
    log = folder / "log"
    process: subprocess.Popen[bytes] | Forked
    with log.open("wb") as out:
        if ours:
            path = folder / "tidegate.yaml"
            path.write_text(f"workers: 1\nadmin: {{bind: 'unix:{folder}/admin'}}\n{text}")
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = Forked(
                ["run", "-c", str(path)], stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
            )
        else:
            command = COMMANDS[section.peer](text, folder)
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.connect()
                return True
            return False

        eventually(listens, "a listening port", 60)
        yield port
    finally:
        process.terminate()
        process.wait()


def answered(port: int, request: list[str]) -> tuple[int, str]:
    """Status, and head and body as one text."""
    method, path = request[0].split(" ")
    headers = dict(line.split(": ", 1) for line in request[1:])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers, body=b"x" if method == "POST" else None)
        answer = connection.getresponse()
        head = "".join(f"{name.title()}: {value}\n" for name, value in answer.getheaders())
        return answer.status, head + answer.read().decode()


def check(section: Section, ours: bool, folder: Path) -> None:
    with endpoints() as places, running(section, ours, places, folder) as port:
        for request, expected in section.rows:
            status, text = answered(port, request)
            who = "Tidegate" if ours else section.peer
            assert str(status) == expected[0], f"{who}: {request}: {status}\n{text}"
            assert [part for part in expected[1:] if part not in text] == [], f"{who}: {request}\n{text}"


@pytest.mark.parametrize("section", sections(), ids=str)
@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_the_answers(section: Section, ours: bool, tmp_path: Path) -> None:
    assert section.rows
    check(section, ours, tmp_path)


def test_triton(tmp_path: Path) -> None:
    text = (PAGES / "coming-from-triton.md").read_text(encoding="utf-8").partition("## The same repository")[2]
    ours = dict(_FENCE.findall(text))["yaml"].replace("/srv/models", str(ROOT / "examples" / "digits" / "models"))
    rows = [(re.findall(r"`([^`]+)`", a), re.findall(r"`([^`]+)`", b)) for a, b in _ROW.findall(text)]
    section = Section("triton", "the same repository", "", ours, rows)
    assert rows
    with running(section, True, {}, tmp_path) as port:
        eventually(lambda: answered(port, ["GET /v2/health/ready"])[0] == 200, "a model server", 90)
        for request, expected in rows:
            status, answer = answered(port, request)
            assert str(status) == expected[0], f"{request}: {status}\n{answer}"
            assert [part for part in expected[1:] if part not in answer] == [], f"{request}\n{answer}"
