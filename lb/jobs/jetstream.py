"""Jobs in NATS JetStream, for several daemons that share them.

    STREAM           job.KEY        one record for each job; its last message is the job
                     owner.ID       signs of life of a daemon
                     tenant.HASH    submissions of a tenant that are about to be stored
    STREAM-bodies    ID.request.N, ID.answer.ATTEMPT.N    requests and answers, in parts

Every change of a record names the revision that it changes, so that of two daemons one succeeds. A job with an
idempotency key has its place by that key: whoever comes second finds it taken. Each daemon has a copy of all records
(lb.jobs.index), which the server keeps up to date. No clock of a machine is compared with another's: a daemon is
dead when its signs of life have not been seen for the length of a lease. docs/adr/jobs.md says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import msgpack
from msgspec import MsgspecError, Struct
from msgspec.structs import replace

from lb.jobs.index import Held, Index, Record, held, packed
from lb.jobs.job import FINAL, STEPS, Answer, Attempt, Delivery, Job, Request, State, Submission, fingerprint, new_id
from lb.jobs.link import Link, RevisionError
from lb.jobs.settings import NatsSettings
from lb.jobs.store import KeyReusedError, QuotaError, StoreAwayError, StoreError
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.jobs")

LEASE = 30.0  # seconds without a sign of life after which a daemon's jobs run elsewhere
_BEATS = 10  # signs of life in a lease
_FENCE = 2 / 3  # of a lease: a daemon that could not renew it for so long gives up what it runs
_PAUSE = 1.0  # seconds between two attempts to connect
_TIDY = 600.0  # seconds between two looks for what nobody needs


class Places(Struct):
    """Submissions of a tenant that have a place in its quota, and may not have a record yet: by id, when they were
    first seen here."""

    tenant: str
    revision: int = 0
    seen: dict[str, float] = {}


class Owner(Struct, frozen=True):
    """A daemon: the revision of its last sign of life and when that was seen here, -inf once it has left."""

    revision: int
    seen: float


class JetStreamStore:
    """A JobStore (lb.jobs.store) in NATS JetStream. `changed` is told of a job that another daemon has changed, `lost`
    of the id of one that is running here and no longer this daemon's. `lease` is in seconds, the same for all daemons.

    `open` returns also while the server is away: every method but `counts`, `oldest` and `latest` raises
    StoreAwayError then. Those three tell what was known last.
    """

    def __init__(
        self,
        settings: NatsSettings,
        changed: Callable[[Job], None] = lambda job: None,
        lost: Callable[[str], None] = lambda job: None,
        lease: float = LEASE,
    ) -> None:
        self.error = "not open"  # why the store is away, "" while it is not
        self._settings = settings
        self._changed = changed
        self._lost = lost
        self._lease = lease
        self._name = f"NATS at {', '.join(settings.urls)}"
        self._owner = new_id()
        self._link: Link | None = None
        self._index = Index()
        self._owners: dict[str, Owner] = {}
        self._tenants: dict[str, Places] = {}
        self._running: dict[str, int] = {}  # number of the attempt that this daemon has, by job
        self._entering: dict[str, str] = {}  # subject of the tenant, by job that is being submitted here
        self._renewed = 0.0  # when the last sign of life was sent that the server has confirmed
        self._tidied = 0.0
        self._unneeded: tuple[dict[str, int], set[str]] = ({}, set())  # what the last look for it has found
        self._tasks: list[asyncio.Task[None]] = []
        self._tried = asyncio.Event()
        self._taking = asyncio.Lock()
        self._reserving = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_next: asyncio.Task[None] | None = None

    async def open(self, now: float) -> int:
        self._tidied = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._watch_lease())]
        await self._tried.wait()
        return 0

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        link = self._link
        if link is not None:
            with contextlib.suppress(StoreError, RevisionError):
                await link.put(f"owner.{self._owner}", b"")  # what was running here may run elsewhere at once
        await end_tasks(tasks)
        self.error = "the store is closed"

    async def submit(self, submission: Submission, quota: int) -> tuple[Job, bool]:
        link, new = self._up(), submission
        slot = f"job.{new.id}" if new.key is None else f"job.key-{_hash(new.tenant, new.key)}"
        print_of = fingerprint(new.route, new.request)
        loop = asyncio.get_running_loop()
        began, parts, revision = 0.0, 0, 0
        try:
            while True:
                if new.key is not None:
                    revision, data = await link.last(slot)
                    if data:
                        if parts:
                            await self._remove_bodies(new.id)
                        known = _held(slot, revision, data)
                        self._index.put(known)
                        if known.record.print != print_of:
                            raise KeyReusedError
                        return known.job, False
                if not parts:
                    began = loop.time()
                    await self._reserve(new, quota)
                    request = new.request
                    parts = await link.put_body(
                        f"{new.id}.request",
                        msgpack.packb((request.method, request.target, request.fields, request.body)),
                    )
                if loop.time() - began > self._lease / 2:  # the place in the quota may soon be another's
                    raise StoreError("NATS: storing the request took too long")
                job = Job(
                    new.id, new.route, new.tenant, State.QUEUED, new.priority, new.created, new.deadline, new.created, 0
                )
                record = Record(job, print_of, parts, new.webhook)
                try:
                    revision = await link.put(slot, packed(record), revision)
                except RevisionError:
                    continue  # another submission with the key came between
                self._index.put(Held(slot, revision, replace(record, seq=revision)))
                return job, True
        finally:
            self._entering.pop(new.id, None)

    async def get(self, job: str) -> Job | None:
        found = await self._look(job)
        return found.job if found is not None else None

    async def answer(self, job: str) -> Answer | None:
        link, found = self._up(), await self._look(job)
        if found is None or not found.record.answer_number:
            return None
        record = found.record
        data = await link.body(f"{job}.answer.{record.answer_number}", record.answer_parts)
        if data is None:
            return None
        status, fields, body = msgpack.unpackb(data)
        return Answer(status, [(name, value) for name, value in fields], body)

    async def take(self, now: float, most: int) -> list[Attempt]:
        attempts: list[Attempt] = []
        tried: set[str] = set()
        async with self._taking:
            self._up()
            while len(attempts) < most:
                due = [found for found in self._index.due(now, most + len(tried)) if found.job.id not in tried]
                if not due:
                    break
                tried.add(due[0].job.id)
                try:
                    attempt = await self._begin(due[0])
                except StoreError:
                    if attempts:  # those are this daemon's
                        break
                    raise
                if attempt is not None:
                    attempts.append(attempt)
        return attempts

    async def finish(
        self, attempt: Attempt, state: State, answer: Answer | None, failure: str, now: float, expires: float
    ) -> Job | None:
        number, parts = attempt.number, 0
        body = f"{attempt.id}.answer.{number}"
        if answer is not None:
            data = msgpack.packb((answer.status, answer.fields, answer.body))
            parts = await self._up().put_body(body, data)

        def end(record: Record) -> Record | None:
            if record.job.state is not State.RUNNING or record.number != number:
                return None
            job = replace(
                record.job, state=state, attempts=attempt.failures + 1, failure=failure, finished=now, expires=expires,
                status=answer.status if answer is not None else 0,
            )  # fmt: skip
            return _over(replace(record, job=job, answer_number=number if parts else 0, answer_parts=parts))

        found, changed = await self._step(attempt.id, end)
        self._settled(attempt)
        if found is not None and (changed or (found.job.state is state and found.record.number == number)):
            await self._remove_unneeded(found.job)
            return found.job  # unchanged: it was stored by a try whose answer did not arrive
        if parts:
            await self._remove_bodies(body)
        return None

    async def postpone(self, attempt: Attempt, due: float, failure: str, counted: bool) -> Job | None:
        def queue(record: Record) -> Record | None:
            if record.job.state is not State.RUNNING or record.number != attempt.number:
                return None
            job = replace(record.job, state=State.QUEUED, attempts=attempt.failures + counted, due=due, failure=failure)
            return replace(record, job=job, owner="")

        found, changed = await self._step(attempt.id, queue)
        self._settled(attempt)
        return found.job if found is not None and changed else None

    async def cancel(self, job: str, now: float, expires: float) -> Job | None:
        def end(record: Record) -> Record | None:
            if State.CANCELLED not in STEPS[record.job.state]:
                return None
            return _over(replace(record, job=replace(record.job, state=State.CANCELLED, finished=now, expires=expires)))

        found, changed = await self._step(job, end)
        if found is not None and changed:
            self._running.pop(job, None)
            await self._remove_unneeded(found.job)
        return found.job if found is not None else None

    async def requeue(self, job: str, now: float, deadline: float, quota: int | None = None) -> Job | None:
        def queue(record: Record) -> Record | None:
            if record.job.state is not State.DEAD:
                return None
            if quota is not None and self._index.unfinished[record.job.tenant] >= quota:
                raise QuotaError
            anew = replace(
                record.job, state=State.QUEUED, due=now, deadline=deadline, attempts=0, finished=0.0, expires=0.0,
                status=0,
            )  # fmt: skip
            return replace(
                record, job=anew, hook_due=None, hook_failures=0, hook_owner="", answer_number=0, answer_parts=0
            )

        found, changed = await self._step(job, queue)
        if changed:
            await self._remove_bodies(f"{job}.answer")
        return found.job if found is not None else None

    async def sweep(self, now: float, expires: float, most: int = 5000) -> list[Job]:
        link, dead = self._up(), []
        for found in self._index.expired(now, most):
            try:
                self._index.remove(found.slot, await link.put(found.slot, b"", found.revision))
            except RevisionError:  # another daemon has
                continue
            await self._remove_bodies(found.job.id)
        for found in self._index.late(now, most):
            job = found.job
            failure = f"deadline; last: {job.failure}" if job.failure else "deadline"
            job = replace(job, state=State.DEAD, finished=now, expires=expires, failure=failure)
            try:
                dead.append((await self._write(found, _over(replace(found.record, job=job)))).job)
            except RevisionError:
                continue
        await self._take_back(now)
        if asyncio.get_running_loop().time() - self._tidied > _TIDY:
            await self._tidy()
        return dead

    async def deliveries(self, now: float, most: int, busy: Sequence[str] = ()) -> list[Delivery]:
        self._up()
        mine = []
        for found in self._index.to_tell(now, most, busy):
            owner = found.record.hook_owner
            if owner != self._owner:
                if owner and not self._dead(owner):
                    continue
                try:
                    found = await self._write(found, replace(found.record, hook_owner=self._owner))
                except RevisionError:
                    continue
            mine.append(Delivery(found.job, found.record.webhook, found.record.hook_failures))
        return mine

    async def delivered(self, delivery: Delivery) -> None:
        def told(record: Record) -> Record | None:
            return replace(record, hook_due=None, hook_owner="") if self._tells(record, delivery) else None

        await self._step(delivery.job.id, told)

    async def delay_delivery(self, delivery: Delivery, due: float) -> None:
        def later(record: Record) -> Record | None:
            if not self._tells(record, delivery):
                return None
            return replace(record, hook_due=due, hook_failures=record.hook_failures + 1, hook_owner="")

        await self._step(delivery.job.id, later)

    def _tells(self, record: Record, delivery: Delivery) -> bool:
        """Whether it is this daemon that tells the webhook of that end: the job may have been queued anew meanwhile,
        and have another end to be told."""
        same = record.job.finished == delivery.job.finished
        return same and record.hook_due is not None and record.hook_owner == self._owner

    async def latest(self, state: State | None, most: int) -> Sequence[Job]:
        return self._index.latest(state, most)

    async def counts(self) -> Mapping[tuple[str, State], int]:
        return dict(self._index.counts)

    async def oldest(self) -> float:
        return self._index.oldest()

    def _up(self) -> Link:
        if self._link is None:
            raise StoreAwayError(self.error)
        return self._link

    async def _keep(self) -> None:
        """One connection after the other. A server that is away is one line in the log, and its return another."""
        away = False
        while True:
            try:
                await self._connection(away)
            except StoreError as error:
                # What has ended may have been up: then this is the beginning of being away.
                if not away or self.error == "":
                    log.error("%s: %s; jobs wait until it is back", self._name, error)
                away, self.error = True, str(error)
            except Exception:  # one that nobody foresaw
                log.exception("%s", self._name)
                away, self.error = True, "internal error"
            self._tried.set()
            await asyncio.sleep(_PAUSE)

    async def _connection(self, again: bool) -> None:
        """From a connection to its end. Raises StoreError."""
        index, owners, tenants = Index(), dict[str, Owner](), dict[str, Places]()
        link = Link(self._settings, lambda *news: self._on_message(index, owners, tenants, *news))
        try:
            await link.connect()
            began = asyncio.get_running_loop().time()
            await link.replayed(await link.put(f"owner.{self._owner}", b"1"))
            before, self._index = self._index, index
            before.close()
            self._owners, self._tenants, self._link, self.error, self._renewed = owners, tenants, link, "", began
            for job in list(self._running):
                found = index.get(job)
                if found is None or not self._ours(found):
                    self._give_up(job)
            if again:
                log.info("%s is back", self._name)
            self._tried.set()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._lease / _BEATS):
                        await link.wait_closed()
                    raise StoreAwayError("the connection has ended")
                await self._fresh()
        finally:
            self._link = None
            await link.close()

    def _on_message(
        self,
        index: Index,
        owners: dict[str, Owner],
        tenants: dict[str, Places],
        subject: str,
        revision: int,
        data: bytes,
    ) -> None:
        now = asyncio.get_running_loop().time()
        kind, _, name = subject.partition(".")
        match kind:
            case "job" if data:
                try:
                    new = held(subject, revision, data)
                except MsgspecError as error:  # of another release, whose daemons look after it
                    log.error("%s: the record %s cannot be read: %s", self._name, subject, error)
                    return
                if index.put(new) and index is self._index:
                    if new.job.id in self._running and not self._ours(new):
                        self._give_up(new.job.id)
                    self._changed(new.job)
            case "job":
                index.remove(subject, revision)
            case "owner":
                owners[name] = Owner(revision, now if data else -math.inf)
            case "tenant":
                _note_places(tenants, subject, revision, data, now)

    def _ours(self, found: Held) -> bool:
        """Whether the attempt that this daemon has of the job is the job's."""
        record = found.record
        number = self._running.get(found.job.id)
        return found.job.state is State.RUNNING and record.owner == self._owner and record.number == number

    def _give_up(self, job: str) -> None:
        del self._running[job]
        self._lost(job)

    def _settled(self, attempt: Attempt) -> None:
        if self._running.get(attempt.id) == attempt.number:
            del self._running[attempt.id]

    async def _watch_lease(self) -> None:
        """Gives up what runs here before others may take it. The name of this daemon is a new one then: its old one
        dies, with what has it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease / 100)
            if self._running and loop.time() - self._renewed > _FENCE * self._lease:
                log.error("%s: the lease of %d running jobs is over; they run again", self._name, len(self._running))
                self._owner = new_id()
                for job in list(self._running):
                    self._give_up(job)

    async def _fresh(self) -> None:
        """Everything that was stored before this call is in the index. It is a sign of life, too. Calls that come
        during one share the next."""
        if self._refresh_next is None:
            self._refresh_next = asyncio.create_task(self._refresh(self._refreshing))
        await asyncio.shield(self._refresh_next)

    async def _refresh(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._refreshing, self._refresh_next = self._refresh_next, None
        link, began = self._up(), asyncio.get_running_loop().time()
        await link.told(await link.put(f"owner.{self._owner}", b"1"))
        self._renewed = began

    async def _look(self, job: str) -> Held | None:
        """A job as the server has it."""
        link = self._up()
        found = self._index.get(job)
        if found is None:
            await self._fresh()
            found = self._index.get(job)
            if found is None:
                return None
        revision, data = await link.last(found.slot)
        if not data:
            return None
        now = _held(found.slot, revision, data)
        self._index.put(now)
        return now if now.job.id == job else None

    async def _step(self, job: str, decide: Callable[[Record], Record | None]) -> tuple[Held | None, bool]:
        """Changes a job as `decide` says, for the record as it is at that moment: the record, and whether it was
        changed."""
        while (found := await self._look(job)) is not None:
            record = decide(found.record)
            if record is None:
                return found, False
            try:
                return await self._write(found, record), True
            except RevisionError:
                continue
        return None, False

    async def _write(self, found: Held, record: Record) -> Held:
        new = Held(found.slot, await self._up().put(found.slot, packed(record), found.revision), record)
        self._index.put(new)
        return new

    async def _begin(self, found: Held) -> Attempt | None:
        """Makes a queued job running here; None where it is no longer to be had."""
        job, record = found.job, found.record
        data = await self._up().body(f"{job.id}.request", record.request_parts)
        number = record.number + 1
        if data is None or job.id in self._running:
            await self._look(job.id)
            return None
        self._running[job.id] = number
        try:
            running = replace(record, job=replace(job, state=State.RUNNING), number=number, owner=self._owner)
            await self._write(found, running)
        except RevisionError:
            self._running.pop(job.id, None)
            await self._look(job.id)
            return None
        except BaseException:
            # It may be running: then `_take_back` finds it without its attempt.
            self._running.pop(job.id, None)
            raise
        if self._running.get(job.id) != number:  # cancelled, or the lease was over meanwhile
            return None
        method, target, fields, body = msgpack.unpackb(data)
        request = Request(method, target, [(name, value) for name, value in fields], body)
        return Attempt(job.id, number, job.attempts, job.route, job.deadline, request)

    def _dead(self, owner: str) -> bool:
        now = asyncio.get_running_loop().time()
        return now - self._owners.setdefault(owner, Owner(0, now)).seen > self._lease

    def _abandoned(self, found: Held) -> bool:
        """Whether nobody works on a running job."""
        if found.record.owner == self._owner:
            return self._running.get(found.job.id) != found.record.number
        return self._dead(found.record.owner)

    async def _take_back(self, now: float) -> None:
        """Queues what was running at daemons that are dead. The attempt is not counted: their end was not its doing."""
        if not any(self._abandoned(found) for found in self._index.running()):
            return
        await self._fresh()  # after a pause of this process the signs of life may only wait to be read
        number = 0
        for found in self._index.running():
            if self._abandoned(found):
                job = replace(found.job, state=State.QUEUED, due=now)
                try:
                    await self._write(found, replace(found.record, job=job, owner=""))
                except RevisionError:
                    continue
                number += 1
        if number:
            log.info("%d jobs that were running at a daemon that has ended are queued again", number)

    async def _reserve(self, new: Submission, quota: int) -> None:
        """A place in the tenant's quota. The places of all daemons are one record: whoever changes it has seen what
        those before have. A place counts until the job's record does, or until its submission must have failed.
        Raises QuotaError."""
        loop, subject = asyncio.get_running_loop(), f"tenant.{_hash(new.tenant)}"
        async with self._reserving:
            refreshed = False
            while True:
                now = loop.time()
                known = self._tenants.setdefault(subject, Places(new.tenant))
                kept = {
                    job: seen
                    for job, seen in known.seen.items()
                    if job not in self._index and (self._entering.get(job) == subject or now - seen <= self._lease)
                }
                if self._index.unfinished[new.tenant] + len(kept) >= quota:
                    if refreshed:
                        raise QuotaError
                    await self._fresh()
                    refreshed = True
                    continue
                places = {**kept, new.id: now}
                try:
                    revision = await self._up().put(subject, msgpack.packb((new.tenant, list(places))), known.revision)
                except RevisionError:
                    found, data = await self._up().last(subject)
                    await self._fresh()  # the index has now what those who wrote that had
                    if not found:  # removed by a daemon that was tidying
                        self._tenants.pop(subject, None)
                    else:
                        _note_places(self._tenants, subject, found, data, loop.time())
                    continue
                latest = self._tenants.get(subject)
                if latest is None or latest.revision < revision:
                    self._tenants[subject] = Places(new.tenant, revision, places)
                self._entering[new.id] = subject
                return

    async def _remove_unneeded(self, job: Job) -> None:
        """The request of a job that is over is needed no more, unless it may be queued anew."""
        if not STEPS[job.state]:
            await self._remove_bodies(f"{job.id}.request")

    async def _remove_bodies(self, name: str) -> None:
        """What cannot be removed now goes with its job, or as that of no job."""
        try:
            await self._up().remove_bodies(name)
        except StoreError as error:
            log.debug("%s: %s is not removed yet: %s", self._name, name, error)

    async def _tidy(self) -> None:
        """Removes what a process has left that ended amid its work: bodies without a job, and messages that say only
        that there is something no more. What was there at the look before, too, is nobody's present work."""
        link = self._up()
        await self._fresh()
        ends, bodies = dict(self._index.gone), {job for job in await link.body_owners() if job not in self._index}
        bodies -= self._entering.keys()
        old_ends, old_bodies = self._unneeded
        for job in bodies & old_bodies:
            await link.remove_bodies(job)
        for slot, revision in ends.items():
            if old_ends.get(slot) == revision and self._index.gone.get(slot) == revision:
                await link.forget(revision)
                del self._index.gone[slot]
        now = asyncio.get_running_loop().time()
        for name, owner in list(self._owners.items()):
            if now - owner.seen > _TIDY and owner.revision:
                await link.forget(owner.revision)
                del self._owners[name]
        for subject, places in list(self._tenants.items()):
            quiet = all(now - seen > _TIDY for seen in places.seen.values())
            if quiet and places.revision and not self._index.unfinished[places.tenant]:
                await link.forget(places.revision)
                del self._tenants[subject]
        self._unneeded = ends, bodies
        self._tidied = now


def _over(record: Record) -> Record:
    """The record of a job with a final state: it is nobody's, and its webhook is due."""
    assert record.job.state in FINAL
    return replace(record, owner="", hook_due=record.job.finished if record.webhook else None)


def _note_places(tenants: dict[str, Places], subject: str, revision: int, data: bytes, now: float) -> None:
    known = tenants.get(subject)
    if data and (known is None or known.revision < revision):
        tenant, jobs = msgpack.unpackb(data)
        before = known.seen if known is not None else {}
        tenants[subject] = Places(tenant, revision, {job: before.get(job, now) for job in jobs})


def _hash(*texts: str) -> str:
    """Any texts as a word of a subject."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def _held(slot: str, revision: int, data: bytes) -> Held:
    try:
        return held(slot, revision, data)
    except MsgspecError as error:
        raise StoreError(f"NATS: the record {slot} cannot be read: {error}") from error
