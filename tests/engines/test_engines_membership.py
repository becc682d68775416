"""Who of several daemons scales, and by whose load: the membership, with leases in memory and by a real Redis."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_kubernetes import EmulatedKubernetes
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port, wait_for_port
from waiting import until

from lb.clock import ManualClock, MonotonicClock
from lb.config.schema.pools.engine import RedisConfig
from lb.config.schema.pools.platforms import KubernetesConfig
from lb.engines.kubernetes import KubernetesLease
from lb.engines.lease import Lease, Standing
from lb.engines.load import Load, decode, encode, together
from lb.engines.membership import FORGET, Membership
from lb.engines.redis import RedisLease
from lb.platforms.error import ConflictError, PlatformError
from lb.scaling.scaler import Traffic

SECOND = 1_000_000_000
LEASE = 15 * SECOND


class Never(Lease):
    """A lease that is not asked: `observe` is given what it would have said."""

    def __init__(self, identity: str) -> None:
        self.identity = identity

    async def renew(self, load: str) -> Standing:
        raise NotImplementedError

    async def confirm(self, token: int) -> None:
        raise NotImplementedError

    async def resign(self) -> None:
        return

    def describe(self) -> str:
        return "a lease"


def member(identity: str = "me", clock: ManualClock | None = None) -> Membership:
    return Membership("chat", Never(identity), LEASE, Load, clock or ManualClock())


def said(sequence: int, **in_flight: float) -> str:
    return encode(Load(sequence, {f"10.0.0.{name[1:]}:1": n for name, n in in_flight.items()}, waiting=1))


def test_a_leader_that_cannot_renew_stops_before_another_may_begin() -> None:
    one = member()
    assert not one.leads(0)
    one.observe(Standing("me", 1, {}), 0)
    assert one.leads(0)
    one.fail(PlatformError("gone"), 5 * SECOND)
    assert one.leads(10 * SECOND - 1)
    assert not one.leads(10 * SECOND)
    one.observe(Standing("other", 2, {}), 11 * SECOND)
    assert not one.leads(11 * SECOND)
    assert one.holder == "other"


def test_loads_of_the_others_are_summed() -> None:
    one = member()
    one.observe(Standing("me", 1, {"b": said(1, e1=3, e2=1), "c": said(1, e1=2)}), 0)
    assert one.in_flight("10.0.0.1:1") == 5
    assert one.in_flight("10.0.0.2:1") == 1
    assert one.in_flight("10.0.0.9:1") == 0
    assert one.waiting() == 2


def test_a_load_that_is_not_renewed_is_stale_and_counts_on() -> None:
    one = member()
    one.observe(Standing("me", 1, {"b": said(1, e1=3), "c": said(1)}), 0)
    assert one.missing(6 * SECOND) == ""
    one.observe(Standing("me", 1, {"b": said(1, e1=3), "c": said(2)}), 7 * SECOND)
    assert one.missing(7 * SECOND) == "no news of the load of b (7s)"
    assert one.loads(7 * SECOND) == (None, Load(2, {}, 1))
    assert one.in_flight("10.0.0.1:1") == 3
    one.observe(Standing("me", 1, {"b": said(2), "c": said(3)}), 8 * SECOND)
    assert one.missing(8 * SECOND) == ""


def test_who_says_goodbye_is_not_missed() -> None:
    one = member()
    one.observe(Standing("me", 1, {"b": said(1)}), 0)
    one.observe(Standing("me", 1, {}), 20 * SECOND)
    assert one.missing(20 * SECOND) == ""
    assert one.waiting() == 0


def test_who_is_silent_for_too_long_is_forgotten_by_the_leader() -> None:
    one = member()
    one.observe(Standing("me", 1, {"b": said(1)}), 0)
    assert one.observe(Standing("me", 1, {"b": said(1)}), FORGET * LEASE) == []
    assert one.missing(FORGET * LEASE)
    assert one.observe(Standing("me", 1, {"b": said(1)}), FORGET * LEASE + 1) == ["b"]
    assert one.missing(FORGET * LEASE + 1) == ""


def test_a_load_that_cannot_be_read_is_missing() -> None:
    one = member()
    one.observe(Standing("me", 1, {"b": "nonsense"}), 100 * SECOND)
    assert "b" in one.missing(100 * SECOND)


def test_a_load_of_a_newer_daemon_is_read() -> None:
    assert decode('{"sequence": 3, "waiting": 2, "more": {"x": 1}}') == Load(3, waiting=2)
    assert decode(encode(Load(1, {"a": 1.5}, 2, Traffic(5)))) == Load(1, {"a": 1.5}, 2, Traffic(5))


def test_traffic_of_other_spans_is_scaled() -> None:
    own = Traffic(SECOND, arrived=10, answered=8, waited=100, in_flight=2, waiting=1)
    other = Traffic(2 * SECOND, arrived=40, answered=20, waited=400, in_flight=3)
    assert together(own, [other]) == Traffic(SECOND, 30, 18, 0, 0, 300, 0, 5, 1)
    assert together(own, [other, None]) is None
    assert together(own, []) == own


@given(st.lists(st.tuples(st.integers(0, 8 * SECOND), st.sampled_from(["me", "other", "", None])), max_size=40))
def test_nobody_leads_longer_than_two_thirds_of_the_lease(steps: list[tuple[int, str | None]]) -> None:
    one, now, renewed = member(), 0, -(10**18)
    for pause, holder in steps:
        now += pause
        if holder is None:
            one.fail(PlatformError("gone"), now)
        else:
            one.observe(Standing(holder, 1, {}), now)
            renewed = now if holder == "me" else -(10**18)
        assert one.leads(now) == (now - renewed < LEASE * 2 // 3)


# Real stores.


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("redis-server")
    assert program, "the Debian package redis-server is needed"
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--save", "", "--dir", str(folder), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for_port(port)
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture(params=["redis", "kubernetes (emulated)"])
def make(request: pytest.FixtureRequest, cluster: EmulatedKubernetes, redis_port: int, tmp_path: Path):
    """Makes leases of one pool; of Kubernetes over an emulation, of Redis over a real server."""
    made: list[Lease] = []

    def build(identity: str, duration: int = 3 * SECOND) -> Lease:
        if request.param == "redis":
            url = RedisConfig(url=f"redis://127.0.0.1:{redis_port}/0")
            lease: Lease = RedisLease(f"tidegate-{tmp_path.name}".replace("_", "-"), url, duration, identity)
        else:
            lease = KubernetesLease(
                "tidegate-chat", KubernetesConfig(api=cluster.url), duration, MonotonicClock(), identity
            )
        made.append(lease)
        return lease

    return build


async def test_one_of_many_has_it_and_all_see_each_other(make) -> None:
    leases = [make(name) for name in "abcd"]
    for _ in range(2):
        standings = await asyncio.gather(*(lease.renew(f"load of {lease.identity}") for lease in leases))
    assert len({standing.holder for standing in standings}) == 1
    for lease, standing in zip(leases, standings, strict=True):
        assert standing.said == {o.identity: f"load of {o.identity}" for o in leases if o is not lease}
    for lease in leases:
        await lease.close()


async def test_a_holder_that_is_silent_loses_it_and_its_token_is_of_no_use_any_more(make) -> None:
    a, b = make("a"), make("b")
    first = await a.renew("")
    assert first.holder == "a"
    await a.confirm(first.token)

    async def renewed() -> bool:
        return (await b.renew("")).holder == "b"

    for _ in range(200):
        if await renewed():
            break
        await asyncio.sleep(0.1)
    standing = await b.renew("")
    assert standing.holder == "b"
    assert standing.token > first.token
    with pytest.raises(ConflictError):
        await a.confirm(first.token)
    await b.confirm(standing.token)
    assert (await a.renew("")).holder == "b"
    for lease in (a, b):
        await lease.close()


async def test_memberships_hand_over_when_one_ends(make) -> None:
    clock = MonotonicClock()
    members = [Membership("chat", make(name), 3 * SECOND, lambda: Load(waiting=2), clock) for name in "abc"]
    tasks = [asyncio.create_task(one.run()) for one in members]
    await until(lambda: sum(one.leads(clock.now()) for one in members) == 1, "a leader")
    await until(lambda: all(one.waiting() == 4 for one in members), "each other's load")
    leader = next(one for one in members if one.leads(clock.now()))
    await leader.confirm()
    at = members.index(leader)
    tasks[at].cancel()
    await asyncio.gather(tasks[at], return_exceptions=True)
    rest = [one for one in members if one is not leader]
    await until(lambda: sum(one.leads(clock.now()) for one in rest) == 1, "another leader")
    assert not leader.leads(clock.now())
    await until(lambda: all(one.waiting() == 2 for one in rest), "the goodbye")
    assert all(one.missing(clock.now()) == "" for one in rest)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_store_that_is_gone_is_an_error_in_one_line() -> None:
    for lease in (
        RedisLease("x", RedisConfig(url=f"redis://u:secret@127.0.0.1:{free_port()}/0"), LEASE),
        KubernetesLease("x", KubernetesConfig(api=f"http://127.0.0.1:{free_port()}"), LEASE, MonotonicClock()),
    ):
        with pytest.raises(PlatformError) as caught:
            await lease.renew("")
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
        await lease.close()
