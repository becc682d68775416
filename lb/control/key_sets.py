"""Sets of public keys that issuers of tokens publish: fetched by the master, so that every worker has the same ones.

A set that cannot be fetched leaves the one in force that was fetched last. Blocks on the network, at most for a few
seconds each time: call it in a thread.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from typing import Any

from lb.config.schema.file import Config
from lb.config.units import SECOND

log = logging.getLogger("tidegate.auth")

PATIENCE = 5.0  # seconds for each step of a fetch
MOST = 1 << 20  # bytes
AGAIN = 10.0  # seconds after a fetch that failed


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever may answer for the issuer is named in the configuration, not by an answer."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class KeySets:
    """What was fetched, by URL."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._sets: dict[str, bytes] = {}
        self._due: dict[str, float] = {}  # monotonic: when it is fetched again
        self._failed: set[str] = set()

    def refresh(self, config: Config) -> dict[str, bytes]:
        """The sets that `config` names, those that are due fetched anew. One that was never fetched is empty."""
        wanted = {
            str(provider.url): (name, provider.refresh / SECOND)
            for name, provider in config.auth.items()
            if provider.url is not None
        }
        for url, (name, every) in wanted.items():
            if time.monotonic() >= self._due.get(url, 0.0):
                self._due[url] = time.monotonic() + (every if self._fetch(url, name) else min(AGAIN, every))
        return {url: self._sets.get(url, b"") for url in wanted}

    def _fetch(self, url: str, name: str) -> bool:
        try:
            with self._opener.open(url, timeout=PATIENCE) as answer:
                content = answer.read(MOST + 1)
            if len(content) > MOST:
                raise ValueError(f"is longer than {MOST} bytes")
            _check(content)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if url not in self._failed:
                kept = "the keys that are known stay" if url in self._sets else "there are none until it can be"
                log.error("auth.%s: %s cannot be used: %s; %s", name, url, error, kept)
            self._failed.add(url)
            return False
        if url in self._failed:
            log.info("auth.%s: %s was fetched", name, url)
        self._failed.discard(url)
        self._sets[url] = content
        return True


def _check(content: bytes) -> None:
    """Raises ValueError for what is no set of keys."""
    from lb.proxy.access.checks import read_key_set  # with the library that it needs

    read_key_set(content)


KEY_SETS = KeySets()
"""Those of this process: they outlive the reading of a configuration."""
