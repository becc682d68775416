"""nginx and HAProxy as upstreams, each by HTTP/1.1 and by HTTP/2 without TLS, behind one daemon.

Every upstream serves `/NAME/files/…` from a folder, where PUT writes (WebDAV), and answers `/NAME/ok` to any method.
HAProxy has nginx behind it. The field `x-spoken` of an answer is the version of HTTP that nginx or HAProxy was spoken
to in, so that a test sees that it met whom it meant.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authority import Authority
from daemon import Daemon, eventually, http_listener
from ports import free_port
from proxy_peers import haproxy, nginx

# The names of pools, the protocol of each, and what their answers have in x-spoken.
UPSTREAMS = {
    "nginx-http1": ("http", "nginx HTTP/1.1"),
    "nginx-h2c": ("http2", "nginx HTTP/2.0"),
    "haproxy-http1": ("http", "haproxy 1"),
    "haproxy-h2c": ("http2", "haproxy 2"),
}
BLOB = random.Random(5).randbytes(6 << 20)
DIGEST = hashlib.sha256(BLOB).hexdigest()

_NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        {http2}
        client_max_body_size 64m;
        add_header x-spoken "nginx $server_protocol" always;
        location ~ ^/[^/]+/files/(.+)$ {{
            alias {files}/$1;
            dav_methods PUT;
        }}
        location ~ ^/[^/]+/ok$ {{ return 200 "fine"; }}
    }}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend one
    bind 127.0.0.1:{http1}
    http-response set-header x-spoken "haproxy %[fc_http_major]"
    default_backend files

frontend two
    bind 127.0.0.1:{h2c} proto h2
    http-response set-header x-spoken "haproxy %[fc_http_major]"
    default_backend files

backend files
    server nginx 127.0.0.1:{nginx}
"""


@dataclass(frozen=True)
class Site:
    """The daemon, its listeners `web` and `tls`, and the folder that the upstreams serve."""

    daemon: Daemon
    files: Path
    authority: Path
    config: dict[str, Any]
    web: int
    tls: int


@contextlib.contextmanager
def real_site(folder: Path) -> Iterator[Site]:
    files, conf = folder / "files", folder / "daemon"
    for directory in (files, conf):
        directory.mkdir()
    (files / "blob").write_bytes(BLOB)
    for i in range(5):
        (files / f"small{i}").write_text(f"number {i}\n")
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    cert, key = authority.issue("example.org", "127.0.0.1").write(folder)
    ports = {name: free_port() for name in UPSTREAMS}
    servers = "".join(
        _NGINX_SERVER.format(port=ports[name], http2=http2, files=files)
        for name, http2 in (("nginx-http1", ""), ("nginx-h2c", "http2 on;"))
    )
    front = _HAPROXY.format(http1=ports["haproxy-http1"], h2c=ports["haproxy-h2c"], nginx=ports["nginx-http1"])
    routes = [{"match": {"path": {"prefix": f"/{name}/"}}, "pool": name} for name in UPSTREAMS]
    config = {
        "workers": 2,
        "listeners": {
            "web": http_listener(*routes),
            "tls": http_listener(*routes, protocol="https", tls={"certificates": [{"cert": cert, "key": key}]}),
        },
        "pools": {
            name: {"protocol": protocol, "endpoints": [f"127.0.0.1:{ports[name]}"]}
            for name, (protocol, _) in UPSTREAMS.items()
        },
    }
    with nginx(folder, servers, ports["nginx-h2c"]), haproxy(folder, front, ports["haproxy-h2c"]):
        daemon = Daemon(conf, config)
        try:
            eventually(lambda: daemon.process.poll() is not None or daemon.admin("/readyz")[0] == 200, "readiness")
            assert daemon.process.poll() is None, daemon.log
            yield Site(daemon, files, folder / "ca.pem", config, daemon.port("web"), daemon.port("tls"))
        finally:
            daemon.kill()
            shutil.rmtree(files)
