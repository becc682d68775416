"""Varnish, as its documentation advises for one CPU: one pool of threads, enough of them ready, answers in memory.

Source: varnishd(1), vcl(7), vcl-backend(7), vmod_directors(3) of Varnish 7.7, vmod_bodyaccess(3) of varnish-modules.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from bench.errors import BenchError, Cannot
from bench.peers.base import Setup, Task, Upstream, route_prefix, version_of
from bench.peers.limits import refuse_classes, refuse_nonsense
from bench.processes import Process, program, require

_PACKAGE = "varnish"
_MAIN, _PARAMETERS = "varnish.vcl", "parameters.cli"
_CANNOT = {
    "http2": "it speaks no HTTP/2 to servers",
    "grpc": "it speaks no HTTP/2 to servers",
    "tcp": "it relays HTTP only",
    "udp": "it relays HTTP only",
}
_MODULES = ("/usr/lib/*/varnish/vmods", "/usr/lib/varnish/vmods", "/usr/lib64/varnish/vmods")

# The most that a request to be kept may have for its body.
_BODY = "1MB"

_CACHE = """
sub vcl_hash {
    # The URL and the host are added by the built-in vcl_hash, which comes after this.
    hash_data(req.http.X-Method);
    bodyaccess.hash_req_body();
}

sub vcl_backend_fetch {
    set bereq.method = bereq.http.X-Method;
    unset bereq.http.X-Method;
    return (fetch);
}

