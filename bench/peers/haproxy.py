"""HAProxy, tuned as its configuration manual advises: one thread, connections to servers reused at once, splicing.

Source: configuration.txt and management.txt (master CLI) of HAProxy 3.0.
"""

from __future__ import annotations

import socket
import time

from bench.errors import BenchError, Cannot
from bench.peers.base import CLASS_HEADER, Setup, Task, Upstream, route_prefix, version_of
from bench.peers.limits import GRPC_HEALTH, certificate, refuse_nonsense
from bench.processes import Process, program, require

_H2 = ("http2", "grpc")
_PRIORITIES = {"high": -1, "normal": 0, "low": 1}
_POLICIES = {"round_robin": "roundrobin", "least_request": "leastconn"}
_MAIN, _MAP = "haproxy.cfg", "routes.map"
_RELOAD_SECONDS = 15.0


class HAProxy:
    name = "haproxy"
    install = "apt-get install haproxy"

    def version(self) -> str | None:
        return version_of([program("haproxy"), "-v"], r"version (\S+)")

    def upstream(self, task: Task) -> Upstream:
        if task.job in ("http2", "grpc", "tcp", "udp"):
            return task.job
        return "http"

    def files(self, setup: Setup) -> dict[str, str]:
        task = setup.task
        refuse_nonsense(task)
        if task.job == "cache":
            raise Cannot("its cache keeps answers to GET only")
        if task.job == "http_cache":
            raise Cannot("it keeps no answer that says nothing of its freshness")
        if task.job == "udp":
            raise Cannot("it relays no UDP")
        files = {_MAIN: _global(setup) + _defaults(task) + _frontend(setup) + _backend(setup)}
        if task.routes > 1:
            files[_MAP] = "".join(f"{route_prefix(i)} servers\n" for i in range(task.routes))
        return files

    def command(self, setup: Setup) -> list[str]:
        # -W: a master that replaces its worker at a reload; -S: its command line, which says how a reload went.
        master = ["-W", "-db", "-S", f"127.0.0.1:{setup.admin_port}"]
        return [require("haproxy", "haproxy"), *master, "-f", str(setup.directory / _MAIN)]

    def check_command(self, setup: Setup) -> list[str]:
        return [require("haproxy", "haproxy"), "-c", "-f", str(setup.directory / _MAIN)]

    def reload(self, setup: Setup, process: Process) -> None:
        """`reload` on the master's command line: as SIGUSR2, but it answers once the new worker serves."""
        limit = time.monotonic() + _RELOAD_SECONDS
        # The master executes itself again once a worker runs, and what it is told at that moment is lost.
        while not (answer := _tell(setup, "reload")):
            process.check()
            if time.monotonic() > limit:
                raise BenchError(f"haproxy's master does not answer on port {setup.admin_port}: {process.last_words()}")
            time.sleep(0.02)
        if not answer.startswith("Success=1"):
            raise BenchError(f"haproxy refused to reload: {' | '.join(answer.splitlines()[:4])}")


def _tell(setup: Setup, command: str) -> str:
    """The master's answer to a command; "" if it takes none now."""
    try:
        with socket.create_connection(("127.0.0.1", setup.admin_port), timeout=_RELOAD_SECONDS) as master:
            master.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: master.recv(4096), b"")).decode(errors="replace")
    except (ConnectionError, TimeoutError):
        return ""


def _global(setup: Setup) -> str:
    text = f"""global
    # One thread for the one CPU that every proxy gets, or as many as the task has workers.
    nbthread {setup.task.workers}
    maxconn {setup.max_connections}
"""
    if setup.task.job in _H2:
        text += """    # Large answers come with fewer stops for window updates than the default of 64 KiB makes.
    tune.h2.be.initial-window-size 1048576
"""
    return text + "\n"


def _defaults(task: Task) -> str:
    if task.untuned:
        return _untuned_defaults(task)
    mode = "tcp" if task.job == "tcp" else "http"
    text = f"""defaults
    mode {mode}
    timeout connect 5s
    # Nothing idle may be cut off while it is measured.
    timeout client 1h
    timeout server 1h
    timeout queue {round((task.queue_timeout if task.endpoint_limit else 5) * 1000)}ms
"""
    if mode == "http":
        text += """    timeout http-keep-alive 1h
    # At a reload an idle client is told with its next answer, not cut off while it may be sending.
    option idle-close-on-response
    # Every client's first request may use a connection that another one opened.
    http-reuse always
"""
    if task.job not in _H2:
        text += """    # Bulk data stays in the kernel; small pieces are copied, which is cheaper.
    option splice-auto
"""
    return text + "\n"


