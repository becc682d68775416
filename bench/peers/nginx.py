"""nginx, tuned as its documentation advises: one worker, upstream connections kept, logs off, a cache in memory."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from bench.errors import Cannot
from bench.nginx_conf import http_defaults, main_section
from bench.peers.base import Job, Setup, Upstream, version_of
from bench.processes import program, require

_PROXY = """        location / {
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffer_size 16k;
            proxy_buffers 8 16k;
"""

# open_file_cache saves opening the cache's file for each answer.
_CACHE_ZONE = """    proxy_cache_path {directory}/cache levels=1:2 keys_zone=answers:10m max_size=64m inactive=1h
                     use_temp_path=off;
    open_file_cache max=1000 inactive=1h;
    open_file_cache_valid 1h;
"""

_CACHE = """            proxy_cache answers;
            proxy_cache_methods GET HEAD POST;
            proxy_cache_key "$request_method $host$request_uri $request_body";
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            client_body_in_single_buffer on;
            add_header Cache-Status $upstream_cache_status;
"""


class Nginx:
    name = "nginx"
    package = "nginx-light"

    def version(self) -> str | None:
        return version_of([program("nginx"), "-v"], r"nginx/(\S+)")

    def upstream(self, job: Job) -> Upstream:
        return "http"

    def config(self, setup: Setup) -> str:
        main = main_section(setup.directory, 1, setup.max_connections)
        if setup.job == "tcp":
            return f"""{_load_stream()}{main}stream {{
    server {{
        listen 127.0.0.1:{setup.port} backlog=4096;
        proxy_pass 127.0.0.1:{setup.server_port};
        proxy_timeout 1h;
    }}
}}
"""
        zone, use = (_CACHE_ZONE.format(directory=setup.directory), _CACHE) if setup.job == "cache" else ("", "")
        return f"""{main}http {{
{http_defaults(setup.directory)}    client_max_body_size 0;
    client_body_buffer_size 64k;
{zone}    upstream servers {{
        server 127.0.0.1:{setup.server_port};
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{setup.port} backlog=4096;
{_PROXY}{use}        }}
    }}
}}
"""

    def command(self, path: Path) -> list[str]:
        # -e: what goes wrong before the file is read must not go to the system's own log.
        return [require("nginx", self.package), "-e", str(path.parent / "error.log"), "-c", str(path)]

    def check_command(self, path: Path) -> list[str]:
        return [*self.command(path), "-t"]


@cache
def _load_stream() -> str:
    """The line that loads the stream module ("" if it is built in). Raises Cannot if there is none."""
    built = subprocess.run([require("nginx", Nginx.package), "-V"], capture_output=True, text=True, check=True).stderr
    if "--with-stream " in built + " ":
        return ""
    for directory in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"):
        if (module := Path(directory, "ngx_stream_module.so")).exists():
            return f"load_module {module};\n"
    raise Cannot("its stream module is not installed (libnginx-mod-stream)")
