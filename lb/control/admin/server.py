"""The admin server: metrics, health of the daemon itself, status, reload, and the dashboard. Runs in the master.

    GET  /metrics  /healthz  /readyz  /api/v1/status  /
         /api/v1/daemon   which daemon answers: {version, pid, state, config, binds: {stream, datagram}}
         /api/v1/counters   all counters as they are, for readers of rates (lb.control.admin.readings)
         /api/v1/transitions?pool=&endpoint=&last=100   the last changes of endpoints, newest first
         /api/v1/scaling?pool=   why a pool has as many model servers as it has, and the requests that have arrived
         /apis/external.metrics.k8s.io/v1beta1 …   what pools need, for Kubernetes (lb.control.admin.external_metrics)
         /api/v1/endpoint?pool=&address=   what an endpoint still has to do, also one that was removed
         /api/v1/cache …   the result cache (lb.control.admin.cache_api)
         /api/v1/canaries   canaries and their history (lb.control.admin.canary_api)
         /api/v1/mirrors   what comparing answers of mirrors has found (lb.control.admin.mirror_api)
         /api/v1/jobs   jobs (lb.control.admin.jobs_api)
         /api/v1/quotas   what clients have used of quotas (lb.control.admin.quotas_api)
         /api/v1/tables   what stick tables have counted (lb.control.admin.tables_api)
         /api/v1/reload   the last reload, by whom, and what it changed
         /api/v1/overview …   what the dashboard shows (lb.control.admin.watch_api)
    POST /api/v1/reload
         /api/v1/explain   a Question: what would become of a request
         /api/v1/endpoint  {"pool", "address", "admin": enabled | drain | maintenance, "weight": number | "default",
                            "max_in_flight": number | "default", "dry_run"}
         /api/v1/settings …   what operators change while the daemon runs (lb.control.admin.runtime_api)

Loopback without a token by default, where it goes by no other name than localhost. With a token, all of it asks for
`Authorization: Bearer TOKEN`, whose role says what it may do (lb.control.admin.callers), but for the two probes and the
files of the dashboard, which have nothing in them but the scripts that ask for the rest. Pages of other sites get
nothing but these (lb.control.admin.origin); how many connections there may be and how long each may take is
lb.control.admin.connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

import lb
from lb.control import counters, sockets
from lb.control.admin import external_metrics, readings
from lb.control.admin.answers import invalid, json_answer, refusal
from lb.control.admin.cache_api import CacheApi
from lb.control.admin.callers import Audit, Caller, Callers
from lb.control.admin.canary_api import CanaryApi
from lb.control.admin.connections import AdminConnections, Limits, server_log
from lb.control.admin.jobs_api import JobsApi
from lb.control.admin.mirror_api import MirrorApi
from lb.control.admin.operator import CALLER, operator_of
from lb.control.admin.origin import is_cross_site, is_local
from lb.control.admin.pages import FILES, POLICY, page
from lb.control.admin.quotas_api import QuotasApi
from lb.control.admin.runtime_api import RuntimeApi
from lb.control.admin.tables_api import TablesApi
from lb.control.admin.watch_api import WatchApi
from lb.control.datagrams import drops_by_listener
from lb.control.endpoints.leaving import LeavingError
from lb.control.endpoints.lookup import must_exist
from lb.control.endpoints.operated import EndpointUpdate
from lb.control.master import Master
from lb.control.registry import ADMIN
from lb.errors import ConfigError, StartError, TidegateError
from lb.telemetry.metrics import CONTENT_TYPE_LATEST, Snapshot, exposition

log = logging.getLogger("tidegate.admin")

_OPEN = frozenset({"/", "/healthz", "/readyz", *FILES})
_CONNECTIONS = 4096  # at most, and half of the descriptors that the process may have
_LIMITS = Limits()
_DIGITS = 18  # of a number that a caller gives
_PROTECTED = {  # fields of every answer: no page of another site may embed it, no cache may keep it
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATES = {name: number for number, name in ADMIN.items()}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _weight(value: Any) -> Any:
    if value is None or value == "default" or (type(value) is int and 0 <= value <= 1000):
        return value
    raise PydanticCustomError("weight", 'is a whole number from 0 to 1000, or "default"')


def _limit(value: Any) -> Any:
    if value is None or value == "default" or (type(value) is int and 1 <= value <= 1_000_000):
        return value
    raise PydanticCustomError("limit", 'is a whole number from 1 to 1000000, or "default"')


class EndpointBody(BaseModel):
    """The body of POST /api/v1/endpoint."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pool: str
    address: str
    admin: Literal["enabled", "drain", "maintenance"] | None = None
    weight: Annotated[int | Literal["default"] | None, PlainValidator(_weight)] = None
    max_in_flight: Annotated[int | Literal["default"] | None, PlainValidator(_limit)] = None
    dry_run: bool = False


