"""Kubernetes as an engine and as a source of endpoints, against an emulation of its API (emulated_kubernetes.py)."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from emulated_kubernetes import EmulatedKubernetes
from engine_contract import PlatformContract

sys.path.insert(0, str(Path(__file__).parents[1] / "discovery"))

from discovery_pools import addresses, pool
from source_contract import SourceContract

from lb.clock import ManualClock, MonotonicClock
from lb.config.schema.pools.engine import KubernetesEngineConfig
from lb.config.schema.pools.platforms import KubernetesConfig, KubernetesSourceConfig
from lb.discovery.kubernetes import KubernetesSource
from lb.discovery.source import DiscoveryError
from lb.engines.kubernetes import KubernetesEngine, KubernetesLease, micro_time
from lb.platforms.error import ConflictError, PlatformError
from lb.platforms.kubernetes import Kubernetes
from lb.platforms.kubernetes_account import find_account

SECOND = 1_000_000_000


def source(cluster: EmulatedKubernetes, **options: Any) -> KubernetesSource:
    section = KubernetesSourceConfig(service="chat", api=cluster.url, **options)
    return KubernetesSource("chat", section, pool())


def engine(cluster: EmulatedKubernetes, target: str = "deployment/chat") -> KubernetesEngine:
    return KubernetesEngine("chat", KubernetesEngineConfig(target=target, api=cluster.url), pool())


def at(ip: str, ready: bool | None = True, **conditions: bool) -> dict[str, Any]:
    known = {} if ready is None else {"ready": ready}
    return {"addresses": [ip], "conditions": {**known, **conditions}}


class TestEngine(PlatformContract):
    @pytest.fixture(autouse=True)
    def _world(self, cluster: EmulatedKubernetes) -> None:
        self.cluster = cluster
        cluster.deployment("chat", 2)

    async def build(self) -> KubernetesEngine:
        return engine(self.cluster)

    async def number(self) -> int:
        return self.cluster.replicas("chat")

    async def set_number(self, number: int) -> None:
        self.cluster.deployment("chat", number)

    async def damage(self) -> None:
        self.cluster.fault = 503

    async def mend(self) -> None:
        self.cluster.fault = 0

    async def test_a_change_by_an_old_look_is_refused(self) -> None:
        ours = engine(self.cluster)
        seen = await ours.look()
        await self.set_number(5)
        with pytest.raises(ConflictError):
            await ours.change(3, seen)
        assert await self.number() == 5
        await ours.change(3, await ours.look())
        assert await self.number() == 3
        await ours.close()

    async def test_anything_with_a_scale_subresource_is_scaled(self) -> None:
        path = "/apis/argoproj.io/v1alpha1/namespaces/default/rollouts/chat"
        self.cluster.put(path, {"spec": {"replicas": 4}})
        ours = engine(self.cluster, "rollouts.v1alpha1.argoproj.io/chat")
        assert (await ours.look()).number == 4
        await ours.change(6, await ours.look())
        assert self.cluster.objects[path]["spec"]["replicas"] == 6
        await ours.close()


class TestSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _world(self, cluster: EmulatedKubernetes) -> None:
        self.cluster = cluster

    def build(self) -> KubernetesSource:
        return source(self.cluster)

    def put(self, hosts: list[str]) -> None:
        self.cluster.fault = 0
        self.cluster.slice("chat-1", "chat", [at(host) for host in hosts])

    def damage(self) -> None:
        self.cluster.fault = 500

    # A watch is given up in the middle, and the source says at once that it has ended.
    async def test_says_when_to_look_again(self) -> None:
        self.put(["127.0.0.1"])
        ours = self.build()
        assert (await ours.look()).refresh_ns == 0
        await ours.close()


async def test_only_ready_endpoints_are_given_and_unknown_is_ready(cluster: EmulatedKubernetes) -> None:
    rows = [
        at("10.0.0.1"),
        at("10.0.0.2", False),
        at("10.0.0.3", None),
        at("10.0.0.4", False, serving=True, terminating=True),
    ]
    cluster.slice("a", "chat", rows)
    cluster.slice("b", "other", [at("10.0.0.9")])
    ours = source(cluster)
    assert addresses(await ours.look()) == ["10.0.0.1:9001", "10.0.0.3:9001"]
    await ours.close()


async def test_while_all_end_those_that_still_serve_are_given(cluster: EmulatedKubernetes) -> None:
    ending = {"serving": True, "terminating": True}
    cluster.slice(
        "a", "chat", [at("10.0.0.1", False, **ending), at("10.0.0.2", False, serving=False, terminating=True)]
    )
    ours = source(cluster)
    assert addresses(await ours.look()) == ["10.0.0.1:9001"]
    await ours.close()


async def test_an_endpoint_in_two_slices_is_one_and_ready_if_one_says_so(cluster: EmulatedKubernetes) -> None:
    cluster.slice("a", "chat", [at("10.0.0.1", False), at("10.0.0.2")])
    cluster.slice("b", "chat", [at("10.0.0.1"), at("10.0.0.2")])
    ours = source(cluster)
    assert addresses(await ours.look()) == ["10.0.0.1:9001", "10.0.0.2:9001"]
    await ours.close()


async def test_zones_ports_and_families(cluster: EmulatedKubernetes) -> None:
    ports = [{"name": "http", "port": 8001, "protocol": "TCP"}, {"name": "grpc", "port": 8002, "protocol": "TCP"}]
    cluster.slice("a", "chat", [{**at("10.0.0.1"), "zone": "eu-1a"}], ports=ports)
    cluster.slice("b", "chat", [at("fd00::1")], ports=ports, addressType="IPv6")
    for port, number in (("grpc", 8002), (8001, 8001), ("http", 8001)):
        ours = source(cluster, port=port)
        found = (await ours.look()).endpoints
        assert [(e.address, e.zone, e.host) for e in found] == [
            (f"10.0.0.1:{number}", "eu-1a", "chat.default.svc"),
            (f"[fd00::1]:{number}", "", "chat.default.svc"),
        ]
        await ours.close()
    ours = source(cluster)
    with pytest.raises(DiscoveryError, match="several ports; name one as port: there is http, grpc"):
        await ours.look()
    await ours.close()


async def test_changes_come_by_the_watch_without_another_list(cluster: EmulatedKubernetes) -> None:
    cluster.bookmarks = 60
    cluster.slice("a", "chat", [at("10.0.0.1")])
    ours = source(cluster)
    await ours.look()
    coming = asyncio.create_task(ours.look())
    await asyncio.sleep(0.05)
    assert not coming.done()
    cluster.slice("b", "chat", [at("10.0.0.2")])
    cluster.slice("c", "other", [at("10.0.0.3")])
    assert addresses(await coming) == ["10.0.0.1:9001", "10.0.0.2:9001"]
    coming = asyncio.create_task(ours.look())
    await asyncio.sleep(0.05)
    cluster.remove("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/a")
    assert addresses(await coming) == ["10.0.0.2:9001"]
    lists = [path for _, path in cluster.requests if path.endswith("endpointslices")]
    assert len(lists) == 3, "one list and two watches"
    await ours.close()


async def test_versions_that_the_server_has_forgotten_are_listed_anew(cluster: EmulatedKubernetes) -> None:
    cluster.slice("a", "chat", [at("10.0.0.1")])
    ours = source(cluster)
    await ours.look()
    cluster.slice("b", "chat", [at("10.0.0.2")])
    cluster.remove("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/a")
    cluster.forget_events()
    assert addresses(await ours.look()) == ["10.0.0.2:9001"]
    await ours.close()


async def test_a_watch_that_the_server_ends_goes_on_from_where_it_was(cluster: EmulatedKubernetes) -> None:
    cluster.watch_seconds = 0.05
    cluster.slice("a", "chat", [at("10.0.0.1")])
    ours = source(cluster)
    for _ in range(4):
        assert addresses(await ours.look()) == ["10.0.0.1:9001"]
    cluster.slice("a", "chat", [at("10.0.0.2")])
    assert addresses(await ours.look()) == ["10.0.0.2:9001"]
    await ours.close()


async def test_large_slices_arrive_whole(cluster: EmulatedKubernetes) -> None:
    ours = source(cluster)
    await ours.look()
    rows = [{**at(f"10.0.{i // 250}.{i % 250 + 1}"), "nodeName": "n" * 200} for i in range(1000)]
    cluster.slice("a", "chat", rows)
    found = await ours.look()
    while not found.endpoints:
        found = await ours.look()
    assert len(found.endpoints) == 1000
    await ours.close()


async def test_a_proxy_of_the_environment_is_not_asked(
    cluster: EmulatedKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    cluster.deployment("chat", 2)
    ours = engine(cluster)
    assert (await ours.look()).number == 2
    await ours.close()


# Accounts.


def kubeconfig(folder: Path, cluster: EmulatedKubernetes, user: dict[str, Any]) -> Path:
    document = {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


async def test_a_kubeconfig_gives_server_namespace_and_token(cluster: EmulatedKubernetes, tmp_path: Path) -> None:
    cluster.token = "secret"
    cluster.deployment("chat", 3, "models")
    path = kubeconfig(tmp_path, cluster, {"token": "secret"})
    ours = KubernetesEngine("chat", KubernetesEngineConfig(target="deployment/chat", kubeconfig=path), pool())
    assert (await ours.look()).number == 3
    await ours.close()


async def test_a_token_file_is_read_again_once_the_server_refuses_it(
    cluster: EmulatedKubernetes, tmp_path: Path
) -> None:
    cluster.token = "new"
    (tmp_path / "token").write_text("old\n")
    api = Kubernetes(KubernetesConfig(kubeconfig=kubeconfig(tmp_path, cluster, {"tokenFile": "token"})), ManualClock(1))
    cluster.deployment("chat", 3, "models")
    path = "/apis/apps/v1/namespaces/models/deployments/chat/scale"
    with pytest.raises(PlatformError, match="Unauthorized"):
        await api.get(path)
    (tmp_path / "token").write_text("new\n")
    assert (await api.get(path))["spec"]["replicas"] == 3
    await api.close()


async def test_a_credential_plug_in_is_run_once_while_its_token_is_good(
    cluster: EmulatedKubernetes, tmp_path: Path
) -> None:
    cluster.token = "by-plug-in"
    cluster.deployment("chat", 3, "models")
    script = tmp_path / "plug-in"
    answer = {"status": {"token": "by-plug-in", "expirationTimestamp": "2999-01-01T00:00:00Z"}}
    script.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\necho '{json.dumps(answer)}'\n")
    script.chmod(0o700)
    user = {"exec": {"command": str(script), "apiVersion": "client.authentication.k8s.io/v1"}}
    api = Kubernetes(KubernetesConfig(kubeconfig=kubeconfig(tmp_path, cluster, user)), MonotonicClock())
    for _ in range(3):
        await api.get("/apis/apps/v1/namespaces/models/deployments/chat/scale")
    assert (tmp_path / "runs").read_text() == "run\n"
    await api.close()


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"exec": {"command": "/nowhere"}}, "No such file"),
        ({"exec": {"command": "false"}}, "exit status 1"),
        ({"exec": {"command": "true"}}, "has no token"),
        ({"tokenFile": "nowhere"}, "No such file"),
    ],
)
async def test_credentials_that_cannot_be_had_are_said(
    cluster: EmulatedKubernetes, tmp_path: Path, user: dict[str, Any], message: str
) -> None:
    api = Kubernetes(KubernetesConfig(kubeconfig=kubeconfig(tmp_path, cluster, user)), MonotonicClock())
    with pytest.raises(PlatformError, match=message):
        await api.get("/api/v1/x")
    await api.close()


def test_inside_a_pod_the_service_account_counts(tmp_path: Path, authority: Any) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("models\n")
    (tmp_path / "ca.crt").write_bytes(authority)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    account = find_account(KubernetesConfig(), environment, tmp_path)
    assert (account.server, account.namespace) == ("https://[fd00::1]:6443", "models")
    assert asyncio.run(account.authorization(0)) == "Bearer t"
    assert account.tls is not None
    assert account.tls.check_hostname


@pytest.fixture
def authority() -> bytes:
    import trustme

    return trustme.CA().cert_pem.bytes()


def test_a_kubeconfig_gives_the_client_certificate(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    pair = authority.issue_cert("user@test")

    def data(text: bytes) -> str:
        return base64.b64encode(text).decode()

    document = {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": "https://k8s:6443/",
                    "certificate-authority-data": data(authority.cert_pem.bytes()),
                },
            }
        ],
        "users": [
            {
                "name": "u",
                "user": {
                    "client-certificate-data": data(pair.cert_chain_pems[0].bytes()),
                    "client-key-data": data(pair.private_key_pem.bytes()),
                },
            }
        ],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(document))
    account = find_account(KubernetesConfig(kubeconfig=path), {})
    assert account.server == "https://k8s:6443"
    assert account.tls is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a kubeconfig"),
        ("a: [", "no YAML"),
        ("current-context: x", "has no 'x'"),
        ("1", "is not a kubeconfig"),
    ],
)
def test_a_broken_kubeconfig_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(PlatformError, match=message):
        find_account(KubernetesConfig(kubeconfig=path), {})


# Leases.


def lease(cluster: EmulatedKubernetes, identity: str, clock: ManualClock) -> KubernetesLease:
    return KubernetesLease("tidegate-chat", KubernetesConfig(api=cluster.url), 15 * SECOND, clock, identity)


async def test_the_first_takes_the_lease_and_the_others_see_its_load(cluster: EmulatedKubernetes) -> None:
    clock = ManualClock()
    a, b = lease(cluster, "a", clock), lease(cluster, "b", clock)
    assert (await a.renew("load of a")).holder == "a"
    standing = await b.renew("load of b")
    assert (standing.holder, standing.said) == ("a", {"a": "load of a"})
    assert (await a.renew("2")).said == {"b": "load of b"}
    spec = cluster.lease("tidegate-chat")["spec"]
    assert spec["leaseDurationSeconds"] == 15
    assert len(spec["renewTime"]) == len("2006-01-02T15:04:05.000000Z")
    for one in (a, b):
        await one.close()


async def test_a_silent_holder_loses_it_by_the_clock_of_who_watches(cluster: EmulatedKubernetes) -> None:
    """client-go: by when the record changed last here, whatever its times say."""
    ours, theirs = ManualClock(), ManualClock()
    a, b = lease(cluster, "a", theirs), lease(cluster, "b", ours)
    await a.renew("")
    cluster.lease("tidegate-chat")["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert (await b.renew("")).holder == "a", "its time is old, but b has only just seen it"
    ours.advance(14 * SECOND)
    assert (await b.renew("")).holder == "a"
    ours.advance(2 * SECOND)
    standing = await b.renew("")
    assert (standing.holder, standing.token) == ("b", 1)
    assert (await a.renew("")).holder == "b"
    with pytest.raises(ConflictError):
        await a.confirm(0)
    await b.confirm(1)
    for one in (a, b):
        await one.close()


async def test_of_two_that_take_it_at_once_one_gets_it(cluster: EmulatedKubernetes) -> None:
    clock = ManualClock()
    members = [lease(cluster, name, clock) for name in "abcdef"]
    standings = await asyncio.gather(*(member.renew("") for member in members))
    holders = {(await member.renew("")).holder for member in members}
    assert len(holders) == 1
    assert sum(standing.holder == member.identity for standing, member in zip(standings, members, strict=True)) == 1
    clock.advance(20 * SECOND)
    await asyncio.gather(*(member.renew("") for member in members if member.identity not in holders))
    after = {(await member.renew("")).holder for member in members}
    assert len(after) == 1
    for member in members:
        await member.close()


async def test_who_resigns_is_followed_at_once(cluster: EmulatedKubernetes) -> None:
    clock = ManualClock()
    a, b = lease(cluster, "a", clock), lease(cluster, "b", clock)
    await a.renew("x")
    await b.renew("")
    await a.resign()
    standing = await b.renew("")
    assert (standing.holder, standing.said) == ("b", {})
    for one in (a, b):
        await one.close()


def test_micro_time_has_the_form_of_the_api() -> None:
    from datetime import datetime

    text = micro_time()
    assert text.endswith("Z")
    assert datetime.fromisoformat(text).utcoffset() is not None
    assert len(text.partition(".")[2]) == 7


async def test_a_watch_that_is_given_up_gives_its_connection_back(cluster: EmulatedKubernetes) -> None:
    cluster.bookmarks = 60
    ours = source(cluster)
    await ours.look()
    for _ in range(20):
        task = asyncio.create_task(ours.look())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    cluster.slice("a", "chat", [at("10.0.0.1")])
    assert addresses(await ours.look()) == ["10.0.0.1:9001"]
    await ours.close()
