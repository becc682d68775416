"""HTTP check: a request is answered with one of the expected status codes, and a body that says the right thing."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from yarl import URL

from lb.config.health import BodyMatchConfig, status_codes
from lb.config.schema import HealthConfig
from lb.core.regex import Regex
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.tls import CheckTls

# What aiohttp says of its own accord: checks want the body as it is, and have none themselves.
_UNSAID = ("Accept-Encoding", "Content-Type")
_HEAD = 65_536  # bytes of an answer's head and of each of its fields, as towards the workers (lb/upstream/http1.pyx)


class HttpCheck:
    """Passes on an HTTP/1.1 answer whose status is in `status` and whose body has what `body` says.

    Redirects are answers. The body is only read where it matters, as it is on the wire, and only up to a limit.
    """

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._path = config.path
        self._method = config.method
        named = any(name.lower() == "user-agent" for name in config.headers)
        self._headers = {**config.headers, **({} if named else {"User-Agent": "tidegate-health"})}
        self._status = frozenset(code for entry in config.status for code in status_codes(entry))
        self._host = config.host
        self._body = BodyMatch(config.body) if config.body is not None else None

    async def run(self, address: str) -> None:
        target = sockaddr(address)
        connector: aiohttp.BaseConnector
        if target.family == socket.AF_UNIX:
            connector = aiohttp.UnixConnector(str(target.value), force_close=True)
            authority = "localhost"
        else:
            connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
            authority = address
        headers = {"Host": self._host or authority, **self._headers}
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
                    skip_auto_headers=_UNSAID,
                    max_line_size=_HEAD,
                    max_field_size=_HEAD,
                    max_headers=_HEAD,
                ) as session,
                session.request(self._method, url, headers=headers, allow_redirects=False, **secure) as response,
            ):
                status = response.status
                found = status not in self._status or self._body is None or await self._body.found_in(response.content)
                response.close()
        except aiohttp.ClientConnectorCertificateError as e:
            error = e.certificate_error
            raise CheckFailed(explain(error) if isinstance(error, OSError) else str(error)) from e
        except aiohttp.ClientConnectorError as e:
            raise CheckFailed(explain(e.os_error)) from e
        except aiohttp.ServerDisconnectedError as e:
            raise CheckFailed("connection closed without an answer") from e
        except aiohttp.ClientConnectionResetError as e:  # aiohttp's own words, not the system's
            raise CheckFailed("closed, or no HTTP spoken, before the request could be sent") from e
        except aiohttp.ClientResponseError as e:
            said = e.message.splitlines()[0].removesuffix(":") if e.message else e.status
            raise CheckFailed(f"no valid HTTP answer: {said}") from e
        except OSError as e:  # aiohttp's ClientOSError, too
            raise CheckFailed(explain(e)) from e
        except aiohttp.ClientError as e:
            raise CheckFailed(str(e) or type(e).__name__) from e
        if status not in self._status:
            raise CheckFailed(f"status {status}")
        if not found:
            raise CheckFailed(f"status {status}, but {self._body} was not found in the body")


class BodyMatch:
    """What a body has to contain, looked for in its first bytes."""

    def __init__(self, config: BodyMatchConfig) -> None:
        self._limit = config.limit
        self._text = config.contains.encode() if config.contains is not None else b""
        self._regex = Regex(config.regex.encode()) if config.regex is not None else None
        self._name = repr(config.contains if config.contains is not None else config.regex)

    def __str__(self) -> str:
        return self._name

    async def found_in(self, body: aiohttp.StreamReader) -> bool:
        """Reads no further than it has to where plain text is looked for, and never past the limit."""
        came = bytearray()
        while len(came) < self._limit:
            piece = await body.read(self._limit - len(came))
            if not piece:
                break
            came += piece
            if self._regex is None and self._text in came:
                return True
        return self._text in came if self._regex is None else self._regex.matches(bytes(came))


def _secure(tls: CheckTls) -> dict[str, Any]:
    return {"ssl": tls.context(("http/1.1",)), "server_hostname": tls.server_name}
