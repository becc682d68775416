"""A job's request to the daemon's own listener, by aiohttp."""

from __future__ import annotations

import aiohttp
from yarl import URL

from lb.jobs.job import Answer, Attempt
from lb.jobs.options import passed_on, values
from lb.jobs.runner import CallError
from lb.jobs.settings import HEAD_FIELDS, HEAD_LINE, ROUTE_FIELD

MAX_ANSWER = 64 << 20  # bytes of a body that is kept
_PIECE = 256 << 10


class Calls:
    """Sends requests to the Unix socket `path`. Belongs to the running loop."""

    def __init__(self, path: str) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # the job's deadline is the runner's
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=HEAD_LINE,
            max_field_size=HEAD_LINE,
            max_headers=HEAD_FIELDS,
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, attempt: Attempt) -> Answer:
        """The answer to one attempt. Raises CallError."""
        request = attempt.request
        fields = [*request.fields, (ROUTE_FIELD, attempt.route)]
        if not values(fields, "idempotency-key"):
            fields.append(("Idempotency-Key", attempt.id))
        try:
            async with self._session.request(
                request.method,
                URL(f"http://job{request.target}", encoded=True),
                headers=fields,
                data=request.body or None,
                allow_redirects=False,
            ) as response:
                body = bytearray()
                async for piece in response.content.iter_chunked(_PIECE):
                    body += piece
                    if len(body) > MAX_ANSWER:
                        text = f"the answer is longer than {MAX_ANSWER} bytes"
                        return Answer(413, [("Content-Type", "text/plain")], text.encode())
                found = [(name.decode("latin-1"), text_of(value)) for name, value in response.raw_headers]
                return Answer(response.status, passed_on(found), bytes(body))
        except aiohttp.ClientConnectorError as error:
            raise CallError(f"the daemon is not there: {error.os_error.strerror}", begun=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallError(f"no whole answer: {error or type(error).__name__}", begun=True) from error


def text_of(value: bytes) -> str:
    """A field's value as text that aiohttp writes as the same bytes, where it is UTF-8; else as characters of
    ISO-8859-1 (RFC 9110 section 5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