def _untuned_defaults(task: Task) -> str:
    """Those of Debian's `/etc/haproxy/haproxy.cfg`: HAProxy itself has no default for these timeouts, and warns."""
    return f"""defaults
    mode {"tcp" if task.job == "tcp" else "http"}
    timeout connect 5s
    timeout client 50s
    timeout server {round((task.deadline or 50) * 1000)}ms

"""


def _frontend(setup: Setup) -> str:
    task = setup.task
    bind = f"bind 127.0.0.1:{setup.port} backlog 4096"
    if task.tls:
        bind += f" ssl crt {certificate(setup).both}"
        if task.job != "tcp":
            bind += " alpn h2" if task.job in _H2 else " alpn http/1.1"
    elif task.job in _H2:
        bind += " proto h2"
    lines = ["frontend front", f"    {bind}"]
    if task.job != "tcp" and not task.untuned:
        lines += [
            "    # What every proxy here tells of the client.",
            "    option forwardfor",
            f"    http-request set-header X-Forwarded-Proto {'https' if task.tls else 'http'}",
            "    http-request set-header X-Forwarded-Host %[req.hdr(host)]",
            f"    http-request set-header X-Forwarded-Port {setup.port}",
        ]
    if task.compress:
        lines += ["    filter compression", "    compression algo gzip", "    compression type application/json"]
    if task.routes > 1:
        lines += [
            "    # A map is a tree by prefix: one look-up whatever the number of rules, where each use_backend with a",
            "    # condition of its own would be tried in turn.",
            f"    use_backend %[path,map_beg({setup.directory / _MAP},unknown)]",
            "",
            "backend unknown",
            "    http-request return status 404",
        ]
    else:
        lines.append("    default_backend servers")
    return "\n".join(lines) + "\n\n"


def _backend(setup: Setup) -> str:
    task = setup.task
    lines = ["backend servers"]
    if not task.untuned:
        lines.append(f"    balance {_POLICIES[task.balance]}")
    options = " proto h2" if task.job in _H2 else ""
    if task.checks:
        lines += _checks(task)
        options += " check inter 1s fall 2 rise 1"
    if task.failover:
        lines += [
            "    # Also what is sent; a POST as well, since it is known here that inferences may be repeated.",
            "    retries 2",
            "    option redispatch 1",
            "    retry-on all-retryable-errors 429",
        ]
        options += " observe layer7 error-limit 5 on-error mark-down"
    for each in task.classes:
        here = f"{{ req.hdr({CLASS_HEADER}) {each.name} }}"
        if task.untuned:
            lines.append(f"    http-request set-timeout server {each.deadline * 1000:g}ms if {here}")
            continue
        lines += [
            f"    http-request set-priority-class int({_PRIORITIES[each.priority]}) if {here}",
            "    # Among those of a class: as far ahead as its answers are due.",
            f"    http-request set-priority-offset int({each.deadline * 1000:g}) if {here}",
        ]
    limit = task.endpoint_limit or int(task.serial)
    if limit:
        lines.append("    # maxconn is of requests; what is over waits for `timeout queue`, then gets 503.")
        options += f" maxconn {limit}"
    lines += [f"    server s{i} 127.0.0.1:{port}{options}" for i, port in enumerate(setup.server_ports, 1)]
    return "\n".join(lines) + "\n"


def _checks(task: Task) -> list[str]:
    if task.job == "tcp":
        return ["    option tcp-check", "    timeout check 1s"]
    lines = ["    option httpchk", "    timeout check 1s"]
    if task.job == "grpc":
        lines += [
            "    # It knows no gRPC: a call without a message, which every gRPC server answers with status 200.",
            f"    http-check send meth POST uri {GRPC_HEALTH} ver HTTP/2 hdr content-type application/grpc"
            " hdr te trailers",
        ]
    else:
        version = "HTTP/2" if task.job == "http2" else "HTTP/1.1"
        lines.append(f"    http-check send meth GET uri / ver {version} hdr host localhost")
    return [*lines, "    http-check expect status 200"]
