"""An emulation of the part of the Kubernetes API that Tidegate uses: a real HTTP server over objects in memory.

It is no Kubernetes: nothing schedules, no controller runs. What it has is what clients depend on: resourceVersions
that grow, conflicts (409), watches from a version with bookmarks, 410 for versions that are too old, merge patches, the
scale subresource, label selectors, objects of kind Status. Tests play the controllers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

KEPT = 1000  # events of before that a watch may ask for


class EmulatedKubernetes:
    """`start` gives the URL. `objects` are by path; `fault`, a status, is the answer to everything while it is set."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, dict[str, Any]] = {}
        self.fault = 0
        self.token = ""  # asked for where it is set
        self.delay = 0.0
        self.bookmarks = 0.1  # s between two bookmarks of a watch
        self.watch_seconds = 3600.0
        self.requests: list[tuple[str, str]] = []
        self._version = 100
        self._oldest = 0
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self.url

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # What a test does as a controller or an operator.

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates or replaces an object, whatever its version."""
        kind = "MODIFIED" if path in self.objects else "ADDED"
        name = path.rpartition("/")[2]
        metadata = {**dict(body.get("metadata") or {}), "name": name, "resourceVersion": self._next()}
        self.objects[path] = {**body, "metadata": metadata}
        self._note(kind, path)
        return self.objects[path]

    def remove(self, path: str) -> None:
        gone = {**self.objects[path]}
        gone["metadata"] = {**gone["metadata"], "resourceVersion": self._next()}
        self.objects[path] = gone
        self._note("DELETED", path)
        del self.objects[path]

    def forget_events(self) -> None:
        """As etcd's compaction: watches from versions of before get 410."""
        self._oldest = self._version
        self._events.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    def deployment(self, name: str, replicas: int, namespace: str = "default") -> None:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas}}
        self.put(path, {**body, "status": {"replicas": replicas}})

    def replicas(self, name: str, namespace: str = "default") -> int:
        found: int = self.objects[f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["spec"]["replicas"]
        return found

    def slice(self, name: str, service: str, endpoints: list[dict[str, Any]], **more: Any) -> None:
        """An EndpointSlice of a service in the namespace `default`; `endpoints` in the form of the API."""
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 9001}],
            "endpoints": endpoints,
            **more,
        }
        self.put(f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}", body)

    def lease(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.objects[f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}"]
        return found

    # The API.

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.fault:
            return _status(self.fault, "the fault that the test asked for")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        path, scale = request.path, request.path.endswith("/scale")
        path = path.removesuffix("/scale")
        if request.method == "GET" and path in self.objects:
            return _json(_scale(self.objects[path]) if scale else self.objects[path])
        if request.method == "GET" and path.rpartition("/")[2] in ("endpointslices", "leases"):
            if request.query.get("watch") == "true":
                return await self._watch(request)
            items = [item for _, item in self._listed(request)]
            return _json({"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items})
        if request.method == "POST":
            return self._create(path, await request.json())
        if path not in self.objects:
            return _status(404, f'"{path.rpartition("/")[2]}" not found')
        if request.method == "DELETE":
            self.remove(path)
            return _json({"kind": "Status", "status": "Success"})
        return self._write(path, await request.json(), request.method, scale)

    def _create(self, path: str, body: dict[str, Any]) -> web.Response:
        place = f"{path}/{body['metadata']['name']}"
        if place in self.objects:
            return _status(409, f'"{body["metadata"]["name"]}" already exists')
        return _json(self.put(place, body), 201)

    def _write(self, path: str, body: dict[str, Any], method: str, scale: bool) -> web.Response:
        before = self.objects[path]
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, "", before["metadata"]["resourceVersion"]):
            return _status(409, "the object has been modified; please apply your changes to the latest version")
        if scale:
            spec = {**before["spec"], "replicas": body["spec"]["replicas"]}
            return _json(_scale(self.put(path, {**before, "spec": spec})))
        return _json(self.put(path, _merged(before, body) if method == "PATCH" else body))

    def _listed(self, request: web.Request) -> list[tuple[str, dict[str, Any]]]:
        found = [(p, item) for p, item in self.objects.items() if p.rpartition("/")[0] == request.path]
        return [(p, item) for p, item in found if _selected(item, request.query.get("labelSelector", ""))]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):  # of a client that leaves
            await self._tell(request, answer)
        return answer

    async def _tell(self, request: web.Request, answer: web.StreamResponse) -> None:
        at = int(request.query["resourceVersion"])
        end = asyncio.get_running_loop().time() + min(self.watch_seconds, float(request.query["timeoutSeconds"]))
        while asyncio.get_running_loop().time() < end and not self.fault:
            if at < self._oldest:
                gone = {
                    "kind": "Status",
                    "code": 410,
                    "reason": "Expired",
                    "message": f"too old resource version: {at}",
                }
                await _send(answer, {"type": "ERROR", "object": gone})
                break
            changed = self._changed
            for version, kind, item in list(self._events):
                ours = item["path"].rpartition("/")[0] == request.path
                if version > at and ours and _selected(item["object"], request.query.get("labelSelector", "")):
                    await _send(answer, {"type": kind, "object": item["object"]})
                at = max(at, version)
            try:
                async with asyncio.timeout(self.bookmarks):
                    await changed.wait()
            except TimeoutError:
                mark = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(at)}}
                await _send(answer, {"type": "BOOKMARK", "object": mark})

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    def _note(self, kind: str, path: str) -> None:
        self._events.append((self._version, kind, {"path": path, "object": self.objects[path]}))
        del self._events[:-KEPT]
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _scale(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {key: item["metadata"][key] for key in ("name", "resourceVersion")},
        "spec": {"replicas": item["spec"]["replicas"]},
        "status": {"replicas": item.get("status", {}).get("replicas", 0)},
    }


def _selected(item: Mapping[str, Any], selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _status(code: int, message: str) -> web.Response:
    return _json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}, code)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")


async def _send(answer: web.StreamResponse, event: Mapping[str, Any]) -> None:
    await answer.write(json.dumps(event).encode() + b"\n")
