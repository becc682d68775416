"""The CDNs of the configuration in force."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lb.config.schema.file import CacheConfig
from lb.config.schema.purge import PurgeConfig
from lb.control.background import Background
from lb.control.cache.cdn import Cdn, CdnPurges

log = logging.getLogger("tidegate.cache")


class Cdns:
    """`apply` follows the configuration; `purged` is told of purges. On the loop."""

    def __init__(self) -> None:
        self._config: PurgeConfig | None = None
        self._background = Background(log, "a CDN's purges were not ended")
        self._running: list[CdnPurges] = []

    def apply(self, cache: CacheConfig | None) -> None:
        """From now on these are told. What waits for those before gets a last try."""
        config = cache.purge if cache is not None else None
        if config == self._config:
            return
        for purges in self._running:
            self._background.spawn(purges.close())
        self._running, self._config = [CdnPurges(cdn) for cdn in _made(config)], config

    def purged(self, tags: Sequence[str]) -> None:
        for purges in self._running:
            purges.add(tags)

    def status(self) -> list[dict[str, Any]]:
        return [purges.status() for purges in self._running]

    async def close(self) -> None:
        self.apply(None)
        await self._background.wait()


def _made(config: PurgeConfig | None) -> list[Cdn]:
    """Imported where they are used."""
    found: list[Cdn] = []
    if config is not None and config.cloudflare is not None:
        from lb.control.cache.cloudflare import Cloudflare

        found.append(Cloudflare(config.cloudflare))
    if config is not None and config.cloudfront is not None:
        from lb.control.cache.cloudfront import CloudFront

        found.append(CloudFront(config.cloudfront))
    return found
