"""The Compute Engine API of Google Cloud: JSON over HTTP with the token that google-auth finds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from lb.config.schema.pools.platforms import GcpConfig
from lb.platforms.error import MissingError, PlatformError

if TYPE_CHECKING:
    import aiohttp

URL = "https://compute.googleapis.com/compute/v1"
SCOPE = "https://www.googleapis.com/auth/compute"
TIMEOUT = 10  # s


class Gcp:
    """One managed instance group, and as whom it is asked about. Calls raise PlatformError; MissingError for 404."""

    def __init__(self, options: GcpConfig) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._credentials: Any = None

    @property
    def place(self) -> str:
        """The part of a path that says project and zone or region."""
        o = self._options
        where = f"zones/{o.zone}" if o.zone is not None else f"regions/{o.region}"
        return f"/projects/{o.project}/{where}"

    @property
    def group(self) -> str:
        """The path of the group."""
        return f"{self.place}/instanceGroupManagers/{self._options.group}"

    async def ask(self, method: str, path: str, **query: str) -> dict[str, Any]:
        """The answer as a decoded object; a path begins with a slash, or is a whole URL of the API."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        base = self._options.api or URL
        url = path if path.startswith("http") else f"{base}{path}"
        headers = {"Accept": "application/json", **await self._authorization()}
        try:
            async with self._session.request(method, url, params=query, headers=headers) as answer:
                status, body = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PlatformError(" ".join(f"{path}: {error or 'no answer in time'}".split())) from None
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = {}
        if not 200 <= status < 300 or not isinstance(said, dict):
            reason = said.get("error", {}).get("message") if isinstance(said, dict) else None
            kind = MissingError if status == 404 else PlatformError
            raise kind(" ".join(f"{path}: {reason or f'status {status}'}".split()), status)
        return said

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _authorization(self) -> dict[str, str]:
        if self._options.api is not None:
            return {}
        try:
            token = await asyncio.to_thread(self._token)
        except ImportError:
            raise PlatformError("Google Cloud needs the package google-auth: pip install 'tidegate[gcp]'") from None
        except Exception as error:  # of google-auth, whose kinds are not to be named without it
            raise PlatformError(" ".join(f"no credentials of Google Cloud: {error}".split())) from None
        return {"Authorization": f"Bearer {token}"}

    def _token(self) -> str:
        import google.auth
        import google.auth.transport.requests

        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=[SCOPE])
        if not self._credentials.valid:
            self._credentials.refresh(google.auth.transport.requests.Request())
        return str(self._credentials.token)


async def managed_instances(gcp: Gcp) -> list[dict[str, Any]]:
    """The instances that the group manages, those included that it makes or deletes."""
    rows: list[dict[str, Any]] = []
    page = ""
    while True:
        answer = await gcp.ask("POST", f"{gcp.group}/listManagedInstances", **({"pageToken": page} if page else {}))
        rows += answer.get("managedInstances") or []
        page = answer.get("nextPageToken") or ""
        if not page:
            return rows


def is_running(row: Mapping[str, Any]) -> bool:
    """Whether a managed instance serves, and is to go on doing so."""
    return row.get("instanceStatus") == "RUNNING" and row.get("currentAction", "NONE") in _SERVING


_SERVING = ("NONE", "VERIFYING", "REFRESHING")
