"""Replicas that are pods of a workload of Kubernetes: its scale subresource, and the Lease of the daemons.

Sources: Kubernetes documentation, "Scale subresource" and "Leases"; client-go `tools/leaderelection` (the algorithm of
the lease).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lb.clock import Clock, MonotonicClock
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.engine import KubernetesEngineConfig
from lb.config.schema.pools.platforms import KubernetesConfig
from lb.config.units import SECOND
from lb.engines.engine import Engine, Seen
from lb.engines.lease import Lease, Standing, own_identity
from lb.platforms.error import ConflictError, MissingError, PlatformError
from lb.platforms.kubernetes import Kubernetes

_WORKLOADS = {"deployment": "deployments", "statefulset": "statefulsets", "replicaset": "replicasets"}
_GROUP = "tidegate.io/pool"  # label of the leases of one pool's daemons
_LOAD = "tidegate.io/load"  # annotation with a daemon's load
_LEASES = "coordination.k8s.io/v1"


class KubernetesEngine(Engine):
    """`spec.replicas` of the scale subresource; a change names the version that was read, so that the API server
    refuses it when the workload has changed since."""

    options: KubernetesEngineConfig

    def __init__(self, pool: str, options: KubernetesEngineConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._api = Kubernetes(options, MonotonicClock())

    async def look(self) -> Seen:
        scale = await self._api.get(await self._path())
        try:
            number = int(scale["spec"].get("replicas", 0))
            running = int(scale.get("status", {}).get("replicas", 0))
            return Seen(number, running, scale["metadata"]["resourceVersion"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise PlatformError(f"{self.options.target}: the answer is no Scale") from None

    async def change(self, number: int, seen: Seen) -> None:
        body = {"metadata": {"resourceVersion": seen.version}, "spec": {"replicas": number}}
        await self._api.patch(await self._path(), body)

    def describe(self) -> str:
        space = f"{self.options.namespace}/" if self.options.namespace else ""
        return f"kubernetes {space}{self.options.target}"

    async def close(self) -> None:
        await self._api.close()

    async def _path(self) -> str:
        kind, _, name = self.options.target.partition("/")
        namespace = self.options.namespace or await self._api.namespace()
        if kind in _WORKLOADS:
            return f"/apis/apps/v1/namespaces/{namespace}/{_WORKLOADS[kind]}/{name}/scale"
        resource, version, group = kind.split(".", 2)
        return f"/apis/{group}/{version}/namespaces/{namespace}/{resource}/{name}/scale"


class KubernetesLease(Lease):
    """One Lease says who leads; beside it each daemon has one of its own, with its load in an annotation."""

    def __init__(self, name: str, options: KubernetesConfig, duration: int, clock: Clock, identity: str = "") -> None:
        self.identity = identity or own_identity()
        self._name = name
        self._namespace = options.namespace
        self._api = Kubernetes(options, clock)
        self._duration = duration
        self._clock = clock
        self._observed: tuple[Any, ...] = ()  # the record as it was last, and since when on our clock
        self._observed_at = 0

    async def renew(self, load: str) -> Standing:
        base = await self._base()
        await self._publish(base, load)
        said = await self._said(base)
        now = self._clock.now()
        try:
            lease = await self._api.get(f"{base}/{self._name}")
        except MissingError:
            lease = await self._take_new(base)
        else:
            lease = await self._renew(base, lease, now)
        return Standing(_holder(lease), int(lease["spec"].get("leaseTransitions") or 0), said)

    async def confirm(self, token: int) -> None:
        lease = await self._api.get(f"{await self._base()}/{self._name}")
        if _holder(lease) != self.identity or int(lease["spec"].get("leaseTransitions") or 0) != token:
            raise ConflictError(f"the lease {self._name} is {_holder(lease) or 'nobody'}'s")

    async def resign(self) -> None:
        base = await self._base()
        await self.forget(self.identity)
        try:
            lease = await self._api.get(f"{base}/{self._name}")
        except MissingError:
            return
        if _holder(lease) == self.identity:
            # As client-go does it: nobody holds it, and for one second only.
            spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time()}
            await self._api.update(f"{base}/{self._name}", {**lease, "spec": spec})

    async def forget(self, identity: str) -> None:
        try:
            await self._api.delete(f"{await self._base()}/{self._own(identity)}")
        except MissingError:
            return

    def describe(self) -> str:
        space = f"{self._namespace}/" if self._namespace else ""
        return f"kubernetes lease {space}{self._name}"

    async def close(self) -> None:
        await self._api.close()

    async def _base(self) -> str:
        return f"/apis/{_LEASES}/namespaces/{self._namespace or await self._api.namespace()}/leases"

    def _own(self, identity: str) -> str:
        return f"{self._name}.{identity}"

    async def _renew(self, base: str, lease: dict[str, Any], now: int) -> dict[str, Any]:
        """The lease as it is after we have renewed or taken it, or as somebody else has it."""
        spec = lease["spec"]
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._observed:
            self._observed, self._observed_at = record, now
        ours = _holder(lease) == self.identity
        seconds = int(spec.get("leaseDurationSeconds") or self._seconds)
        if not ours and _holder(lease) and now - self._observed_at < seconds * SECOND:
            return lease
        moved = {
            **spec,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._seconds,
            "renewTime": micro_time(),
        }
        if not ours:
            moved["acquireTime"] = moved["renewTime"]
            moved["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        try:
            # With its resourceVersion: of two that take it at the same moment, one gets 409.
            return await self._api.update(f"{base}/{self._name}", {**lease, "spec": moved})
        except ConflictError:
            return await self._api.get(f"{base}/{self._name}")

    async def _take_new(self, base: str) -> dict[str, Any]:
        now = micro_time()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        }
        body = {"apiVersion": _LEASES, "kind": "Lease", "metadata": {"name": self._name}, "spec": spec}
        try:
            return await self._api.create(base, body)
        except ConflictError:  # AlreadyExists
            return await self._api.get(f"{base}/{self._name}")

    async def _publish(self, base: str, load: str) -> None:
        name = self._own(self.identity)
        metadata = {"name": name, "labels": {_GROUP: self._name}, "annotations": {_LOAD: load}}
        spec = {"holderIdentity": self.identity, "leaseDurationSeconds": self._seconds, "renewTime": micro_time()}
        body = {"apiVersion": _LEASES, "kind": "Lease", "metadata": metadata, "spec": spec}
        try:
            await self._api.patch(f"{base}/{name}", body)
        except MissingError:
            await self._api.create(base, body)

    async def _said(self, base: str) -> dict[str, str]:
        answer = await self._api.get(base, labelSelector=f"{_GROUP}={self._name}")
        try:
            found = {item["spec"]["holderIdentity"]: _annotation(item, _LOAD) for item in answer.get("items") or ()}
        except (KeyError, TypeError):
            raise PlatformError(f"{base}: the answer is no list of Leases") from None
        return {identity: said for identity, said in found.items() if identity != self.identity}

    @property
    def _seconds(self) -> int:
        return -(-self._duration // SECOND)


def micro_time() -> str:
    """Now, as a MicroTime of Kubernetes: RFC 3339 in UTC with six digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _holder(lease: Mapping[str, Any]) -> str:
    return str(lease["spec"].get("holderIdentity") or "")


def _annotation(item: Mapping[str, Any], name: str) -> str:
    return str((item["metadata"].get("annotations") or {}).get(name) or "")
