"""HAProxy, tuned as its configuration manual advises: one thread, connections to servers reused at once, splicing."""

from __future__ import annotations

from pathlib import Path

from bench.errors import Cannot
from bench.peers.base import Job, Setup, Upstream, version_of
from bench.processes import program, require

_HTTP = """frontend web
    mode http
    bind 127.0.0.1:{port} backlog 4096
    option forwardfor
    default_backend servers

backend servers
    mode http
    http-reuse always
    server s1 127.0.0.1:{server_port}
"""

_TCP = """frontend raw
    mode tcp
    bind 127.0.0.1:{port} backlog 4096
    option splice-auto
    default_backend servers

backend servers
    mode tcp
    option splice-auto
    server s1 127.0.0.1:{server_port}
"""


class HAProxy:
    name = "haproxy"
    package = "haproxy"

    def version(self) -> str | None:
        return version_of([program("haproxy"), "-v"], r"version (\S+)")

    def upstream(self, job: Job) -> Upstream:
        return "http"

    def config(self, setup: Setup) -> str:
        if setup.job == "cache":
            raise Cannot("its cache keeps answers to GET only")
        body = _TCP if setup.job == "tcp" else _HTTP
        return f"""global
    nbthread 1
    maxconn {setup.max_connections}

defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h

{body.format(port=setup.port, server_port=setup.server_port)}"""

    def command(self, path: Path) -> list[str]:
        return [require("haproxy", self.package), "-db", "-f", str(path)]

    def check_command(self, path: Path) -> list[str]:
        return [require("haproxy", self.package), "-c", "-f", str(path)]