class Question(BaseModel):
    """The body of POST /api/v1/explain: a request to a listener, or a choice of a pool."""

    model_config = ConfigDict(extra="forbid", strict=True)

    listener: str = ""
    pool: str = ""
    method: str = "GET"
    target: str = "/"
    host: str = ""
    headers: list[tuple[str, str]] = []
    source: str = "127.0.0.1"
    model: str = ""
    sequence: str = ""
    key: str | None = None
    values: list[tuple[str, str]] = []
    worker: Annotated[int, Field(ge=0)] | None = None


class AdminServer:
    """A service of the master (lb.control.master.Service) on its configuration's `admin.bind`."""

    def __init__(self, master: Master, limits: Limits = _LIMITS) -> None:
        self._master = master
        self._limits = limits
        self._callers = Callers()
        self._audit = Audit()
        self._scraping = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._connections: AdminConnections | None = None
        self._listening: sockets.Listening | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises StartError when the port is taken or the token cannot be read."""
        section = self._master.config.admin
        self._callers.read(section)
        app = web.Application(middlewares=[self._guard], client_max_size=self._limits.body_size)
        app.add_routes(
            [
                *(web.get(path, self._dashboard) for path in ("/", *FILES)),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/daemon", self._daemon),
                web.get("/api/v1/counters", self._counters),
                web.get("/api/v1/transitions", self._transitions),
                web.get("/api/v1/scaling", self._scaling),
                web.get("/api/v1/reload", self._reloaded),
                web.post("/api/v1/reload", self._reload),
                web.post("/api/v1/upgrade", self._upgrade),
                web.post("/api/v1/reopen-logs", self._reopen_logs),
                web.post("/api/v1/explain", self._explain),
                web.get("/api/v1/endpoint", self._left),
                web.post("/api/v1/endpoint", self._operate),
                *CacheApi(self._master).routes(),
                *CanaryApi(self._master).routes(),
                *JobsApi(self._master).routes(),
                *MirrorApi(self._master).routes(),
                *QuotasApi(self._master).routes(),
                *TablesApi(self._master).routes(),
                *RuntimeApi(self._master).routes(),
                *WatchApi(self._master).routes(),
                web.get(external_metrics.PATH, self._external_metrics),
                web.get(external_metrics.PATH + "/namespaces/{namespace}/{metric}", self._external_metric),
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=server_log(),
            handle_signals=False,
            shutdown_timeout=2,
            keepalive_timeout=self._limits.idle,
            lingering_time=self._limits.linger,
            auto_decompress=False,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = AdminConnections(self._runner.server, self._limits, _most_connections)
        self._listening = self._master.sockets.listen_beside(section.bind)
        self._server = await asyncio.get_running_loop().create_server(
            self._connections, sock=self._listening.socket, backlog=sockets.BACKLOG
        )
        log.info("admin on %s", self._listening.address)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._audit.tell_left_out()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        assert self._connections is not None
        with self._connections.answering(request):
            caller, answer = self._admitted(request)
            body = b""
            if caller is not None:
                request[CALLER] = caller
            if answer is None:
                try:
                    await self._receive(request)
                    body = await request.read()
                    answer = await handler(request)
                except web.HTTPException as error:
                    answer = refusal(error.reason, error.status)
                    if "Allow" in error.headers:
                        answer.headers["Allow"] = error.headers["Allow"]  # of a 405 (RFC 9110 section 15.5.6)
            if not request.content.at_eof():  # a refusal; the rest of the body is of no use
                answer.force_close()
            answer.headers.update(_PROTECTED)
            self._audit.record(caller, request, body, answer.status)
            return answer

    def _admitted(self, request: web.Request) -> tuple[Caller | None, web.StreamResponse | None]:
        """Who asks, and the answer to a request that is not let in."""
        if request.path in _OPEN and request.method in ("GET", "HEAD"):
            return None, None
        section = self._master.config.admin
        caller = self._callers.find(section, request.headers.get("Authorization", ""))
        if caller is None:
            unknown = refusal("a valid token is needed", 401)
            unknown.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 section 11.6.1
            return None, unknown
        if caller.name == "local" and not is_local(request.headers.get("Host", "")):
            why = "without a token only localhost and IP addresses are names of this server"
            return caller, refusal(why, 403)
        if is_cross_site(request.method, request.headers):
            return caller, refusal("cross-site requests are refused", 403)
        if not caller.may(request.method, request.path):
            return caller, refusal(f"the role {caller.role} of the token {caller.name} does not allow this", 403)
        return caller, None

    async def _receive(self, request: web.Request) -> None:
        """Waits for the request's body, which is kept in the request. Raises the HTTPException of one that is too long,
        too slow or compressed."""
        if "Content-Encoding" in request.headers:
            raise web.HTTPUnsupportedMediaType(reason="a compressed body is not understood here")
        most = self._limits.body_size
        long = web.HTTPRequestEntityTooLarge(most, reason=f"the body is longer than {most} bytes")
        if (request.content_length or 0) > most:
            raise long
        try:
            async with asyncio.timeout(self._limits.body):
                await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise long from None
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason=f"the body did not come within {self._limits.body:g} s") from None

    async def _dashboard(self, request: web.Request) -> web.Response:
        body, kind = page(request.path)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Content-Security-Policy": POLICY})

    async def _metrics(self, request: web.Request) -> web.Response:
        """`?models=yes`: with metrics of models, for which the model servers are asked."""
        models = await readings.models(self._master) if request.query.get("models") == "yes" else []
        async with self._scraping:  # with 10,000 routes the page is 40 MB: one at a time, and not in the loop
            body = await asyncio.to_thread(exposition, snapshot(self._master, models))
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        """The master runs its loop: that is all this says."""
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, reason = self._master.ready()
        return web.Response(text=f"{reason}\n", status=200 if ready else 503)

    async def _status(self, request: web.Request) -> web.Response:
        """The status document with the counters of all series; without those, which are most of it, `?counters=no`."""
        status, plan = self._master.status(), self._master.plan
        if plan is None or request.query.get("counters") == "no":
            return json_answer(status)
        totals = counters.read(plan, self._master.segment)
        return await asyncio.to_thread(lambda: json_answer({**status, "counters": counters.describe(totals)}))

    async def _daemon(self, request: web.Request) -> web.Response:
        """Which daemon this is, for commands, which ask before they change something: `config` is the path of its file,
        `binds` are what it listens on, by the kind of the sockets."""
        master = self._master
        assert self._listening is not None
        binds: dict[str, list[str]] = {"stream": [self._listening.bind], "datagram": []}
        for listener in master.plan.listeners if master.plan is not None else ():
            if listener.name in master.sockets:  # none is from the beginning of a drain on
                binds["datagram" if listener.protocol == "udp" else "stream"] += listener.places().values()
        return json_answer(
            {
                "version": lb.__version__,
                "pid": os.getpid(),
                "state": master.state,
                "config": str(master.config_path),
                "binds": binds,
            }
        )

    async def _counters(self, request: web.Request) -> web.Response:
        """All counters as they are, for readers of rates: lb.control.admin.readings. `?models=yes` asks the model
        servers for theirs, too."""
        if request.query.get("models") != "yes":
            return json_answer(self._master.readings())
        models = await readings.models(self._master)
        return json_answer({**self._master.readings(), "models": models})

    async def _transitions(self, request: web.Request) -> web.Response:
        """Changes of health, state, weight and readiness of models; of one pool or endpoint if that is asked for, which
        may have been removed since."""
        last = request.query.get("last", "100")
        if not (last.isascii() and last.isdigit() and len(last) <= _DIGITS and int(last) >= 1):
            return refusal("last: is a number from 1")
        pool, endpoint = request.query.get("pool"), request.query.get("endpoint")
        found = self._master.transitions.last(int(last), pool, endpoint)
        if not found and not (pool and endpoint and self._master.publisher.left(pool, endpoint)):
            try:
                must_exist(self._master.plan, pool, endpoint)
            except ConfigError as error:
                return refusal(str(error), 404)
        return json_answer({"transitions": [change.describe() for change in found]})

    async def _scaling(self, request: web.Request) -> web.Response:
        """Of one pool; `scaling` is null where it is not scaled, `arrived` where its requests are not counted."""
        try:
            return json_answer(self._master.scaling(request.query.get("pool", "")))
        except ConfigError as error:
            return refusal(str(error), 404)

    async def _external_metrics(self, request: web.Request) -> web.Response:
        return json_answer(external_metrics.resources())

    async def _external_metric(self, request: web.Request) -> web.Response:
        """Of one pool (`?labelSelector=pool=NAME`) or all; the namespace says nothing here."""
        metric, selector = request.match_info["metric"], request.query.get("labelSelector", "")
        try:
            found = external_metrics.values(self._master.engines, metric, selector)
        except ValueError as error:
            return refusal(str(error))
        return json_answer(found) if found is not None else refusal(f"there is no metric {metric}", 404)

    async def _reload(self, request: web.Request) -> web.Response:
        result = await self._master.reload(f"API: {operator_of(request)}")
        return json_answer(result.to_dict(), 200 if result.ok else 409)

    async def _reloaded(self, request: web.Request) -> web.Response:
        """The last reload with what it changed, or would have: {…, differences: [{setting, from, to}]}, secrets hidden;
        null where there was none."""
        last = self._master.last_reload
        if last is None:
            return json_answer(None)
        return json_answer({**last.to_dict(), "differences": await self._master.reloaded()})

    async def _upgrade(self, request: web.Request) -> web.Response:
        """As SIGUSR2. 202: the installed program takes over in a moment; what became of it is in the status."""
        outcome = await self._master.upgrade(f"API: {operator_of(request)}")
        return json_answer(outcome.to_dict(), 202 if outcome.ok else 409)

    async def _reopen_logs(self, request: web.Request) -> web.Response:
        """As SIGUSR1: after the rotation of the access log's file."""
        try:
            self._master.reopen_logs()
        except StartError as error:
            return refusal(str(error), 409)
        return json_answer({"ok": True})

    async def _explain(self, request: web.Request) -> web.Response:
        """What would become of a request, and why; nothing is sent to any endpoint."""
        try:
            question = Question.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        if not question.listener and not question.pool:
            return refusal("listener or pool: one is needed")
        try:
            return json_answer(await self._master.explain(question.model_dump(exclude={"worker"}), question.worker))
        except ConfigError as error:
            return refusal(str(error), 404)
        except StartError as error:
            return refusal(str(error), 503)

    async def _left(self, request: web.Request) -> web.Response:
        """What an endpoint still has to do; 404 once there is nothing, of one that was removed."""
        pool, address = request.query.get("pool", ""), request.query.get("address", "")
        left = self._master.publisher.left(pool, address)
        if left is None:
            return refusal(f"pool {pool!r} has no endpoint {address!r}, nor one that is leaving", 404)
        return json_answer({"endpoint": left})

    async def _operate(self, request: web.Request) -> web.Response:
        """What an operator wants of one endpoint; each of `admin`, `weight` and `max_in_flight` may be left out."""
        try:
            body = EndpointBody.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        admin = None if body.admin is None else _STATES[body.admin]
        update = EndpointUpdate(admin, body.weight, body.max_in_flight)
        by = operator_of(request)
        try:
            row, changed = await self._master.operate(body.pool, body.address, update, by, body.dry_run)
        except LeavingError as error:
            return refusal(str(error), 409)
        except ConfigError as error:
            return refusal(str(error), 404)
        except TidegateError as error:
            return refusal(str(error), 409)
        return json_answer({"endpoint": row, "changed": changed, "dry_run": body.dry_run})


def snapshot(master: Master, models: Sequence[Mapping[str, Any]] = ()) -> Snapshot:
    """The counters of the plan in force, with the status document, and what model servers have counted."""
    plan, status = master.plan, master.status()
    if plan is None:
        return Snapshot(status)
    totals, drops = counters.read(plan, master.segment), drops_by_listener(plan, master.sockets)
    return Snapshot(status, totals, drops, models)


def _most_connections() -> int:
    """Those of the admin server must not take the descriptors that workers, listeners and checks need."""
    return min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
