"""The API of Kubernetes: JSON over HTTP, with watches and the conflicts of optimistic concurrency.

Source: Kubernetes documentation, "Kubernetes API Concepts". aiohttp is loaded with the first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from lb.clock import Clock
from lb.config.schema.pools.platforms import KubernetesConfig
from lb.platforms.error import ConflictError, GoneError, MissingError, PlatformError
from lb.platforms.kubernetes_account import Account, find_account

if TYPE_CHECKING:
    import aiohttp

TIMEOUT = 10  # s, of a request that is no watch
WATCH = 60  # s, for which the server keeps a watch open
SILENCE = WATCH + 15  # s without a byte, after which the connection of a watch is dead
MAX_LINE = 32 << 20  # bytes of one event of a watch; etcd keeps objects of 1.5 MiB
MERGE_PATCH = "application/merge-patch+json"


class Kubernetes:
    """One user of one cluster. Paths begin with `/api/` or `/apis/`; answers are the decoded objects.

    Every call raises PlatformError: ConflictError for 409, GoneError for 410, MissingError for 404.
    """

    def __init__(self, where: KubernetesConfig, clock: Clock) -> None:
        self._where = where
        self._clock = clock
        self._account: Account | None = None
        self._session: aiohttp.ClientSession | None = None

    async def namespace(self) -> str:
        """The namespace that is meant where none is named."""
        return (await self._known()).namespace

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        return await self._ask("GET", path, query=query)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask("POST", path, body)

    async def update(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces an object; with `metadata.resourceVersion` in it only as it was read."""
        return await self._ask("PUT", path, body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merges `body` into an object (RFC 7386); with `metadata.resourceVersion` in it only as it was read."""
        return await self._ask("PATCH", path, body, kind=MERGE_PATCH)

    async def delete(self, path: str) -> None:
        await self._ask("DELETE", path)

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a list since `version`, bookmarks included; ends when the server ends it, after a minute."""
        more = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH),
        }  # fmt: skip
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE)
        async with self._open("GET", path, {**query, **more}, timeout=timeout) as answer:
            async for line in _lines(answer, path):
                event = _decode(line, path)
                if event.get("type") == "ERROR":
                    raise _refusal(path, int(event.get("object", {}).get("code", 0)), event.get("object"))
                yield event

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        import aiohttp

        data = None if body is None else orjson.dumps(body)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with self._open(method, path, query or {}, data=data, kind=kind, timeout=timeout) as answer:
            return _decode(await answer.read(), path)

    def _open(self, method: str, path: str, query: Mapping[str, str], **more: Any) -> _Opened:
        return _Opened(self, method, path, query, more)

    async def _known(self) -> Account:
        if self._account is None:
            self._account = await asyncio.to_thread(find_account, self._where)
        return self._account

    async def _connect(self) -> tuple[aiohttp.ClientSession, Account, str]:
        account = await self._known()
        if self._session is None:
            import aiohttp

            # A proxy of the environment would see the credentials of the cluster.
            self._session = aiohttp.ClientSession(auto_decompress=True)
        return self._session, account, await account.authorization(self._clock.now())


class _Opened:
    """An answer of 2xx, as long as it is read; anything else raises."""

    def __init__(
        self, api: Kubernetes, method: str, path: str, query: Mapping[str, str], more: Mapping[str, Any]
    ) -> None:
        self._api = api
        self._method = method
        self._path = path
        self._query = query
        self._more = dict(more)
        self._answer: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        session, account, authorization = await self._api._connect()
        headers = {"Accept": "application/json", "User-Agent": "tidegate"}
        kind = self._more.pop("kind", "application/json")
        if self._more.get("data") is not None:
            headers["Content-Type"] = kind
        if authorization:
            headers["Authorization"] = authorization
        url = f"{account.server}{self._path}"
        try:
            answer = await session.request(
                self._method,
                url,
                params=self._query,
                headers=headers,
                allow_redirects=False,
                ssl=account.tls or True,
                **self._more,
            )
        except Exception as error:
            raise _translated(self._path, error) from None
        self._answer = answer
        if answer.status == 401:
            account.refused()
        if not 200 <= answer.status < 300:
            try:
                said = _decode(await answer.read(), self._path)
            except Exception:
                said = {}
            answer.release()
            raise _refusal(self._path, answer.status, said)
        return answer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._answer is not None:
            # The rest of a watch that is given up never ends.
            self._answer.close()
        if isinstance(error, Exception) and not isinstance(error, PlatformError):
            raise _translated(self._path, error) from None


async def _lines(answer: aiohttp.ClientResponse, path: str) -> AsyncIterator[bytes]:
    """The lines of a body, however long: aiohttp's own have a limit that a large object exceeds."""
    rest = bytearray()
    async for chunk in answer.content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                if line.strip():
                    yield line
        if len(rest) > MAX_LINE:
            raise PlatformError(f"{path}: an event is longer than {MAX_LINE} bytes")


def _decode(body: bytes, path: str) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PlatformError(f"{path}: the answer is no JSON") from None
    if not isinstance(document, dict):
        raise PlatformError(f"{path}: the answer is no object")
    return document


def _refusal(path: str, code: int, said: Any) -> PlatformError:
    """The error of an object of kind Status."""
    message = said.get("message") if isinstance(said, dict) else None
    text = " ".join(f"{path}: {message or f'status {code}'}".split())
    kinds: dict[int, type[PlatformError]] = {404: MissingError, 409: ConflictError, 410: GoneError}
    return kinds.get(code, PlatformError)(text, code)


def _translated(path: str, error: Exception) -> PlatformError:
    if isinstance(error, PlatformError):
        return error
    if isinstance(error, TimeoutError):
        return PlatformError(f"{path}: no answer in time")
    return PlatformError(" ".join(f"{path}: {error or type(error).__name__}".split()))
