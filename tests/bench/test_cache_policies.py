"""The policies of `bench cache-policies` on traces whose outcome is known."""

import pytest
from typer.testing import CliRunner

from bench.caching.policies import POLICIES
from bench.caching.replay import replay
from bench.caching.traces import Access, Trace, drift, read, zipf
from bench.cli import app
from bench.errors import BenchError


def trace_of(keys, size=400, cost=10_000):
    return Trace("made", tuple(Access(key, size, cost) for key in keys))


@pytest.mark.parametrize("name", POLICIES)
def test_what_fits_is_missed_once(name):
    found = replay(trace_of(list(range(50)) * 4), POLICIES[name], 100 * 512)
    assert (found.hits, found.bytes, found.compute) == (1, 1, 1)  # the first round is not counted


@pytest.mark.parametrize("name", POLICIES)
def test_the_capacity_is_kept(name):
    trace = zipf(0.9, scans=True, mixed=True, objects=300, requests=3000, largest=20_000)
    for chunks in (10, 100, 1000):
        policy = POLICIES[name](chunks)
        sizes = {}
        for access in trace.accesses:
            sizes[access.key] = -(-access.size // 512)
            policy.access(access.key, sizes[access.key], access.cost)
            assert sum(sizes[key] for key in policy.held) <= chunks


def test_lru_is_lru():
    assert replay(trace_of([0, 1, 2, 0, 1, 2, 0, 1, 2]), POLICIES["LRU"], 2 * 512).hits == 0
    assert replay(trace_of([0, 1, 0, 2, 0, 3, 0, 4]), POLICIES["LRU"], 2 * 512).hits == 0.5


def test_shares_are_of_requests_bytes_and_compute():
    small, large = Access(0, 100, 9000), Access(1, 900, 1000)  # the large one does not fit
    found = replay(Trace("made", (small, large) * 8), POLICIES["LRU"], 512)
    assert (found.hits, found.bytes, found.compute) == (0.5, 0.1, 0.9)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    "make", [lambda mixed: zipf(0.9, scans=True, mixed=mixed), lambda mixed: drift(0.9, mixed=mixed)]
)
def test_the_store_finds_a_tenth_more_than_lru_under_scans_and_no_less_under_drift(make, mixed):
    trace = make(mixed)
    capacity = trace.footprint() // 20
    lru, store = (replay(trace, POLICIES[name], capacity) for name in ("LRU", "the store"))
    assert store.hits >= lru.hits * (1.1 if "scans" in trace.name else 1)
    assert store.compute >= lru.compute


def test_a_trace_of_a_file(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("key,size,cost\na,10,5\nb,20,\na,10,5\n")
    assert read(file).accesses == (Access(0, 10, 5), Access(1, 20, 10_000), Access(0, 10, 5))
    result = CliRunner().invoke(app, ["cache-policies", "--trace", str(file)])
    assert result.exit_code == 0
    assert "t.csv" in result.output
    for text, reason in [("key,bytes\na,1\n", "no columns"), ("key,size\na,x\n", "invalid literal")]:
        file.write_text(text)
        with pytest.raises(BenchError, match=reason):
            read(file)
    with pytest.raises(BenchError, match="No such file"):
        read(tmp_path / "none.csv")
