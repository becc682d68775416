"""Real HAProxy and nginx beside the daemon, for tests in which another implementation has to agree with ours."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import eventually

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def find(program: str) -> str:
    """Where the program is; the test is skipped without it."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """`command` until the end of the block; it has to listen on `port`."""
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: process.poll() is not None or listens(port), f"a listener on {port}", 20)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextlib.contextmanager
def haproxy(folder: Path, body: str, port: int) -> Iterator[None]:
    """HAProxy with the sections `body`, which listen on `port`."""
    path = folder / f"haproxy-{port}.cfg"
    path.write_text(
        "global\n    nbthread 1\n\ndefaults\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n\n"
        + body
    )
    with running([find("haproxy"), "-db", "-f", str(path)], port, folder / f"haproxy-{port}.log"):
        yield


@contextlib.contextmanager
def nginx(folder: Path, body: str, port: int, stream: bool = False) -> Iterator[None]:
    """nginx with the `server` block `body`, which listens on `port`."""
    program = find("nginx")
    directory = folder / f"nginx-{port}"
    directory.mkdir()
    load = ""
    if stream and STREAM_MODULE.exists():
        load = f"load_module {STREAM_MODULE};\n"
    kind = "stream" if stream else "http"
    paths = (
        ""
        if stream
        else "".join(
            f"    {name}_temp_path {directory}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
    )
    quiet = "" if stream else "    access_log off;\n"
    path = directory / "nginx.conf"
    path.write_text(
        f"{load}daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"{kind} {{\n{paths}{quiet}{body}\n}}\n"
    )
    command = [program, "-e", "stderr", "-p", str(directory), "-c", str(path)]
    with running(command, port, directory / "log"):
        yield
