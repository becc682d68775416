"""Endpoints from the EndpointSlices of a Kubernetes service: listed once, then watched.

Source: Kubernetes documentation, "EndpointSlices" (conditions, ports, duplicates) and "Efficient detection of changes"
(resourceVersion, bookmarks, 410 Gone).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, cast

from msgspec import Struct

from lb.clock import MonotonicClock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.platforms import KubernetesSourceConfig
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.static import literal
from lb.platforms.error import GoneError, PlatformError
from lb.platforms.kubernetes import Kubernetes

GATHER = 0.05  # s, for which events that follow one another closely are taken together: a rollout sends many

_Slices = dict[str, Mapping[str, Any]]


class Place(Struct, frozen=True):
    """What a slice says of one address: whether it takes requests, and whether it does so while it ends."""

    ready: bool
    ending: bool  # still serves, and terminates
    zone: str


class KubernetesSource(Source):
    """`look` lists at first and whenever the server has forgotten what came since; else it waits for a change."""

    Options = KubernetesSourceConfig
    options: KubernetesSourceConfig

    def __init__(self, pool: str, options: KubernetesSourceConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._api = Kubernetes(options, MonotonicClock())
        self._slices: _Slices = {}
        self._version = ""  # of what `_slices` holds; "": list

    async def look(self) -> Found:
        """Raises DiscoveryError when the API server gives no usable answer, or the service has no such port."""
        try:
            path = f"/apis/discovery.k8s.io/v1/namespaces/{await self._namespace()}/endpointslices"
            if self._version:
                await self._follow(path)
            if not self._version:  # at first, and when the server has forgotten what came since
                await self._list(path)
            return Found(self._specs(await self._namespace()), 0)
        except PlatformError as error:
            raise DiscoveryError(str(error)) from None

    def describe(self) -> str:
        space = f"{self.options.namespace}/" if self.options.namespace else ""
        port = f":{self.options.port}" if self.options.port is not None else ""
        return f"service {space}{self.options.service}{port}"

    async def close(self) -> None:
        await self._api.close()

    async def _namespace(self) -> str:
        return self.options.namespace or await self._api.namespace()

    @property
    def _selector(self) -> str:
        return f"kubernetes.io/service-name={self.options.service}"

    async def _list(self, path: str) -> None:
        answer = await self._api.get(path, labelSelector=self._selector)
        try:
            slices = {item["metadata"]["name"]: item for item in answer["items"] or ()}
            version = answer["metadata"]["resourceVersion"]
        except (KeyError, TypeError):
            raise DiscoveryError(f"{path}: the answer is no list of EndpointSlices") from None
        self._slices, self._version = slices, version

    async def _follow(self, path: str) -> None:
        """Returns with the first events, or when the server ends the watch; after 410 there is no version."""
        events = cast(
            "AsyncGenerator[dict[str, Any]]", self._api.watch(path, self._version, labelSelector=self._selector)
        )
        coming = None
        try:
            coming = asyncio.ensure_future(anext(events, None))
            there = self._take(await coming)
            while there:
                coming = asyncio.ensure_future(anext(events, None))
                done, _ = await asyncio.wait([coming], timeout=GATHER)
                there = bool(done) and self._take(coming.result())
        except GoneError:
            self._version = ""
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait([coming])
            await events.aclose()

    def _take(self, event: Mapping[str, Any] | None) -> bool:
        """Whether there was an event."""
        if event is None:
            return False
        try:
            item = event["object"]
            if event["type"] in ("ADDED", "MODIFIED"):
                self._slices[item["metadata"]["name"]] = item
            elif event["type"] == "DELETED":
                self._slices.pop(item["metadata"]["name"], None)
            self._version = item["metadata"]["resourceVersion"]
        except (KeyError, TypeError):
            self._version = ""
            raise DiscoveryError("an event of EndpointSlices is not one") from None
        return True

    def _specs(self, namespace: str) -> tuple[EndpointSpec, ...]:
        places: dict[str, Place] = {}
        for item in self._slices.values():
            for address, place in self._places(item):
                known = places.get(address)
                # While an endpoint moves from one slice to another, both may name it: one that says ready is newer.
                if known is None or (place.ready and not known.ready):
                    places[address] = place
        chosen = [address for address, place in places.items() if place.ready]
        # When all of them end, requests go to those that still serve, as kube-proxy has it.
        chosen = chosen or [address for address, place in places.items() if place.ending]
        host = f"{self.options.service}.{namespace}.svc"
        return tuple(EndpointSpec(address, host=host, zone=places[address].zone) for address in sorted(chosen))

    def _places(self, item: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
        if item.get("addressType") not in ("IPv4", "IPv6") or not item.get("endpoints"):
            return
        port = self._port(item.get("ports") or [])
        for endpoint in item["endpoints"]:
            # The addresses of one endpoint lead to the same pod: only the first is meant to be used.
            address = literal(str((endpoint.get("addresses") or [""])[0]), port)
            if address is None:
                continue
            conditions = endpoint.get("conditions") or {}
            ready = conditions.get("ready") is not False  # unknown is to be taken for ready
            serving = ready if conditions.get("serving") is None else bool(conditions["serving"])
            ending = serving and bool(conditions.get("terminating"))
            yield str(address), Place(ready, ending, endpoint.get("zone") or "")

    def _port(self, ports: list[Mapping[str, Any]]) -> int:
        wanted = self.options.port
        known = [p for p in ports if p.get("port") and p.get("protocol", "TCP") == _transport(self.config)]
        found = [p for p in known if wanted in (None, p.get("name"), p["port"], str(p["port"]))]
        if len(found) != 1:
            names = ", ".join(str(p.get("name") or p["port"]) for p in known) or "none"
            why = "has several ports; name one as port" if wanted is None and known else f"has no port {wanted or ''}"
            raise DiscoveryError(f"service {self.options.service} {why.strip()}: there is {names}")
        return int(found[0]["port"])


def _transport(pool: PoolConfig) -> str:
    return "UDP" if pool.protocol == "udp" else "TCP"
