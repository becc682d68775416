"""A client of the daemon's admin API.

GET  /api/v1/status   the status document (lb.control.admin.status)
GET  /api/v1/daemon   which daemon answers: {version, pid, state, config, binds}
GET  /api/v1/transitions   the last changes of endpoints, newest first
GET  /api/v1/scaling  why a pool has as many model servers as it has, and the requests that have arrived for it
POST /api/v1/upgrade  an Outcome (lb.control.upgrade.upgrader); what becomes of it is in the status
POST /api/v1/reload   a ReloadResult (lb.control.reload); its `ok` says the outcome, whatever the HTTP status
POST /api/v1/explain  what would become of a request
POST /api/v1/endpoint what an operator wants of an endpoint; answered with its row of the status document
GET  /api/v1/endpoint what an endpoint still has to do, also one that was removed; 404 once it has nothing left
GET  /api/v1/cache    counters of the result cache
GET  /api/v1/cache/top    its most requested entries
POST /api/v1/cache/purge  what of it is not to be answered with any more
GET  /api/v1/jobs     the last jobs
POST /api/v1/jobs     a job is queued anew or cancelled
GET  /api/v1/canaries   canaries, and how far they have come
POST /api/v1/canaries   one is promoted, taken back, or begins anew
GET  /api/v1/mirrors   what comparing answers of mirrors has found
GET  /api/v1/quotas   quotas, and what clients have used of them
POST /api/v1/quotas   a client has all of its quotas again
GET  /api/v1/tables   stick tables, and entries of one
POST /api/v1/tables   entries are cleared, or set
…    /api/v1/changes, settings, scale, certificates/reload, config   see lb.control.admin.runtime_api
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from lb.cli.token import NO_TOKEN, Token, read_token
from lb.errors import ConfigError, TidegateError

_STATUS_TIMEOUT = 10.0
_ANY = ("0.0.0.0", "::")  # noqa: S104
_RELOAD_TIMEOUT = 120.0  # a reload waits for name lookups and for every worker


class AdminError(TidegateError):
    """The daemon cannot be asked, or does not answer as it should."""


class RefusedError(AdminError):
    """The daemon answers, and does not let this client in: 401 or 403."""


class AdminClient:
    """`address` is "host:port", "[v6]:port" or "unix:/path"; a `token` goes along as bearer."""

    def __init__(self, address: str, token: Token = NO_TOKEN) -> None:
        self.address = address
        self._token = token

    def at(self, bind: str) -> AdminClient | None:
        """A client with the same token for what listens on `bind` on the daemon's machine, None where that cannot be
        reached from here: what is local there is asked only where this client asks a local address, too."""
        here = _is_local(self.address)
        if bind.startswith("unix:"):
            return AdminClient(bind, self._token) if here else None
        host, _, port = bind.rpartition(":")
        if host.strip("[]") in _ANY:
            known = self.address.rpartition(":")[0]
            local = "[::1]" if ":" in host else "127.0.0.1"
            return AdminClient(f"{local if self.address.startswith('unix:') else known}:{port}", self._token)
        return AdminClient(bind, self._token) if here or not _is_local(bind) else None

    def status(self, counters: bool = False) -> dict[str, Any]:
        """The status document; most of it are the counters of all series, if they are asked for. Raises AdminError."""
        query = "" if counters else "?counters=no"
        code, body = self._ask("GET", f"/api/v1/status{query}", _STATUS_TIMEOUT)
        if code != 200:
            raise AdminError(f"{self.address} answers {code}: {body.get('error', '')}".rstrip(": "))
        return body

    def daemon(self, patience: float = _STATUS_TIMEOUT) -> dict[str, Any]:
        """Which daemon answers: `config` is the path of its file. Raises AdminError."""
        code, body = self._ask("GET", "/api/v1/daemon", patience)
        if code == 404:  # of a version that does not know the question, as before an upgrade
            return self.status()
        if code != 200:
            raise AdminError(f"{self.address} answers {code}: {body.get('error', '')}".rstrip(": "))
        return body

    def readings(self, models: bool = False) -> dict[str, Any]:
        """All counters as they are, for differences (lb.control.admin.readings); with `models` those of the model
        servers, too. Raises AdminError."""
        return self._asked("GET", f"/api/v1/counters{'?models=yes' if models else ''}")

    def transitions(self, last: int, pool: str | None = None, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The last changes of what endpoints are taken for, newest first. Raises AdminError."""
        wanted = {"last": str(last), "pool": pool, "endpoint": endpoint}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        code, body = self._ask("GET", f"/api/v1/transitions?{query}", _STATUS_TIMEOUT)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        found: list[dict[str, Any]] = body["transitions"]
        return found

    def scaling(self, pool: str) -> dict[str, Any]:
        """Why a pool has as many model servers as it has, and the requests that have arrived. Raises AdminError."""
        code, body = self._ask("GET", f"/api/v1/scaling?{urlencode({'pool': pool})}", _STATUS_TIMEOUT)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        return body

    def reload(self) -> dict[str, Any]:
        """The outcome, good or bad. Raises AdminError."""
        code, body = self._ask("POST", "/api/v1/reload", _RELOAD_TIMEOUT)
        if "ok" not in body:
            raise AdminError(f"{self.address} answers {code}: {body.get('error', '')}".rstrip(": "))
        return body

    def upgrade(self) -> dict[str, Any]:
        """The outcome of the trial, good or bad. Raises AdminError."""
        code, body = self._ask("POST", "/api/v1/upgrade", _RELOAD_TIMEOUT)
        if "ok" not in body:
            raise AdminError(f"{self.address} answers {code}: {body.get('error', '')}".rstrip(": "))
        return body

    def reopen_logs(self) -> None:
        """Raises AdminError, also when the file cannot be opened."""
        code, body = self._ask("POST", "/api/v1/reopen-logs", _STATUS_TIMEOUT)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))

    def operate(self, pool: str, address: str, **update: Any) -> dict[str, Any]:
        """Have the daemon set `admin`, `weight` or `max_in_flight` of an endpoint: {endpoint: its row of the status
        document, changed, dry_run}. Raises AdminError."""
        return self._asked("POST", "/api/v1/endpoint", {"pool": pool, "address": address, **update})

    def left(self, pool: str, address: str) -> dict[str, Any]:
        """What an endpoint still has to do ("in_flight", "sequences"), also one that was removed. Raises AdminError."""
        query = urlencode({"pool": pool, "address": address})
        code, body = self._ask("GET", f"/api/v1/endpoint?{query}", _STATUS_TIMEOUT)
        if code == 404:
            return {"in_flight": 0, "sequences": 0}
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        found: dict[str, Any] = body["endpoint"]
        return found

    def explain(self, question: dict[str, Any]) -> dict[str, Any]:
        """What would become of a request (lb.control.admin.server.Question). Raises AdminError."""
        code, body = self._ask("POST", "/api/v1/explain", _STATUS_TIMEOUT, question)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        return body

    def cache(self) -> dict[str, Any]:
        """Counters of the result cache. Raises AdminError, also when there is no cache."""
        return self._asked("GET", "/api/v1/cache")

    def cache_top(self, last: int) -> dict[str, Any]:
        """The most requested entries of the result cache. Raises AdminError."""
        return self._asked("GET", f"/api/v1/cache/top?{urlencode({'last': str(last)})}")

    def purge(self, wanted: dict[str, Any]) -> list[str]:
        """Purges what is named (lb.control.admin.cache_api.Purge); its tags. Raises AdminError."""
        found: list[str] = self._asked("POST", "/api/v1/cache/purge", wanted)["purged"]
        return found

    def jobs(self, state: str | None, last: int) -> list[dict[str, Any]]:
        """The last jobs, newest first. Raises AdminError."""
        query = urlencode({"last": str(last), **({} if state is None else {"state": state})})
        found: list[dict[str, Any]] = self._asked("GET", f"/api/v1/jobs?{query}")["jobs"]
        return found

    def change_job(self, job: str, action: str) -> dict[str, Any]:
        """Has a job queued anew (`retry`) or cancelled (`cancel`); its document. Raises AdminError."""
        found: dict[str, Any] = self._asked("POST", "/api/v1/jobs", {"job": job, "action": action})["job"]
        return found

    def quotas(self, key: str | None, quota: str | None, last: int) -> dict[str, Any]:
        """The quotas, and clients that have used something of them. Raises AdminError."""
        wanted = {"last": str(last), "key": key, "quota": quota}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return self._asked("GET", f"/api/v1/quotas?{query}")

    def reset_quota(self, key: str, quota: str | None, dry_run: bool) -> list[dict[str, Any]]:
        """What a client had used; it has all again. Raises AdminError."""
        body = {"reset": key, "quota": quota, "dry_run": dry_run}
        found: list[dict[str, Any]] = self._asked("POST", "/api/v1/quotas", body)["reset"]
        return found

    def canaries(self) -> list[dict[str, Any]]:
        """The canaries, each with its history. Raises AdminError."""
        found: list[dict[str, Any]] = self._asked("GET", "/api/v1/canaries")["canaries"]
        return found

    def mirrors(self, route: str | None) -> list[dict[str, Any]]:
        """What comparing answers of mirrors has found, of one route or of all. Raises AdminError."""
        query = "" if route is None else f"?{urlencode({'route': route})}"
        found: list[dict[str, Any]] = self._asked("GET", f"/api/v1/mirrors{query}")["mirrors"]
        return found

    def change_canary(self, route: str, action: str, dry_run: bool) -> dict[str, Any]:
        """Has a canary promoted (`promote`), taken back (`abort`) or begin anew (`retry`): {canary, changed, dry_run}.
        Raises AdminError."""
        return self._asked("POST", "/api/v1/canaries", {"route": route, "action": action, "dry_run": dry_run})

    def tables(self, table: str | None, key: str | None, filter_: str | None, last: int) -> dict[str, Any]:
        """The stick tables, and entries of one. Raises AdminError."""
        wanted = {"last": str(last), "table": table, "key": key, "filter": filter_}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return self._asked("GET", f"/api/v1/tables?{query}")

    def change_table(self, body: dict[str, Any]) -> dict[str, Any]:
        """Clears entries, or sets one: a Change of lb.control.admin.tables_api. Raises AdminError."""
        return self._asked("POST", "/api/v1/tables", body)

    def changes(self) -> list[dict[str, Any]]:
        """What has been changed at run time and is in force. Raises AdminError."""
        found: list[dict[str, Any]] = self._asked("GET", "/api/v1/changes")["changes"]
        return found

    def settings(self) -> list[str]:
        """The settings that can be changed at run time. Raises AdminError."""
        found: list[str] = self._asked("GET", "/api/v1/settings")["settings"]
        return found

    def change(self, values: dict[str, Any], reset: list[str], dry_run: bool) -> list[dict[str, Any]]:
        """Gives settings other values, or those of the file again; what differs. Raises AdminError."""
        body = {"values": values, "reset": reset, "dry_run": dry_run}
        return self._changed("/api/v1/settings", body)

    def scale(self, pool: str, replicas: int | str, dry_run: bool) -> list[dict[str, Any]]:
        """Holds a pool to a number of model servers, or lets its scaling decide again; what differs. Raises
        AdminError."""
        return self._changed("/api/v1/scale", {"pool": pool, "replicas": replicas, "dry_run": dry_run})

    def _changed(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        code, answer = self._ask("POST", path, _RELOAD_TIMEOUT, body)
        if code != 200:
            raise AdminError(str(answer.get("error") or f"{self.address} answers {code}"))
        found: list[dict[str, Any]] = answer["changed"]
        return found

    def reload_certificates(self, dry_run: bool) -> dict[str, Any]:
        """{ok, changed, maps, problems}. Raises AdminError when nobody answers."""
        code, body = self._ask("POST", "/api/v1/certificates/reload", _RELOAD_TIMEOUT, {"dry_run": dry_run})
        if "ok" not in body:
            raise AdminError(f"{self.address} answers {code}: {body.get('error', '')}".rstrip(": "))
        return body

    def config(self) -> dict[str, Any]:
        """{path, config, changes}: the running configuration. Raises AdminError."""
        return self._asked("GET", "/api/v1/config")

    def config_diff(self) -> dict[str, Any]:
        """What differs between it and the file on disk. Raises AdminError."""
        code, body = self._ask("GET", "/api/v1/config/diff", _RELOAD_TIMEOUT)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        return body

    def _asked(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer with 200. Raises AdminError."""
        code, body = self._ask(method, path, _STATUS_TIMEOUT, document)
        if code != 200:
            raise AdminError(str(body.get("error") or f"{self.address} answers {code}"))
        return body

    def _ask(
        self, method: str, path: str, timeout: float, document: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        headers: dict[str, str | bytes] = {"Accept": "application/json"}
        if method != "GET":
            headers["Tidegate-Operator"] = _operator().encode()
        sent = None if document is None else json.dumps(document)
        if self._token.value:
            headers["Authorization"] = b"Bearer " + self._token.value
        connection = _connection(self.address, timeout)
        try:
            connection.request(method, path, body=sent, headers=headers)
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(f"no answer from the daemon at {self.address}: {reason}") from error
        except ValueError as error:
            raise AdminError(f"{self.address} is no admin server of Tidegate: its answer is not JSON") from error
        finally:
            connection.close()
        if response.status == 401:
            raise RefusedError(self._token.missing(self.address))
        if not isinstance(body, dict):
            raise AdminError(f"{self.address} is no admin server of Tidegate: its answer is no JSON object")
        if response.status == 403:
            raise RefusedError(f"{self.address} refuses: {body.get('error', 'no reason is given')}")
        return response.status, body


def _operator() -> str:
    """Who this is, for what the daemon shows and logs of a change: the user behind sudo, and the machine."""
    name = os.environ.get("SUDO_USER") or ""
    if not name:
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(os.getuid()).pw_name
    return f"{name or os.getuid()}@{socket.gethostname()}"


def client(config: Path, admin: str, token_file: Path | None, changes: bool = True) -> AdminClient:
    """A client for `admin` if that is given, else for the daemon that runs the configuration file.

    Where it is to be changed, that has to be certain: a file that is not well formed, or an address at which a daemon
    with another file answers, is an error. Else the first line on standard error says which daemon is asked. Raises
    TidegateError.
    """
    token = read_token(token_file, "--token-file") if token_file is not None else None
    if admin:
        made = AdminClient(_address(admin), token or Token(origin="with --admin the configuration is not read"))
        if not changes:
            _tell(made.address, made.daemon().get("config"))
        return made
    from lb.config.admin import load_admin  # with pydantic, which is half the CPU time of a command: not for --admin

    try:
        section = load_admin(config)
    except ConfigError as error:
        raise ConfigError([*error.problems, _unknown(config, changes)]) from None
    if changes and section.problems:
        raise ConfigError([*section.problems, _unknown(config, changes)])
    bind, tokens = section.admin.bind, section.admin.token_file
    if token is None and tokens is not None:
        token = read_token(tokens, f"admin.token_file of {config}")
    made = AdminClient(bind, token or Token(origin=f"{config} has no admin.token_file"))
    running = made.daemon().get("config")
    if not changes:
        _tell(bind, running, config, section.problems[0] if section.problems else "")
    elif not runs(config, running):
        place = f"{section.bind}: admin.bind" if section.bind else f"{config}: no admin.bind, so {bind}"
        found = f"the daemon at {bind} runs {running}" if running else f"what answers at {bind} names no configuration"
        raise ConfigError([f"{place}: {found}, not {config.absolute()}", _unknown(config, changes, bind)])
    return made


def _unknown(config: Path, changes: bool, bind: str = "") -> str:
    """What to do where the file does not say which daemon is meant."""
    so = "nothing was changed, as" if changes else "nobody was asked, as"
    url = bind if bind.startswith("unix:") else f"http://{bind}" if bind else "URL"
    means = f"--admin {url} means the daemon there, whatever it runs" if bind else "--admin URL names the daemon"
    return f"tidegate: {so} {config} does not say which daemon is meant: {means} (--token-file FILE its token)"


def _tell(address: str, running: str | None, config: Path | None = None, problem: str = "") -> None:
    """Says whom a command asks that shows something."""
    what = f"the daemon at {address}" + (f", which runs {running}" if running else "")
    if config is not None and not runs(config, running):
        what += f", not {config.absolute()}" if running else f", which may not be that of {config.absolute()}"
    print(f"tidegate: asked {what}", file=sys.stderr)
    if problem:
        print(f"tidegate: {problem}", file=sys.stderr)


def runs(config: Path, running: str | None) -> bool:
    """Whether a daemon that runs the file `running` runs `config`: by its name, or where a link leads."""
    if not running:
        return False
    return os.path.abspath(config) == running or os.path.realpath(config) == os.path.realpath(running)


def _is_local(address: str) -> bool:
    """Whether it means another place on another machine."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback or host in _ANY
    except ValueError:
        return False


def _address(url: str) -> str:
    if url.startswith("unix:"):
        return url
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise AdminError(f"--admin {url}: write http://HOST:PORT or unix:/PATH")
    return parts.netloc


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout)
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
