"""What every nginx configuration of the bench begins with."""

from __future__ import annotations

import os
from pathlib import Path

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def main_section(directory: Path, workers: int, connections: int) -> str:
    """The part outside `http { }`: foreground, own files, as many workers and connections as told."""
    # A worker of another user could not write to the bench's private directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    return f"""{user}daemon off;
worker_processes {workers};
worker_rlimit_nofile {2 * connections + 100};
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{
    worker_connections {2 * connections};
}}
"""


def http_defaults(directory: Path) -> str:
    """The lines every `http { }` starts with: no log, connections that stay, temporary files at hand."""
    lines = ["keepalive_requests 1000000000;", "keepalive_timeout 1h;", "server_tokens off;"]
    return "".join(f"    {line}\n" for line in lines) + temporary_files(directory)


def temporary_files(directory: Path) -> str:
    """The lines without which an `http { }` would write outside of the directory."""
    lines = ["access_log off;", *(f"{name}_temp_path {directory}/{name}_temp;" for name in _TEMPORARY)]
    return "".join(f"    {line}\n" for line in lines)
