"""Tidegate itself: one worker, otherwise its defaults."""

from __future__ import annotations

import sys
from pathlib import Path

import lb
from bench.peers.base import Job, Setup, Upstream


class Tidegate:
    name = "tidegate"
    package = "tidegate"

    def version(self) -> str | None:
        return lb.__version__

    def upstream(self, job: Job) -> Upstream:
        return "grpc" if job in ("oip", "cache") else "http"

    def config(self, setup: Setup) -> str:
        protocol = "oip" if self.upstream(setup.job) == "grpc" else setup.job
        front = "tcp\n    pool: servers" if setup.job == "tcp" else "http\n    routes: [{pool: servers}]"
        cache = "cache:\n  size: 64MiB\n  ttl: 1h\n" if setup.job == "cache" else ""
        return f"""workers: 1
admin:
  bind: 127.0.0.1:{setup.admin_port}
listeners:
  front:
    bind: 127.0.0.1:{setup.port}
    protocol: {front}
    idle_timeout: 1h
    max_connections: {setup.max_connections}
pools:
  servers:
    protocol: {protocol}
    endpoints: ["127.0.0.1:{setup.server_port}"]
{cache}log:
  level: warning
"""

    def command(self, path: Path) -> list[str]:
        return [sys.executable, "-m", "lb.cli", "run", "-c", str(path)]

    def check_command(self, path: Path) -> list[str]:
        return [sys.executable, "-m", "lb.cli", "check", "-c", str(path)]
