"""Sets of public keys that issuers of tokens publish: fetched by the master, so that every worker has the same ones.

A set that cannot be fetched leaves the one in force that was fetched last. Blocks on the network: call it in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from lb.config.schema.file import Config
from lb.config.units import SECOND

log = logging.getLogger("tidegate.auth")

PATIENCE = 5.0  # seconds for a whole answer, however slowly it comes
MOST = 1 << 20  # bytes
AGAIN = 10.0  # seconds after a fetch that failed


class KeySets:
    """What was fetched, by URL. `clock` gives seconds that only grow."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()  # a reload and the watch of files may come at once
        self._sets: dict[str, bytes] = {}
        self._due: dict[str, float] = {}  # by the clock: when it is fetched again
        self._failed: set[str] = set()

    def refresh(self, config: Config) -> dict[str, bytes]:
        """The sets that `config` names, those that are due fetched anew, all at once: whoever asks waits for the
        slowest, at most PATIENCE and the time of a look-up of its name. One that was never fetched is empty."""
        wanted = {
            str(provider.url): (name, provider.refresh / SECOND)
            for name, provider in config.auth.items()
            if provider.url is not None
        }
        with self._lock:
            due = [url for url in wanted if self._clock() >= self._due.get(url, 0.0)]
            if due:
                for url, found in self._fetched(due).items():
                    name, every = wanted[url]
                    taken = self._take(url, name, found)
                    self._due[url] = self._clock() + (every if taken else min(AGAIN, every))
            return {url: self._sets.get(url, b"") for url in wanted}

    def _fetched(self, urls: list[str]) -> Mapping[str, bytes | Exception]:
        """The content of each, or why there is none. In a thread of its own, since the caller may have a loop."""
        with ThreadPoolExecutor(1, "key-sets") as thread:
            return thread.submit(asyncio.run, _fetch_all(urls, self._patience)).result()

    def _take(self, url: str, name: str, found: bytes | Exception) -> bool:
        try:
            if isinstance(found, Exception):
                raise found
            _check(found)
        except Exception as error:  # whatever it is, the other sets are not to blame
            if url not in self._failed:
                kept = "the keys that are known stay" if url in self._sets else "there are none until it can be"
                log.error("auth.%s: %s cannot be used: %s; %s", name, url, error or type(error).__name__, kept)
            self._failed.add(url)
            return False
        if url in self._failed:
            log.info("auth.%s: %s was fetched", name, url)
        self._failed.discard(url)
        self._sets[url] = found
        return True


async def _fetch_all(urls: list[str], patience: float) -> dict[str, bytes | Exception]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=patience)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session:

        async def fetch(url: str) -> bytes | Exception:
            try:
                # Whoever may answer for the issuer is named in the configuration, not by an answer: no redirects.
                headers = {"Accept-Encoding": "identity"}
                async with session.get(url, headers=headers, allow_redirects=False) as answer:
                    if answer.status != 200:
                        return ValueError(f"its answer has the status {answer.status}")
                    content = bytearray()
                    async for piece in answer.content.iter_any():
                        content += piece
                        if len(content) > MOST:
                            return ValueError(f"is longer than {MOST} bytes")
                    return bytes(content)
            except TimeoutError:
                return TimeoutError(f"it has not answered as a whole within {patience:g} s")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return error

        return dict(zip(urls, await asyncio.gather(*map(fetch, urls)), strict=True))


def _check(content: bytes) -> None:
    """Raises ValueError for what is no set of keys."""
    from lb.proxy.access.checks import read_key_set  # with the library that it needs

    read_key_set(content)


KEY_SETS = KeySets()
"""Those of this process: they outlive the reading of a configuration."""
