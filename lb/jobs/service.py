"""What clients say to jobs, over HTTP. Workers pass it on to the jobs process; `lb.control.jobs.routes` says what.

    a request with the field X-Tidegate-Job-Route    202 with Location: PREFIX/ID, once it is durable
    GET    PREFIX/ID           the job's document; with `Prefer: wait=N` once it has changed, or after N seconds
    GET    PREFIX/ID/result    the answer, with its own status; 202 while there is none, after the wait
    GET    PREFIX/ID/events    the document at each change, as server-sent events, to the end of the job
    POST   PREFIX/ID/retry     a dead letter is queued anew
    DELETE PREFIX/ID           cancels it; 409 where it is over

A job is its tenant's: to others there is none by that id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

from lb.jobs.calls import text_of
from lb.jobs.job import FINAL, Answer, Fields, Job, Request, State, Submission, new_id
from lb.jobs.options import OptionError, first, passed_on, preferred_wait, read_options, tenant_of, values
from lb.jobs.runner import Runner
from lb.jobs.settings import ROUTE_FIELD, Settings
from lb.jobs.store import JobStore, KeyReusedError, QuotaError, StoreError
from lb.jobs.watchers import Watch, Watchers
from lb.jobs.webhooks import allowed

HEARTBEAT = 15.0  # seconds of silence in an event stream
_ANSWERED = (State.DONE, State.FAILED)


class RefusedError(Exception):
    """The client is answered with `status` and the message."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class JobService:
    """Answers requests about the jobs of a store; `wall` gives the seconds since the epoch. `accepted` counts
    submissions by what became of them."""

    def __init__(
        self, store: JobStore, settings: Settings, watchers: Watchers, runner: Runner, wall: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.accepted: Counter[str] = Counter()
        self._store = store
        self._watchers = watchers
        self._runner = runner
        self._wall = wall

    def application(self) -> web.Application:
        """The aiohttp application. It bounds no body: the route has."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", r"/{path:[\s\S]*}", self.answer)  # with encoded line ends, too
        app.on_response_prepare.append(_unnamed)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        fields = [(name.decode("latin-1"), text_of(value)) for name, value in request.raw_headers]
        route = first(fields, ROUTE_FIELD.lower())
        try:
            if route is not None:
                return await self._submit(request, route, fields)
            return await self._about(request, fields)
        except RefusedError as error:
            return _json({"error": str(error)}, error.status, error.headers)
        except StoreError:
            return _json({"error": "jobs cannot be stored now"}, 503, {"Retry-After": "1"})

    async def requeue(self, job: str, quota: int | None = None) -> tuple[Job | None, bool]:
        """Queues a dead letter anew: the job, None where there is none, and whether it was dead. Raises StoreError, and
        QuotaError when its tenant has `quota` unfinished jobs."""
        now = self._wall()
        before = await self._store.get(job)
        found = await self._store.requeue(job, now, now + self.settings.deadline, quota)
        done = found is not None and before is not None and before.state is State.DEAD
        if found is not None and done:
            self._runner.wake()
            self._watchers.tell(found)
        return found, done

    async def cancel(self, job: str) -> tuple[Job | None, bool]:
        """Cancels a job: the job, None where there is none, and whether it is cancelled. Raises StoreError."""
        now = self._wall()
        found = await self._store.cancel(job, now, now + self.settings.keep)
        done = found is not None and found.state is State.CANCELLED
        if found is not None and done and found.finished == now:
            self._runner.cancelled(found)
        return found, done

    async def latest(self, state: State | None, most: int) -> list[dict[str, Any]]:
        """The documents of the last jobs, of all tenants, for operators. Raises StoreError."""
        return [{**self.described(job), "tenant": job.tenant or None} for job in await self._store.latest(state, most)]

    async def _submit(self, request: web.Request, route: str, fields: Fields) -> web.StreamResponse:
        settings, target = self.settings, request.raw_path
        tenant = self._tenant(fields, target)
        try:
            options = read_options(fields)
        except OptionError as error:
            self.accepted["invalid"] += 1
            raise RefusedError(400, str(error)) from None
        if options.webhook and not allowed(options.webhook, settings.webhook_urls):
            self.accepted["invalid"] += 1
            raise RefusedError(400, "X-Tidegate-Webhook: is no URL that may be told here")
        try:
            body = await request.read()
        except (ConnectionError, web.RequestPayloadError):  # the client has left, or its body was too long
            self.accepted["invalid"] += 1
            raise RefusedError(400, "the body is not whole") from None
        now = self._wall()
        deadline = now + min(settings.deadline, options.deadline or settings.deadline)
        asked = Request(request.method, target, passed_on(fields), body)
        submission = Submission(
            new_id(), route, tenant, asked, now, deadline, options.priority, options.key, options.webhook
        )
        try:
            job, new = await self._store.submit(submission, settings.quota)
        except QuotaError:
            raise self._over_quota() from None
        except KeyReusedError:
            self.accepted["key_reused"] += 1
            raise RefusedError(422, "Idempotency-Key: another request had this key") from None
        except StoreError:
            self.accepted["store_failed"] += 1
            raise
        self.accepted["accepted" if new else "known"] += 1
        self._runner.wake()
        if options.wait:
            job = await self._over(job.id, options.wait) or job
        response = await self._result(job)
        if job.state in FINAL:  # the answer says nothing of its job otherwise
            response.headers["Content-Location"] = f"{self._link(job.id)}/result"
        return response

    async def _about(self, request: web.Request, fields: Fields) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        prefix = f"{self.settings.prefix}/"
        job, _, part = path.removeprefix(prefix).partition("/")
        found = await self._store.get(job) if path.startswith(prefix) else None
        if found is None or found.tenant != self._tenant(fields, request.raw_path):
            raise RefusedError(404, "there is no such job, or it has expired")
        wait = preferred_wait(values(fields, "prefer"))
        match request.method, part:
            case "GET" | "HEAD", "":
                return self._document(await self._changed(found, wait) if wait else found, 200)
            case "GET" | "HEAD", "result":
                return await self._result(await self._over(job, wait) or found if wait else found)
            case "GET", "events":
                return await self._events(request, found, first(fields, "last-event-id"))
            case "POST", "retry":
                return await self._retry(job)
            case "DELETE", "":
                return await self._cancel(job)
            case _, "" | "result" | "events" | "retry":
                raise RefusedError(405, f"{request.method} is not for this")
        raise RefusedError(404, "a job has result, events and retry")

    def _over_quota(self) -> RefusedError:
        self.accepted["quota"] += 1
        text = f"{self.settings.quota} jobs are unfinished, which is as many as there may be"
        return RefusedError(429, text, {"Retry-After": "1"})

    def _tenant(self, fields: Fields, target: str) -> str:
        kind, name = self.settings.tenant
        if not kind:
            return ""
        tenant = tenant_of(kind, name, fields, target)
        if tenant is None:
            raise RefusedError(400, f"the {kind} {name} names the tenant: it is needed once")
        return tenant

    async def _changed(self, job: Job, seconds: float) -> Job:
        """The job once its state is another than that of `job`, which is not over."""
        return await self._wait(job.id, seconds, lambda now: now.state is not job.state or now.state in FINAL) or job

    async def _over(self, job: str, seconds: float) -> Job | None:
        return await self._wait(job, seconds, lambda now: now.state in FINAL)

    async def _wait(self, job: str, seconds: float, done: Callable[[Job], bool]) -> Job | None:
        """The job once it is `done`, or as it is after `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with self._watchers.watching(job) as watch:
            found = await self._store.get(job)
            while found is not None and not done(found) and not self._watchers.closed:
                news = await watch.next(until - loop.time())
                if news is None:
                    break
                found = news
        return found

    async def _result(self, job: Job) -> web.StreamResponse:
        """The answer of a job that has one, else its document: with 202 while it may come, 410 where it will not."""
        if job.state in _ANSWERED:
            answer = await self._store.answer(job.id)
            if answer is not None:
                return _answered(answer)
        if job.state in (State.DEAD, State.CANCELLED):
            return self._document(job, 410)
        return self._document(
            job, 202, {"Location": self._link(job.id), "Preference-Applied": "respond-async", "Retry-After": "1"}
        )

    async def _events(self, request: web.Request, job: Job, last: str | None) -> web.StreamResponse:
        """The states of `job` as they come; `last` is the `id` of the last event that the client has. A client that has
        the last one there is comes again all the same, and 204 has it stop (HTML, section 9.2.3)."""
        if job.state in FINAL and last == job.state.value:
            return web.Response(status=204)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        with self._watchers.watching(job.id) as watch, contextlib.suppress(ConnectionError):  # of a client that leaves
            await response.prepare(request)
            found = await self._store.get(job.id)
            while found is not None and not self._watchers.closed:
                head = f"event: job\nid: {found.state.value}\ndata: ".encode("ascii")
                await response.write(head + orjson.dumps(self.described(found)) + b"\n\n")
                if found.state in FINAL:
                    break
                found = await self._news(response, watch)
            await response.write_eof()
        return response

    async def _news(self, response: web.StreamResponse, watch: Watch) -> Job | None:
        """The next news, with a sign of life while there are none; None at the end of the process."""
        while not self._watchers.closed:
            news = await watch.next(HEARTBEAT)
            if news is not None:
                return news
            await response.write(b":\n\n")
        return None

    async def _retry(self, job: str) -> web.StreamResponse:
        try:
            found, done = await self.requeue(job, self.settings.quota)
        except QuotaError:
            raise self._over_quota() from None
        if found is None:
            raise RefusedError(404, "there is no such job, or it has expired")
        if not done:
            return self._document(found, 409)
        return self._document(found, 202, {"Location": self._link(job)})

    async def _cancel(self, job: str) -> web.StreamResponse:
        found, done = await self.cancel(job)
        if found is None:
            raise RefusedError(404, "there is no such job, or it has expired")
        return self._document(found, 200 if done else 409)

    def _document(self, job: Job, status: int, headers: dict[str, str] | None = None) -> web.Response:
        return _json(self.described(job), status, headers)

    def described(self, job: Job) -> dict[str, Any]:
        """The document of a job."""
        return describe(job, self._link(job.id))

    def _link(self, job: str) -> str:
        return f"{self.settings.prefix}/{job}"


def describe(job: Job, link: str) -> dict[str, Any]:
    """The document of a job. Times are RFC 3339; null for what is not yet."""
    return {
        "id": job.id,
        "state": job.state.value,
        "route": job.route,
        "priority": job.priority,
        "attempts": job.attempts,
        "status": job.status or None,
        "failure": job.failure or None,
        "created": _time(job.created),
        "deadline": _time(job.deadline),
        "finished": _time(job.finished),
        "expires": _time(job.expires),
        "self": link,
        "result": f"{link}/result",
    }


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None


async def _unnamed(request: web.Request, response: web.StreamResponse) -> None:
    """The `Server` of an answer is the endpoint's; aiohttp puts its own where there is none."""
    if response.headers.get("Server", "") == SERVER_SOFTWARE:
        del response.headers["Server"]


def _answered(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body)
    response.headers.popall("Content-Type", None)
    for name, value in answer.fields:
        response.headers.add(name, value)
    return response


def _json(document: Any, status: int, headers: dict[str, str] | None = None) -> web.Response:
    protected = {"Cache-Control": "no-store", **(headers or {})}
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json", headers=protected)
