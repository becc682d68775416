"""The words of datagram series by name, and their metrics."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lb.telemetry.datagrams import DROPS, ENDS, DatagramSeries, DatagramTotals, families

HEADER = Path(__file__).parents[2] / "lb" / "net" / "datagram.h"


def test_names_are_those_of_the_compiled_side() -> None:
    enum = re.search(r"enum tg_udp_word \{(.*?)\};", HEADER.read_text(), re.DOTALL)
    assert enum is not None
    words, value = {}, 0
    for name, given in re.findall(r"TG_U_(\w+)(?: = (\d+))?,", enum[1]):
        value = int(given) if given else value
        words[name] = value
        value += 1
    plain = ("IN", "OUT", "BYTES_IN", "BYTES_OUT", "READS", "WRITES", "STARTED", "FINISHED")
    assert [words[name] for name in plain] == list(range(8))
    assert [words[f"DROP_{name.upper()}"] for name in DROPS] == list(range(8, 18))
    assert [words[f"ENDED_{name.upper()}"] for name in ENDS] == list(range(18, 23))
    assert len(words) == 23
    series = DatagramSeries.of(list(range(48)))
    assert (series.received, series.sent, series.started, series.finished) == (0, 1, 6, 7)
    assert series.drops == tuple(range(8, 18))
    assert series.ends == tuple(range(18, 23))
    assert (series + series).words() == [2 * n for n in range(23)]


class Page:
    def __init__(self, totals: DatagramTotals) -> None:
        self.totals = totals

    def collect(self):
        yield from families(self.totals)


def samples(totals: DatagramTotals) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page(totals))
    return {
        (s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for s in family.samples
    }


def test_a_page_with_datagrams() -> None:
    words = list(range(100, 148))
    words[6], words[7] = 50, 45
    series = DatagramSeries.of(words)
    found = samples(DatagramTotals({"dns": series}, {("p", "a"): series, ("p", "b"): series}, {"dns": 9}))
    assert found["tidegate_udp_listener_received_datagrams_total", "listener=dns"] == 100
    assert found["tidegate_udp_endpoint_sent_bytes_total", "endpoint=a", "pool=p"] == 103
    assert found["tidegate_udp_pool_open_sessions", "pool=p"] == 10
    assert found["tidegate_udp_dropped_datagrams_total", "listener=dns", "reason=sessions"] == 108
    assert found["tidegate_udp_dropped_datagrams_total", "listener=dns", "reason=error"] == 117
    assert found["tidegate_udp_listener_ended_sessions_total", "listener=dns", "reason=idle"] == 118
    assert found["tidegate_udp_kernel_dropped_datagrams_total", "listener=dns"] == 9


def test_a_page_without_datagrams_is_as_before() -> None:
    assert samples(DatagramTotals()) == {}
