"""Tidegate itself: as many workers as the task wants, otherwise its defaults, and what the task says."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

import lb
from bench.errors import BenchError
from bench.peers import access
from bench.peers.base import CLASS_HEADER, Serve, Setup, Task, Upstream, route_prefix
from bench.peers.limits import certificate, refuse_nonsense
from bench.processes import Process

_FILE = "tidegate.yaml"
_RELOAD_SECONDS = 30.0


class Tidegate:
    name = "tidegate"
    install = "make dev"

    def version(self) -> str | None:
        return lb.__version__

    def upstream(self, task: Task) -> Upstream:
        if task.job in ("oip", "cache"):
            return "grpc"
        return task.job if task.job in ("http2", "grpc", "tcp", "udp") else "http"

    def files(self, setup: Setup) -> dict[str, str]:
        task = setup.task
        refuse_nonsense(task)
        log = "" if task.untuned else "log: {level: warning}\n"
        more = f"{_cache(task)}{_access(setup)}{_jobs(setup)}"
        return {_FILE: f"{_head(setup)}{_pool(setup)}{more}{log}", **(access.files() if task.access else {})}

    def command(self, setup: Setup) -> list[str]:
        return [sys.executable, "-m", "lb.cli", "run", "-c", str(setup.directory / _FILE)]

    def check_command(self, setup: Setup) -> list[str]:
        return [sys.executable, "-m", "lb.cli", "check", "-c", str(setup.directory / _FILE)]

    def reload(self, setup: Setup, process: Process) -> None:
        try:
            answer = _ask(setup.admin_port, "POST", "/api/v1/reload")
        except BenchError:
            process.check()
            raise
        if not answer.get("ok"):
            raise BenchError(f"{self.name} refused a reload: {answer.get('problems') or answer.get('error')}")


def endpoints(admin_port: int) -> int:
    """How many model servers take requests now. Raises BenchError if the admin server does not answer."""
    (pool,) = _ask(admin_port, "GET", "/api/v1/status")["pools"]
    return sum(endpoint["health"] == "up" and endpoint["admin"] == "enabled" for endpoint in pool["endpoints"])


def _ask(port: int, method: str, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_RELOAD_SECONDS)
    try:
        connection.request(method, path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"tidegate's admin server does not answer {method} {path}: {error!r}") from error
    finally:
        connection.close()


def _head(setup: Setup) -> str:
    task = setup.task
    secured = _tls(setup) if task.tls else ""
    if task.job in ("tcp", "udp"):
        front = f"{task.job}\n{secured}    pool: servers\n"
    else:
        front = f"{'https' if task.tls else 'http'}\n{secured}{_routes(task)}"
    limits = "" if task.untuned else "    idle_timeout: 1h\n"
    if task.job != "udp" and not task.untuned:
        limits += f"    max_connections: {setup.max_connections}\n"
    return f"""workers: {task.workers}
admin: {{bind: "127.0.0.1:{setup.admin_port}"}}
listeners:
  front:
    bind: 127.0.0.1:{setup.port}
{limits}    protocol: {front}"""


def _tls(setup: Setup) -> str:
    files = certificate(setup)
    return f'    tls: {{certificates: [{{cert: "{files.chain}", key: "{files.key}"}}]}}\n'


def _routes(task: Task) -> str:
    if task.classes:
        return "    routes:\n" + "".join(
            f"      - {{match: {{headers: {{{CLASS_HEADER}: {each.name}}}}}, pool: servers,"
            f" timeout: {each.deadline * 1000:g}ms{'' if task.untuned else f', priority: {each.priority}'}}}\n"
            for each in task.classes
        )
    cached = ", http_cache: {ttl: 1h}" if task.job == "http_cache" else ""
    if task.routes == 1:
        options = f", timeout: {task.deadline * 1000:g}ms" if task.deadline else ""
        options += f", hedge: {{after: {task.hedge}}}" if task.hedge else ""
        options += ", auth: clients" if task.access else ""
        options += ", jobs: true" if task.jobs else ""
        options += ", compression: true" if task.compress else ""
        return f"    routes: [{{pool: servers{options}{cached}}}]\n"
    rules = (f"match: {{path: {{prefix: {route_prefix(i)}}}}}, pool: servers{cached}" for i in range(task.routes))
    return "    routes:\n" + "".join(f"      - {{{rule}}}\n" for rule in rules)


def _pool(setup: Setup) -> str:
    task = setup.task
    protocol = "oip" if task.job in ("oip", "cache") else "http" if task.job == "http_cache" else task.job
    lines = [f"protocol: {protocol}"]
    if task.policy or not task.untuned:
        lines.append(f"policy: {task.policy or task.balance}")
    if task.cost:
        lines.append(f"cost: {task.cost}")
    if task.serve is not None:
        lines += _serve(task.serve, setup)
    else:
        lines.append("endpoints: [" + ", ".join(f'"127.0.0.1:{port}"' for port in setup.server_ports) + "]")
    if task.checks:
        kind = {"oip": "grpc", "http": "http"}.get(protocol, "tcp")
        lines.append(f"health: {{type: {kind}, interval: 1s, fall: 2}}")
    if task.endpoint_limit:
        lines.append(f"max_in_flight: {task.endpoint_limit}")
    return "pools:\n  servers:\n" + "".join(f"    {line}\n" for line in lines)


def _serve(serve: Serve, setup: Setup) -> list[str]:
    steps = "policies: [{type: replicas, value: 4, period: 1s}]"
    return [
        f'serve: {{models: "{setup.models}", min: {serve.min}, max: {serve.max}, threads: 1}}',
        f"scaling: {{interval: 500ms, metrics: [{{type: in_flight, target: {serve.target:g}}}],",
        f"          up: {{window: 0s, {steps}}}, down: {{window: 3s, {steps}}}}}",
    ]


def _cache(task: Task) -> str:
    return "cache: {size: 64MiB, ttl: 1h}\n" if task.job in ("cache", "http_cache") else ""


def _access(setup: Setup) -> str:
    if not setup.task.access:
        return ""
    by = {
        "api_key": f'file: "{setup.directory}/{access.KEYS}"',
        "jwt": f'file: "{setup.directory}/{access.KEY_SET}", issuer: "{access.ISSUER}", audience: [{access.AUDIENCE}]',
    }[setup.task.access]
    return f"auth: {{clients: {{type: {setup.task.access}, {by}}}}}\n"


def _jobs(setup: Setup) -> str:
    return f'jobs: {{path: "{setup.directory}/jobs.db", quota: 10000000}}\n' if setup.task.jobs else ""
