"""HTTP check: a GET is answered with one of the expected status codes."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from yarl import URL

from lb.config.schema import HealthConfig
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.tls import CheckTls


class HttpCheck:
    """Passes on an HTTP/1.1 answer whose status is in `status`; redirects are answers, the body is not read."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._path = config.path
        self._status = frozenset(config.status)
        self._host = config.host

    async def run(self, address: str) -> None:
        target = sockaddr(address)
        connector: aiohttp.BaseConnector
        if target.family == socket.AF_UNIX:
            connector = aiohttp.UnixConnector(str(target.value), force_close=True)
            authority = "localhost"
        else:
            connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
            authority = address
        headers = {"User-Agent": "tidegate-health", "Host": self._host or authority}
        # The path is sent as it was configured, not normalised.
        url = URL(f"{'http' if self._tls is None else 'https'}://{authority}{self._path}", encoded=True)
        try:
            secure: dict[str, Any] = {} if self._tls is None else _secure(self._tls)
            # A connection of its own, so that each check also proves that the endpoint still accepts.
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=None),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                ) as session,
                session.get(url, headers=headers, allow_redirects=False, **secure) as response,
            ):
                status = response.status
                response.close()
        except aiohttp.ClientConnectorCertificateError as e:
            error = e.certificate_error
            raise CheckFailed(explain(error) if isinstance(error, OSError) else str(error)) from e
        except aiohttp.ClientConnectorError as e:
            raise CheckFailed(explain(e.os_error)) from e
        except aiohttp.ServerDisconnectedError as e:
            raise CheckFailed("connection closed without an answer") from e
        except aiohttp.ClientResponseError as e:
            raise CheckFailed(f"no valid HTTP answer: {e.message.splitlines()[0] if e.message else e.status}") from e
        except aiohttp.ClientError as e:
            raise CheckFailed(str(e) or type(e).__name__) from e
        except OSError as e:
            raise CheckFailed(explain(e)) from e
        if status not in self._status:
            raise CheckFailed(f"status {status}")


def _secure(tls: CheckTls) -> dict[str, Any]:
    return {"ssl": tls.context(("http/1.1",)), "server_hostname": tls.server_name}
