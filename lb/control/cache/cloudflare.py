"""A zone of Cloudflare: purges by tag, and by URL.

Sources: Cloudflare API, POST /zones/{zone_id}/purge_cache; "Purge cache by cache-tags"; "Purge cache", limits: 100 tags
in a request, 30 files, requests by a token bucket, of which 429 is
the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lb.cache.tags import url_of
from lb.config.schema.purge import CloudflareConfig
from lb.control.cache.cdn import CdnError

_TIMEOUT = 20.0  # seconds
_MOST_URLS = 15  # of a request, of which each is two files: by https and by http
_MOST_SAID = 200  # characters of an answer that is not understood


class Cloudflare:
    """Tags are sent as answers carry them in `Cache-Tag`. Cloudflare does not tell their case apart."""

    name = "Cloudflare"
    most = 100

    def __init__(self, options: CloudflareConfig) -> None:
        self._options = options
        self._session: Any = None

    async def purge(self, tags: Sequence[str]) -> None:
        """Raises CdnError."""
        urls = {tag: url for tag in tags if (url := url_of(tag)) is not None}
        named = [tag for tag in tags if tag not in urls]
        if named:
            await self._purge({"tags": named})
        places = list(urls.values())
        for at in range(0, len(places), _MOST_URLS):
            files = [f"{scheme}://{url}" for url in places[at : at + _MOST_URLS] for scheme in ("https", "http")]
            await self._purge({"files": files})

    async def _purge(self, wanted: dict[str, list[str]]) -> None:
        import aiohttp

        url = f"{self._options.url}/zones/{self._options.zone}/purge_cache"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT), trust_env=True)
        try:
            async with self._session.post(
                url, json=wanted, headers={"Authorization": f"Bearer {self._token()}"}
            ) as answer:
                text = await answer.text(errors="replace")
                if answer.status != 200 or not _succeeded(text):
                    raise CdnError(f"{answer.status}: {_reason(text)}", _seconds(answer.headers.get("Retry-After", "")))
        except TimeoutError:
            raise CdnError(f"no answer within {_TIMEOUT:g} s") from None
        except aiohttp.ClientError as error:
            raise CdnError(str(error) or type(error).__name__) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _token(self) -> str:
        path = self._options.token_file
        try:
            token = path.read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CdnError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
        if not token.isascii() or not token.isprintable() or not token:
            raise CdnError(f"{path}: holds no token")
        return token


def _answer(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return None


def _succeeded(text: str) -> bool:
    answer = _answer(text)
    return isinstance(answer, dict) and answer.get("success") is True


def _reason(text: str) -> str:
    """The API's own errors, or the answer's begin."""
    answer = _answer(text)
    errors = answer.get("errors") if isinstance(answer, dict) else None
    rows = [row for row in errors if isinstance(row, dict)] if isinstance(errors, list) else []
    said = "; ".join(f"{row.get('message')} ({row.get('code')})" for row in rows)
    return " ".join((said or text).split())[:_MOST_SAID] or "no reason is given"


def _seconds(text: str) -> float:
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
