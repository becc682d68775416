"""nginx, tuned as its documentation advises: one worker, upstream connections kept, logs off, a cache in memory.

Source: the module reference on nginx.org (core, http, http_v2, grpc, proxy, upstream, stream) for nginx 1.26.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

from bench.accounting import tree
from bench.errors import BenchError, Cannot
from bench.nginx_conf import http_defaults, main_section, temporary_files
from bench.peers.base import Setup, Task, Upstream, route_prefix, version_of
from bench.peers.limits import certificate, refuse_classes, refuse_nonsense
from bench.processes import Process, program, require

_PACKAGE = "nginx-light"
_MAIN, _ROUTES = "nginx.conf", "routes.conf"
_H2 = ("http2", "grpc")
_RELOAD_SECONDS = 15.0

_PROXY = """        # HTTP/1.1 without `Connection: close`: connections to the servers stay open.
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        # What every proxy here tells of the client.
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_connect_timeout 5s;
        proxy_read_timeout 1h;
        proxy_send_timeout 1h;
        proxy_buffer_size 16k;
        proxy_buffers 8 16k;
        # A client that is slower than the server slows it down, where nginx would write a file.
        proxy_max_temp_file_size 0;
"""

# grpc_pass is nginx's way to speak HTTP/2 to a server, be it gRPC or not.
_GRPC = """        http2 on;
        # The default of 128 would hold back a client that multiplexes more calls.
        http2_max_concurrent_streams 1000;
        grpc_set_header Host $host;
        # What every proxy here tells of the client.
        grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        grpc_set_header X-Forwarded-Proto $scheme;
        grpc_set_header X-Forwarded-Host $http_host;
        grpc_set_header X-Forwarded-Port $server_port;
        grpc_connect_timeout 5s;
        grpc_read_timeout 1h;
        grpc_send_timeout 1h;
        grpc_buffer_size 16k;
"""

# open_file_cache saves opening the cache's file for each answer.
_CACHE_ZONE = """    proxy_cache_path {directory}/cache levels=1:2 keys_zone=answers:10m max_size=64m inactive=1h
                     use_temp_path=off;
    open_file_cache max=1000 inactive=1h;
    open_file_cache_valid 1h;
"""

_CACHE = """        proxy_cache answers;
        proxy_cache_methods GET HEAD POST;
        # The body is part of the key, so it has to be in memory and in one piece. A key that does not fit into
        # proxy_buffer_size is not kept; a larger one would make each hit, which reads into it, dearer.
        proxy_cache_key "$request_method $host$request_uri $request_body";
        client_body_in_single_buffer on;
        proxy_cache_valid 200 1h;
        proxy_cache_lock on;
        add_header Cache-Status $upstream_cache_status;
"""


_GZIP = """        gzip on;
        gzip_types application/json;
        gzip_proxied any;
        gzip_vary on;
"""

_HTTP_CACHE = """        proxy_cache answers;
        proxy_cache_valid 200 1h;
        proxy_cache_lock on;
        add_header Cache-Status $upstream_cache_status;
"""


class Nginx:
    name = "nginx"
    install = "apt-get install nginx-light libnginx-mod-stream"

    def version(self) -> str | None:
        return version_of([program("nginx"), "-v"], r"nginx/(\S+)")

    def upstream(self, task: Task) -> Upstream:
        if task.job in ("http2", "grpc", "tcp", "udp"):
            return task.job
        return "http"

    def files(self, setup: Setup) -> dict[str, str]:
        task = setup.task
        refuse_nonsense(task)
        refuse_classes(task)
        main = main_section(setup.directory, setup.task.workers, setup.max_connections)
        if task.job in ("tcp", "udp"):
            return {_MAIN: f"{_load_stream()}{main}{_stream(setup)}"}
        files = {_MAIN: f"{main}{_http(setup)}"}
        if task.routes > 1:
            answer = f"{_pass(task)};"
            files[_ROUTES] = "".join(f"location {route_prefix(i)} {{ {answer} }}\n" for i in range(task.routes))
        return files

    def command(self, setup: Setup) -> list[str]:
        # -e: what goes wrong before the file is read must not go to the system's own log.
        files = ["-e", str(setup.directory / "error.log"), "-c", str(setup.directory / _MAIN)]
        return [require("nginx", _PACKAGE), *files]

    def check_command(self, setup: Setup) -> list[str]:
        return [*self.command(setup), "-t"]

    def reload(self, setup: Setup, process: Process) -> None:
        """SIGHUP to the master; in effect when each worker of before has ended or is shutting down."""
        # The master would only log that it refuses a configuration.
        checked = subprocess.run(self.check_command(setup), capture_output=True, text=True, timeout=60, check=False)
        if checked.returncode:
            raise BenchError(f"nginx refused to reload: {checked.stderr.strip().splitlines()[0]}")
        master, *workers = process.pids()
        os.kill(master, signal.SIGHUP)
        limit = time.monotonic() + _RELOAD_SECONDS
        while len(tree(master)) == 1 or any(_accepts(worker) for worker in workers):
            process.check()
            if time.monotonic() > limit:
                raise BenchError(f"nginx still runs its old workers {_RELOAD_SECONDS:.0f} s after SIGHUP")
            time.sleep(0.01)


def _accepts(worker: int) -> bool:
    """Whether a worker is still one that takes connections; its title says so."""
    try:
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return title != b"" and b"shutting down" not in title


_FAILOVER = """        # A POST as well, since it is known here that inferences may be repeated.
        proxy_next_upstream error timeout http_500 http_502 http_503 http_504 http_429 non_idempotent;
