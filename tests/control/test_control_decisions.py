"""Pure decisions: when to restart, what a reload may change."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lb.config.schema.file import Config
from lb.control.reload import decide, sets_wanted, short_of_room
from lb.control.workers.backoff import SECOND, Restarts, RestartSettings


def test_the_first_restart_is_immediate_and_the_next_ones_wait_longer() -> None:
    restarts = Restarts(RestartSettings(crash_loop_restarts=100))
    now, delays = 0, []
    for _ in range(9):
        delay = restarts.died(now, now)
        delays.append(delay / SECOND)
        now += delay
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.count == 9


def test_a_stable_run_forgets() -> None:
    restarts = Restarts(RestartSettings())
    for _ in range(6):
        restarts.died(0, 0)
    assert restarts.crash_loop
    assert restarts.died(0, 61 * SECOND) == 0
    assert not restarts.crash_loop


def test_a_crash_loop_is_tried_slowly() -> None:
    restarts = Restarts(RestartSettings())
    delays = [restarts.died(0, 0) for _ in range(5)]
    assert restarts.crash_loop
    assert delays[-1] == 30 * SECOND


@given(st.lists(st.tuples(st.integers(0, 200 * SECOND), st.integers(0, 100 * SECOND)), max_size=50))
def test_a_delay_is_never_negative_nor_above_the_limit(lives: list[tuple[int, int]]) -> None:
    restarts, now = Restarts(RestartSettings()), 0
    for ran, idle in lives:
        started = now
        now += ran
        delay = restarts.died(started, now)
        assert 0 <= delay <= restarts.settings.max
        now += max(delay, idle)
    assert restarts.count == len(lives)


def config(**sections: Any) -> Config:
    base = {
        "listeners": {"raw": {"bind": "127.0.0.1:1", "protocol": "tcp", "pool": "p"}},
        "pools": {"p": {"protocol": "tcp", "endpoints": ["127.0.0.1:2"]}},
    }
    return Config.model_validate({**base, **sections})


def test_an_equal_configuration_is_taken_as_it_is() -> None:
    assert decide(config(), config()).config == config()
    assert decide(config(), config()).notes == ()


def test_workers_admin_address_and_cache_memory_stay() -> None:
    running = config(workers=2, cache={"size": "64MiB"}, admin={"bind": "127.0.0.1:9900"})
    wanted = config(
        workers=4, cache={"size": "128MiB", "ttl": "5s"}, admin={"bind": "127.0.0.1:9901"}, log={"level": "debug"}
    )
    decision = decide(running, wanted)
    assert decision.config.workers == 2
    assert decision.config.admin.bind == "127.0.0.1:9900"
    assert decision.config.cache is not None
    assert (decision.config.cache.size, decision.config.cache.ttl) == (64 << 20, 5 * SECOND)
    assert decision.config.log.level == "debug"
    assert [note.partition(":")[0] for note in decision.notes] == ["workers", "admin.bind", "cache.size"]


def test_a_disk_stays_as_it_is() -> None:
    disk = {"path": "/d", "max_size": "1GiB"}
    for before, after in (({}, {"disk": disk}), ({"disk": disk}, {}), ({"disk": disk}, {"disk": {"path": "/e"}})):
        running, wanted = config(cache=before), config(cache={**after, "ttl": "5s"})
        decision = decide(running, wanted)
        assert decision.notes == ("cache.disk: stays as it is until a restart",)
        assert decision.config.cache is not None
        assert running.cache is not None
        assert (decision.config.cache.disk, decision.config.cache.ttl) == (running.cache.disk, 5 * SECOND)


def test_a_new_cache_waits_for_a_restart_and_a_removed_one_goes_at_once() -> None:
    decision = decide(config(), config(cache={}))
    assert decision.config.cache is None
    assert len(decision.notes) == 1
    assert decide(config(cache={}), config()).config.cache is None
    assert decide(config(cache={}), config()).notes == ()


def test_room_for_learned_sessions_is_made_at_the_start() -> None:
    def learning(*most: int) -> Config:
        pools = {
            f"p{i}": {
                "protocol": "http",
                "endpoints": ["127.0.0.1:2"],
                "affinity": {"learn": {"cookie": "SID", "max": each}},
            }
            for i, each in enumerate(most)
        }
        return config(pools={**pools, "p": {"protocol": "tcp", "endpoints": ["127.0.0.1:2"]}})

    def sets(config: Config) -> int:
        return sets_wanted(config)

    # At least a quarter of a set of eight for each session, and a power of two.
    assert [sets(learning(*most)) for most in ((), (1,), (65_536,), (65_537,), (65_536, 1), (4_000_000,) * 2)] == [
        16_384, 16_384, 16_384, 32_768, 32_768, 1 << 20,
    ]  # fmt: skip
    assert short_of_room(learning(65_536), 16_384) == ()
    assert short_of_room(learning(100), 32_768) == ()
    (note,) = short_of_room(learning(65_536, 65_536), 16_384)
    assert note == "affinity.learn.max: room for 65536 sessions in all pools until a restart, then 131072"
