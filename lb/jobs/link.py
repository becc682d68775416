"""The connection to NATS: streams, changes that hold only for a known revision, and what the server tells of changes.

A connection is never mended: when it breaks, a new one is made, and all is read anew. What was on its way is answered
with StoreAwayError, and is not sent again behind the back of who asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig, StreamInfo

from lb.jobs.credentials import Credentials
from lb.jobs.settings import NatsSettings
from lb.jobs.store import StoreAwayError, StoreError

log = logging.getLogger("tidegate.jobs")

Secret = TypeVar("Secret", str, bytes)

TIMEOUT = 5.0  # seconds for an answer of the server
_WRONG_REVISION = (10071, 10164)  # err_code of "wrong last sequence", of a server and of a cluster
_REVISION = "Nats-Expected-Last-Subject-Sequence"
_PART = 1 << 20  # bytes of a message, where the server takes as much
_HEAD = 4096  # bytes of a message that are not of its content
_REPLAY = 300.0  # seconds for the first reading of all records


class RevisionError(Exception):
    """The record was changed by somebody else meanwhile. Nothing was done."""


class Link:
    """One connection, from `connect` to its end. `on_message(subject, revision, data)` gets the last message of each
    subject and then every further one, in the order of revisions."""

    def __init__(self, settings: NatsSettings, on_message: Callable[[str, int, bytes], None]) -> None:
        self.root = settings.stream
        self._settings = settings
        self._bodies = f"{settings.stream}-bodies"
        self._on_message = on_message
        self._client = Client()
        self._js = self._client.jetstream(timeout=TIMEOUT)
        self._closed = asyncio.Event()
        self._cause = ""  # what failed last
        self._seen = 0  # the last revision that was told
        self._news = asyncio.Event()

    async def connect(self) -> None:
        """Connects, makes streams that are missing, and begins to tell. Raises StoreError."""
        settings = self._settings
        try:
            password = _read(settings.password_file) if settings.password_file else None
            login = Credentials(Path(settings.credentials_file)) if settings.credentials_file else None
            with _translated():
                async with asyncio.timeout(4 * TIMEOUT):
                    await self._client.connect(
                        list(settings.urls),
                        name="tidegate",
                        allow_reconnect=False,
                        max_reconnect_attempts=1,  # of each server, before the next is tried
                        reconnect_time_wait=0,
                        connect_timeout=int(TIMEOUT),
                        ping_interval=10,
                        max_outstanding_pings=2,
                        tls=_tls(settings),
                        user=settings.username or None,
                        password=(lambda: self._private(password)) if password is not None else None,
                        user_jwt_cb=(lambda: self._private(login.jwt)) if login is not None else None,
                        signature_cb=(lambda nonce: self._private(login.sign(nonce))) if login is not None else None,
                        error_cb=self._on_error,
                        closed_cb=self._on_closed,
                    )
                    self._private("")
                    await self._stream(self.root, [f"{self.root}.{kind}.*" for kind in ("job", "owner", "tenant")])
                    await self._stream(self._bodies, [f"{self._bodies}.>"])
                    await self._js.subscribe(
                        f"{self.root}.>",
                        stream=self.root,
                        cb=self._on_news,
                        ordered_consumer=True,
                        config=ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT),
                        pending_msgs_limit=-1,
                        pending_bytes_limit=-1,
                    )
        except (OSError, ValueError) as error:  # of files with secrets and certificates
            raise StoreError(f"NATS: {error}") from error
        except StoreAwayError as error:
            raise StoreAwayError(f"NATS: {self._cause}" if self._cause else str(error)) from error

    async def close(self) -> None:
        """Ends the connection, however it is."""
        self._closed.set()
        self._news.set()
        with contextlib.suppress(Exception):  # of a connection that hangs, too
            async with asyncio.timeout(TIMEOUT):
                await self._client.close()

    async def wait_closed(self) -> None:
        """Until the connection has ended."""
        await self._closed.wait()

    async def put(self, subject: str, data: bytes, revision: int | None = None) -> int:
        """Stores a message durably; the revision. With `revision` only if that is the subject's last one, 0 for none.
        Raises RevisionError, StoreError."""
        headers = {_REVISION: str(revision)} if revision is not None else None
        with self._working():
            ack = await self._js.publish(f"{self.root}.{subject}", data, headers=headers, stream=self.root)
        return int(ack.seq)

    async def last(self, subject: str) -> tuple[int, bytes]:
        """The last message of a subject with its revision, from the stream's leader; (0, b"") without one."""
        with self._working():
            try:
                found = await self._js.get_last_msg(self.root, f"{self.root}.{subject}")
            except nats.js.errors.NotFoundError:
                return 0, b""
        return found.seq or 0, found.data or b""

    async def forget(self, revision: int) -> None:
        """Removes a message, if it is there."""
        with self._working(), contextlib.suppress(nats.js.errors.APIError):
            await self._js.delete_msg(self.root, revision)

    async def told(self, revision: int, seconds: float = TIMEOUT) -> None:
        """Until `on_message` has got everything up to a revision. Raises StoreAwayError."""
        try:
            async with asyncio.timeout(seconds):
                while self._seen < revision:
                    if self._closed.is_set():
                        raise StoreAwayError("NATS: the connection is closed")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            cause = f": {self._cause}" if self._cause else ""
            raise StoreAwayError(f"NATS does not tell of changes{cause}") from None

    async def replayed(self, revision: int) -> None:
        """As `told`, for the first reading of all."""
        await self.told(revision, _REPLAY)

    async def put_body(self, name: str, data: bytes) -> int:
        """Stores what may be larger than a message; the number of its parts. Nobody finds it but by `name`."""
        size = min(self._client.max_payload, _PART) - _HEAD
        parts = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
        with self._working():
            for i, part in enumerate(parts):
                await self._js.publish(f"{self._bodies}.{name}.{i}", part, stream=self._bodies)
        return len(parts)

    async def body(self, name: str, parts: int) -> bytes | None:
        """What `put_body` has stored; None where it is no longer."""
        with self._working():
            try:
                found = [await self._js.get_last_msg(self._bodies, f"{self._bodies}.{name}.{i}") for i in range(parts)]
            except nats.js.errors.NotFoundError:
                return None
        return b"".join(part.data or b"" for part in found)

    async def remove_bodies(self, name: str) -> None:
        """Removes every body whose name begins so."""
        with self._working():
            await self._js.purge_stream(self._bodies, subject=f"{self._bodies}.{name}.>")

    async def body_owners(self) -> set[str]:
        """The first words of all names of bodies."""
        found = set()
        with self._working():
            info = await self._js.stream_info(self._bodies, subjects_filter=f"{self._bodies}.>")
        for subject in info.state.subjects or {}:
            found.add(subject[len(self._bodies) + 1 :].partition(".")[0])
        return found

    async def _stream(self, name: str, subjects: list[str]) -> None:
        """The stream, made where it is missing. What could lose jobs is refused."""
        try:
            info: StreamInfo = await self._js.stream_info(name)
        except nats.js.errors.NotFoundError:
            wanted = StreamConfig(
                name=name,
                description="Jobs of Tidegate",
                subjects=subjects,
                storage=StorageType.FILE,
                num_replicas=self._settings.replicas,
                max_msgs_per_subject=1,
                discard=DiscardPolicy.NEW,  # a full stream refuses, and drops nothing
            )
            info = await self._js.add_stream(wanted)
        config = info.config
        kept = not config.max_age and config.discard == DiscardPolicy.NEW and config.storage == StorageType.FILE
        if not kept or config.max_msgs_per_subject != 1:
            raise StoreError(
                f"NATS: the stream {name} could lose jobs: it needs storage file, discard new, no max_age and one "
                "message per subject"
            )

    async def _on_news(self, message: Msg) -> None:
        revision = message.metadata.sequence.stream
        self._on_message(message.subject[len(self.root) + 1 :], revision, message.data)
        self._seen = revision
        self._news.set()

    def _private(self, secret: Secret) -> Secret:
        """The secret, for a server that speaks TLS where its URL says so: the client takes a server's word for it that
        there is none, and that may be the word of somebody in between. A signature is a secret, too: its nonce may be
        one that another server has given to who is in between."""
        if self._settings.tls and not self._client._server_info.get("tls_required"):
            raise StoreError("NATS: the server offers no TLS")
        return secret

    async def _on_error(self, error: Exception) -> None:
        """What fails is told to who asked, but for the reason of a connection that fails."""
        self._cause = str(error).removeprefix("nats: ") or type(error).__name__
        log.debug("NATS: %s", error)

    async def _on_closed(self) -> None:
        self._closed.set()
        self._news.set()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        if self._closed.is_set():
            raise StoreAwayError("NATS: the connection is closed")
        with _translated():
            yield


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except nats.js.errors.APIError as error:
        if error.err_code in _WRONG_REVISION:
            raise RevisionError from None
        raise StoreError(f"NATS: {error.description or error}") from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise StoreAwayError(f"NATS: {str(error).removeprefix('nats: ') or type(error).__name__}") from error


def _read(path: str) -> str:
    return Path(path).read_text("utf-8-sig").strip()


def _tls(settings: NatsSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context