"""


def _pass(task: Task) -> str:
    return "grpc_pass grpc://servers" if task.job in _H2 else "proxy_pass http://servers"


def _http(setup: Setup) -> str:
    task = setup.task
    if task.untuned:
        return _untuned_http(setup)
    server = f"        listen 127.0.0.1:{setup.port} backlog=4096{' ssl' if task.tls else ''};\n{_tls(setup)}"
    server += _GRPC if task.job in _H2 else _PROXY
    if task.failover:
        server += _FAILOVER
    if task.compress:
        server += _GZIP
    zone = ""
    if task.job == "cache":
        zone = _CACHE_ZONE.format(directory=setup.directory)
        server += _CACHE
    elif task.job == "http_cache":
        zone = _CACHE_ZONE.format(directory=setup.directory)
        server += _HTTP_CACHE
    if task.routes > 1:
        server += f"""        # Locations by prefix are found in a tree, so their number hardly matters.
        include {setup.directory / _ROUTES};
        location / {{ return 404; }}
"""
    else:
        server += f"        location / {{ {_pass(task)}; }}\n"
    return f"""http {{
{http_defaults(setup.directory)}    client_max_body_size 0;
    # Room for a request with a tensor of 1 MiB, which would go through a file otherwise; only what is needed is taken.
    client_body_buffer_size 2m;
{zone}{_upstream(setup)}    server {{
{server}    }}
}}
"""


def _untuned_http(setup: Setup) -> str:
    task = setup.task
    servers = "".join(f"        server 127.0.0.1:{port};\n" for port in setup.server_ports)
    limit = f"            proxy_read_timeout {task.deadline * 1000:g}ms;\n" if task.deadline else ""
    return f"""http {{
{temporary_files(setup.directory)}    upstream servers {{
{servers}    }}
    server {{
        listen 127.0.0.1:{setup.port};
        location / {{
            {_pass(task)};
{limit}        }}
    }}
}}
"""


def _stream(setup: Setup) -> str:
    task = setup.task
    if task.job == "udp":
        # A session, found by the client's address, ends only by this timeout.
        listen, timeout, buffer = "udp", "1m", ""
    else:
        listen, timeout = f"backlog=4096{' ssl' if task.tls else ''}", "1h"
        # Four times the default: bulk data takes half the CPU time.
        buffer = "        proxy_buffer_size 64k;\n"
    return f"""stream {{
{_upstream(setup)}    server {{
        listen 127.0.0.1:{setup.port} {listen};
{_tls(setup)}        proxy_pass servers;
        proxy_connect_timeout 5s;
        proxy_timeout {timeout};
{buffer}    }}
}}
"""


def _tls(setup: Setup) -> str:
    if not setup.task.tls:
        return ""
    files = certificate(setup)
    return f"""        ssl_certificate {files.chain};
        ssl_certificate_key {files.key};
        ssl_protocols TLSv1.2 TLSv1.3;
"""


def _upstream(setup: Setup) -> str:
    task = setup.task
    lines = ["upstream servers {"]
    if task.balance == "least_request":
        lines.append("    least_conn;")
    options = " max_fails=0"
    if task.checks:
        lines.append("    # It has no active checks: two failed requests take a server out for a second.")
        options = " max_fails=2 fail_timeout=1s"
    if task.failover:
        options = " max_fails=5 fail_timeout=5s"
    if task.endpoint_limit:
        lines.append("    # It has no queue: what is over the limit of all servers is refused at once with 502.")
        options += f" max_conns={task.endpoint_limit}"
    lines += [f"    server 127.0.0.1:{port}{options};" for port in setup.server_ports]
    if task.job not in ("tcp", "udp"):
        lines += ["    keepalive 256;", "    keepalive_requests 1000000000;", "    keepalive_timeout 1h;"]
    return "".join(f"    {line}\n" for line in [*lines, "}"])


@cache
def _load_stream() -> str:
    """The line that loads the stream module ("" if it is built in). Raises Cannot if there is none."""
    built = subprocess.run([require("nginx", _PACKAGE), "-V"], capture_output=True, text=True, check=True).stderr
    if "--with-stream " in built + " ":
        return ""
    for directory in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"):
        if (module := Path(directory, "ngx_stream_module.so")).exists():
            return f"load_module {module};\n"
    raise Cannot("its stream module is not installed (libnginx-mod-stream)")