sub vcl_backend_response {
    if (beresp.status == 200) {
        set beresp.ttl = 1h;
        return (deliver);
    }
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.Cache-Status = "hit";
    } else {
        set resp.http.Cache-Status = "miss";
    }
}
"""

_HTTP_CACHE = """
sub vcl_backend_response {
    if (beresp.status == 200) {
        set beresp.ttl = 1h;
        return (deliver);
    }
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.Cache-Status = "hit";
    } else {
        set resp.http.Cache-Status = "miss";
    }
}
"""

_PROBE = """
probe each_second {
    .url = "/";
    .interval = 1s;
    .timeout = 1s;
    # Of the last two checks one has to be good: two failures in a row make a server sick, one success well again.
    .window = 2;
    .threshold = 1;
    .initial = 1;
}
"""

# Rules in one VCL function.
_GROUP = 25


class Varnish:
    name = "varnish"
    install = "apt-get install varnish varnish-modules"

    def version(self) -> str | None:
        return version_of([program("varnishd"), "-V"], r"varnish-(\S+)")

    def upstream(self, task: Task) -> Upstream:
        return "http"

    def files(self, setup: Setup) -> dict[str, str]:
        task = setup.task
        refuse_nonsense(task)
        refuse_classes(task)
        if task.job in _CANNOT:
            raise Cannot(_CANNOT[task.job])
        if task.tls:
            raise Cannot("it takes no TLS")
        if task.compress:
            raise Cannot("its compression is not set up here")
        if task.failover:
            raise Cannot("it repeats no request whose body it has passed on")
        if task.balance == "least_request":
            raise Cannot("it has no balancing by load")
        if task.job == "cache" and not _has_module("bodyaccess"):
            raise Cannot("its module bodyaccess is not installed (varnish-modules)")
        return {_MAIN: _vcl(setup), _PARAMETERS: "" if task.untuned else _parameters()}

    def command(self, setup: Setup) -> list[str]:
        return [
            require("varnishd", _PACKAGE),
            "-F",
            # The parent starts the child as itself: another user could not reach the bench's private directory.
            *("-j", "none"),
            *("-n", str(_home(setup))),
            *("-a", f"127.0.0.1:{setup.port}"),
            *("-T", f"127.0.0.1:{setup.admin_port}"),
            *("-I", str(setup.directory / _PARAMETERS)),
            *("-f", str(setup.directory / _MAIN)),
            *("-s", "malloc,64m"),
        ]

    def check_command(self, setup: Setup) -> list[str]:
        # -C compiles and prints; its own -n, as a running one has locked the other.
        home = str(setup.directory / "check")
        return [require("varnishd", _PACKAGE), "-j", "none", "-n", home, "-C", "-f", str(setup.directory / _MAIN)]

    def reload(self, setup: Setup, process: Process) -> None:
        """Compiles the new program, switches to it at once, and drops those that no request uses any more."""
        name = f"bench_{time.monotonic_ns()}"  # one that is being discarded cannot be used again
        _tell(setup, "vcl.load", name, str(setup.directory / _MAIN))
        _tell(setup, "vcl.use", name)
        for old, state in _programs(setup).items():
            if state == "available":
                _tell(setup, "vcl.discard", old)


def _home(setup: Setup) -> Path:
    return setup.directory / "varnish"


def _tell(setup: Setup, *command: str) -> str:
    """Says something to the running Varnish; returns its answer. Raises BenchError if it refuses."""
    tell = [require("varnishadm", _PACKAGE), "-n", str(_home(setup)), *command]
    done = subprocess.run(tell, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        words = " | ".join((done.stdout + done.stderr).split("\n")[:4])
        raise BenchError(f"varnish refused {command[0]}: {words}")
    return done.stdout


def _programs(setup: Setup) -> dict[str, str]:
    """The programs (VCL) it has, by name: the active one, those available, those discarded but still in use."""
    # A head of version, command and time comes before the list itself.
    listed = [each for each in json.loads(_tell(setup, "vcl.list", "-j")) if isinstance(each, dict)]
    return {each["name"]: each["status"] for each in listed}


def _has_module(name: str) -> bool:
    return any(found for pattern in _MODULES for found in Path("/").glob(f"{pattern[1:]}/libvmod_{name}.so"))


def _parameters() -> str:
    """Commands for -I, a kind of file that takes no comments."""
    parameters = {
        # More pools than CPUs would only contend.
        "thread_pools": "1",
        # A request has a thread while it lasts: those of the usual load are there from the start.
        "thread_pool_min": "200",
        # What comes while further threads start waits for one; it is not dropped.
        "thread_queue_limit": "1000",
        "listen_depth": "4096",
        # Nothing idle may be cut off while it is measured.
        "timeout_idle": "3600",
        "backend_idle_timeout": "3600",
        # No other proxy writes a log of its requests.
        "vsl_mask": "none",
    }
    return "".join(f"param.set {name} {value}\n" for name, value in parameters.items())


def _vcl(setup: Setup) -> str:
    task = setup.task
    modules = ["directors", *(("bodyaccess", "std") if task.job == "cache" else ())]
    parts = ["vcl 4.1;\n\n" + "".join(f"import {name};\n" for name in modules)]
    if task.checks:
        parts.append(_PROBE)
    parts += [_backend(task, number, port) for number, port in enumerate(setup.server_ports, 1)]
    names = "".join(f"    servers.add_backend(s{i});\n" for i in range(1, len(setup.server_ports) + 1))
    parts.append(f"\nsub vcl_init {{\n    new servers = directors.round_robin();\n{names}}}\n")
    parts.append(_receive(task, setup.port))
    if task.job == "cache":
        parts.append(_CACHE)
    elif task.job == "http_cache":
        parts.append(_HTTP_CACHE)
    return "".join(parts)


def _backend(task: Task, number: int, port: int) -> str:
    lines = ['.host = "127.0.0.1";', f'.port = "{port}";']
    if task.untuned:
        lines += [f".first_byte_timeout = {task.deadline * 1000:g}ms;"] if task.deadline else []
    else:
        lines += [".connect_timeout = 5s;", ".first_byte_timeout = 1h;", ".between_bytes_timeout = 1h;"]
    if task.checks:
        lines.append(".probe = each_second;")
    if task.endpoint_limit:
        lines += [
            f".max_connections = {task.endpoint_limit};",
            "# What is over waits, each request with a thread of its own, then gets 503.",
            ".wait_limit = 1000000;",
            f".wait_timeout = {task.queue_timeout:g}s;",
        ]
    return f"\nbackend s{number} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _told(port: int) -> str:
    return f"""    # What every proxy here tells of the client; X-Forwarded-For it adds by itself.
    set req.http.X-Forwarded-Proto = "http";
    set req.http.X-Forwarded-Host = req.http.Host;
    set req.http.X-Forwarded-Port = "{port}";
"""


def _receive(task: Task, port: int) -> str:
    body, action = _told(port), "hash" if task.job == "http_cache" else "pass"
    if task.job == "cache":
        action = "hash"
        body += f"""    # The body is to be part of the key, so it has to be read first.
    if (!std.cache_req_body({_BODY})) {{
        return (synth(413));
    }}
    # Varnish fetches with GET what it may keep; the method is put back in vcl_backend_fetch.
    set req.http.X-Method = req.method;
"""
    use = f"    set req.backend_hint = servers.backend();\n    return ({action});\n"
    if task.routes == 1:
        return f"\nsub vcl_recv {{\n{body}{use}}}\n"
    # It has no table of prefixes: rules are tried in turn. In one function the C compiler would take half a minute.
    groups, calls = [f"\nsub to_servers {{\n{use}}}\n"], []
    for first in range(0, task.routes, _GROUP):
        rules = "".join(
            f'    if (req.url ~ "^{route_prefix(i)}") {{ call to_servers; }}\n'
            for i in range(first, min(first + _GROUP, task.routes))
        )
        groups.append(f"\nsub routes_{first:04d} {{\n{rules}}}\n")
        calls.append(f"    call routes_{first:04d};\n")
    return f"{''.join(groups)}\nsub vcl_recv {{\n{body}{''.join(calls)}    return (synth(404));\n}}\n"
