"""Flights over all workers between processes: real ones, at once, and killed at any moment."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import flight_children
import pytest
from cache_children import SKIP, key_of
from children import ENVIRONMENT
from compiled.shared_flights import LEASE, end, join, open_flights

from lb.cache.shared_flights import SharedFlights
from lb.cache.store import ResultCache
from lb.shared.segment import Segment

SCRIPT = Path(flight_children.__file__)


def run(cache, mode, *arguments):
    fd = cache.segment.fd
    child = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(fd), *map(str, arguments)],
        pass_fds=[fd],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode == SKIP:
        pytest.skip("ptrace is not permitted here")
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout)


def test_many_processes_that_ask_at_once_make_one_call_for_each_key(make_cache):
    cache = make_cache(size=96 << 20, workers=4)  # room for all answers
    result = run(cache, "hammer", 4, 5000)
    assert result["statuses"] == [0, 0, 0, 0]
    stats = cache.stats()
    assert stats["evictions"] == stats["rejected_value"] == 0
    # One more for an answer that was not kept, because the holder of the shard's lock had lost its core.
    assert 5000 <= sum(result["calls"]) <= 5000 + stats["rejected_busy"]
    assert result["open"] == 0
    assert stats["flights_followed"] > 0
    assert stats["flights_promoted"] == stats["flights_full"] == 0


def test_a_storm_of_kills_leaves_nobody_waiting(make_cache):
    cache = make_cache(size=1 << 20, workers=3)
    result = run(cache, "storm", 250, 3)
    assert result["statuses"] == [-9]  # killed, and none of them had waited in vain
    assert cache.stats()["flights_promoted"] > 0  # the kills did hit what they were meant to hit
    segment = Segment.attach(os.dup(cache.segment.fd), 0)
    flights = SharedFlights(ResultCache(segment, 1 << 20), None)
    for number in range(4):
        # Whatever the last ones led is taken over.
        assert join(flights, key_of(number), 10 * LEASE + 2**62) == "leads"
        end(flights, key_of(number))
    assert open_flights(cache) == 0
    segment.close()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="needs PTRACE_SINGLESTEP")
def test_death_of_the_leader_after_any_instruction(make_cache):
    cache = make_cache(size=1 << 20)
    result = run(cache, "steps", 113)
    assert result["wrong"] == []
    assert result["deaths"] > 20
    assert result["found"]["answer"] > 0  # killed before it put the answer into the store, and after it
    assert result["found"]["nothing"] > 0
