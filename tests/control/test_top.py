"""`tidegate top`: what two readings mean, and what a terminal shows of it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lb.cli.top import terminal
from lb.cli.top.columns import COLUMNS, duration, keys, number, size
from lb.cli.top.rates import KINDS, Rates, quantile, rates
from lb.cli.top.screen import View, lines, selected
from lb.control.counters import _places
from lb.shared.words import BOUNDS_US, ENDPOINT, LISTENER, MODEL, QUEUE, ROUTE, Kind

ADDRESSES = ("127.0.0.1:9001", "unix:/run/tidegate/a/long/path/of/a/socket/digits-0-75b78da9.sock")
SECOND = 1_000_000_000


def series(kind: Kind, labels: tuple[str, ...], **counts: Any) -> tuple[list[str], list[int]]:
    """A row of the reading; of a histogram `counts` have the number of durations of 2 to 3 ms."""
    words = [0] * kind.size
    for name, value in counts.items():
        at, _ = kind.find(name.removesuffix("_ms"))
        if name.endswith("_ms"):
            words[at] = value * 2_500_000
            words[at + 1 + BOUNDS_US.index(3_000)] = value
        elif isinstance(value, dict):
            for label, n in value.items():
                words[kind.place(f"{name}.{label}")] = n
        else:
            words[at] = value
    return list(labels), words


def reading(at_s: float, *rows: tuple[Kind, tuple[list[str], list[int]]], **changes: Any) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind, row in rows:
        table = kinds.setdefault(kind.name, {"labels": kind.views[0].labels, "words": _places(kind), "rows": []})
        table["rows"].append(row)
    endpoint = {"weight": 1, "health": "up", "admin": "enabled", "in_flight": 2, "max_in_flight": 0, "turns": 1.0}
    return {
        "version": "1.2.3", "state": "running", "uptime_s": 61.0, "generation": 3, "last_reload": None,
        "workers": [{"state": "running"}, {"state": "backoff"}],
        "listeners": [{"name": "web", "address": "[::]:80", "sockets": ["*%eth0:80", "[::]:9"], "protocol": "http"}],
        "pools": [
            {
                "name": "digits", "protocol": "oip", "policy": "auto", "queue": {"waiting": 7}, "panic": False,
                "endpoints": [{**endpoint, "address": a, "ejection": "well"} for a in ADDRESSES],
            }
        ],
        "cache": None,
        **changes,
        "counters": {
            "at_ns": int(at_s * SECOND), "bounds_us": BOUNDS_US, "routes": {"web": ["web/0", "web/1"]}, "kinds": kinds,
        },
    }  # fmt: skip


def one_second() -> Rates:
    before = reading(
        10,
        (LISTENER, series(LISTENER, ("web",), started=5, connections=5)),
        (ROUTE, series(ROUTE, ("web/0",), started=100, finished=98, requests={"2xx": 98}, request_duration_ms=98)),
        (ENDPOINT, series(ENDPOINT, ("digits", ADDRESSES[0]), requests={"2xx": 98}, connect_errors=1)),
        (ENDPOINT, series(ENDPOINT, ("digits", ADDRESSES[1]), requests={"2xx": 1_000_000})),
        (QUEUE, series(QUEUE, ("digits",))),
    )
    after = reading(
        12,
        (LISTENER, series(LISTENER, ("web",), started=9, finished=3, connections=9, tls_handshakes={"failed": 2})),
        (
            ROUTE,
            series(
                ROUTE, ("web/0",), started=310, finished=307, requests={"2xx": 298, "5xx": 10}, errors=12, timeouts=4,
                request_duration_ms=298, grpc={"OK": 5, "Internal": 6}, cache={"hit": 3, "miss": 1}, rejected=2,
            ),
        ),
        (ROUTE, series(ROUTE, ("web/1",), requests={"4xx": 8})),
        (ENDPOINT, series(ENDPOINT, ("digits", ADDRESSES[0]), requests={"2xx": 198}, connect_errors=7)),
        (ENDPOINT, series(ENDPOINT, ("digits", ADDRESSES[1]), requests={"2xx": 30})),
        (QUEUE, series(QUEUE, ("digits",), wait_ms=4, ended={"full": 6})),
    )  # fmt: skip
    return rates(before, after)


def row(found: Rates, kind: str, name: str) -> dict[str, Any]:
    return next(r for r in found.rows[kind] if r[kind] == name)


def test_rates_are_differences_by_the_daemons_clock() -> None:
    found = one_second()
    assert found.seconds == 2
    route = row(found, "route", "web/0")
    assert (route["requests_per_s"], route["5xx_per_s"], route["errors_per_s"]) == (105, 5, 6)
    assert (route["timeouts_per_s"], route["grpc_errors_per_s"], route["rejected_per_s"]) == (2, 3, 1)
    assert route["error_share"] == pytest.approx(12 / 210)
    assert (route["in_flight"], route["cache_hit_share"], route["listener"]) == (3, 0.75, "web")
    assert 0.002 < route["p50_s"] < route["p95_s"] < route["p99_s"] <= 0.003


def test_a_series_that_is_new_or_began_anew_counts_from_nothing() -> None:
    found = one_second()
    assert row(found, "route", "web/1")["4xx_per_s"] == 4
    assert row(found, "endpoint", ADDRESSES[1])["requests_per_s"] == 15, "a counter fell: it began anew"


def test_listeners_and_pools_are_the_sum_of_what_they_have() -> None:
    found = one_second()
    web, digits = row(found, "listener", "web"), row(found, "pool", "digits")
    assert (web["connections"], web["connections_per_s"], web["tls_failures_per_s"]) == (6, 2, 1)
    assert web["requests_per_s"] == 109
    assert web["sockets"] == ["*%eth0:80", "[::]:9"]
    assert (digits["requests_per_s"], digits["connect_errors_per_s"], digits["waiting"]) == (65, 3, 7)
    assert (digits["usable"], digits["in_flight"], digits["queue_refused_per_s"]) == (2, 4, 3)
    assert 0.002 < digits["queue_wait_p95_s"] <= 0.003


def test_another_version_of_the_daemon_has_its_own_words() -> None:
    before, after = reading(1), reading(2, (ROUTE, series(ROUTE, ("web/0",), requests={"2xx": 5})))
    words = {"started": (0, None), "finished": (1, None)}
    before["counters"]["kinds"]["route"] = {"labels": ("route",), "words": words, "rows": [[["web/0"], [0, 0]]]}
    assert row(rates(before, after), "route", "web/0")["requests_per_s"] == 5
    after["counters"]["kinds"]["route"] = {"labels": ("route",), "words": words, "rows": [[["web/0"], [9, 4]]]}
    assert row(rates(before, after), "route", "web/0")["in_flight"] == 5, "what it does not know is nothing"


def model(name: str, **counts: int) -> dict[str, Any]:
    names = ("success", "success_ns", "fail", "fail_ns", "queue_ns", "compute_ns", "runs", "rows", "hits", "misses")
    return {"pool": "digits", "model": name, "version": "1", **dict.fromkeys(names, 0), **counts}


def test_models_are_what_the_daemon_counts_and_what_their_servers_say() -> None:
    servers = model("m", success=10, success_ns=10**9, rows=10, runs=10, fail=1)
    before = reading(1, (MODEL, series(MODEL, ("digits", "m"), requests={"2xx": 10})), models=[servers])
    counted = series(
        MODEL, ("digits", "m"), requests={"2xx": 34, "429": 6}, request_duration_ms=30, errors=8, cached=10,
        failures={"refused": 6, "server_error": 8},
    )  # fmt: skip
    after = reading(
        3,
        (MODEL, counted),
        models=[
            model(
                "m", success=30, success_ns=2 * 10**9, queue_ns=10**9, compute_ns=2 * 10**8, rows=90, runs=20, fail=6,
                hits=3, misses=1,
            ),
            {**model("m"), "version": "2"},
            model("new", success=1_000_000),
        ],
    )  # fmt: skip
    found = rates(before, after)
    m = row(found, "model", "m")
    assert (m["requests_per_s"], m["errors_per_s"], m["429_per_s"], m["4xx_per_s"]) == (15, 4, 3, 0)
    assert (m["refused_per_s"], m["error_share"], m["cache_hit_share"]) == (3, 8 / 30, 1 / 3)
    assert 0.002 < m["p50_s"] < m["p99_s"] <= 0.003
    assert (m["server_requests_per_s"], m["server_errors_per_s"], m["rows_per_s"]) == (12.5, 2.5, 40)
    assert (m["server_mean_s"], m["server_queue_mean_s"], m["server_compute_mean_s"]) == (0.05, 0.05, 0.01)
    assert (m["version"], m["rows_per_run"], m["server_hit_share"]) == ("1,2", 8, 0.75)
    assert row(found, "model", "new")["server_requests_per_s"] == 0, "what it counted before anybody looked is no rate"
    known = {key for each in found.rows["model"] for key in each}
    assert {column.key for column in COLUMNS["model"]} <= known
    for width in (60, 80, 200):
        text = shown(found, View("model"), width)
        assert any(line.startswith("m ") for line in text)
        assert all(len(line.rstrip()) <= width for line in text)
    assert "model" in "".join(shown(found, View(), 80))
    assert "model" not in "".join(shown(one_second(), View(), 80)), "nobody asks for a model"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "two\nlines", "\x1b[2Jgone", "x" * 200, "\u202eevil"])
def test_no_name_does_anything_to_the_terminal(name: str) -> None:
    found = rates(reading(1), reading(2, (MODEL, series(MODEL, ("digits", name), requests={"2xx": 5}))))
    for view in (View(), View("model")):
        text = shown(found, view, 120)
        assert all(line.isprintable() and len(line.rstrip()) <= 120 for line in text)


def test_a_daemon_that_has_no_plan_yet_shows_nothing() -> None:
    document = {**reading(1), "pools": [], "listeners": []}
    del document["counters"]
    found = rates(document, document)
    assert all(not rows for rows in found.rows.values())
    assert shown(found, View(), 80)


@given(st.lists(st.integers(0, 50), min_size=len(BOUNDS_US) + 1, max_size=len(BOUNDS_US) + 1), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_its_rank(buckets: list[int], share: float) -> None:
    found = quantile(share, buckets, BOUNDS_US)
    if not any(buckets):
        assert found is None
        return
    assert found is not None
    rank, below = share * sum(buckets), 0
    for i, count in enumerate(buckets):
        if below + count >= rank and count:
            lower = BOUNDS_US[i - 1] / 1e6 if i else 0
            upper = BOUNDS_US[i] / 1e6 if i < len(BOUNDS_US) else BOUNDS_US[-1] / 1e6
            assert lower - 1e-12 <= found <= upper + 1e-12
            return
        below += count


def shown(found: Rates, view: View, width: int, height: int | None = None) -> list[str]:
    return [line.plain for line in lines(found, view, width, height)]


@pytest.mark.parametrize("width", [40, 80, 120, 200, 400])
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_no_line_is_wider_than_the_terminal(width: int, kind: str) -> None:
    found = one_second()
    assert all(len(line.rstrip()) <= width for line in shown(found, View(kind), width))
    for height in (5, 24, 60):
        assert len(shown(found, View(kind), width, height)) < height


def test_every_column_shows_something_that_rows_have() -> None:
    found = one_second()
    for kind in KINDS:
        if kind == "model":
            continue  # see above
        columns = COLUMNS[kind]
        known = {key for each in found.rows[kind] for key in each}
        assert {column.key for column in columns} <= known, kind
        wide = "\n".join(shown(found, View(kind), 400))
        assert all(column.title in wide for column in columns), kind


def test_what_80_columns_have_room_for() -> None:
    text = "\n".join(shown(one_second(), View("endpoint"), 80))
    for title in ("endpoint", "pool", "state", "req/s", "flight", "p99", "err/s"):
        assert title in text
    assert "digits-0-75b78da9.sock" in "\n".join(shown(one_second(), View("endpoint"), 200))
    assert "1 of 2 workers" in text
    assert "err%" in "\n".join(shown(one_second(), View("endpoint", sort="err%"), 60)), "the column that sorts is there"


def test_rows_are_sorted_and_filtered() -> None:
    found = one_second().rows["endpoint"]
    addresses = lambda view: [r["endpoint"] for r in selected(found, "endpoint", view)]  # noqa: E731
    assert addresses(View()) == list(ADDRESSES), "the most requests first"
    assert addresses(View(reverse=True)) == list(ADDRESSES[::-1])
    assert addresses(View(sort="endpoint")) == sorted(ADDRESSES)
    assert addresses(View(sort="endpoint", reverse=True)) == sorted(ADDRESSES)[::-1]
    assert addresses(View(sort="p50")) == list(ADDRESSES), "nothing has a p50"
    assert addresses(View(filter="SOCK")) == [ADDRESSES[1]]
    assert addresses(View(filter="digits")) == list(ADDRESSES)
    assert addresses(View(filter="nowhere")) == []
    assert [r["route"] for r in selected(one_second().rows["route"], "route", View(filter="web"))] == ["web/0", "web/1"]


def test_more_rows_than_lines_are_counted_and_scrolled() -> None:
    found = one_second()
    many = [{**found.rows["endpoint"][0], "endpoint": f"host-{i:03}:1", "requests_per_s": 999 - i} for i in range(300)]
    found = Rates(found.seconds, found.summary, {**found.rows, "endpoint": many})
    view = View("endpoint")
    assert shown(found, view, 80, 24)[-1].startswith("… 2")
    assert terminal.press(view, "end", 24)
    assert "host-299:1" in shown(found, view, 80, 24)[-1]
    assert terminal.press(view, "home", 24)
    assert any("host-000:1" in line for line in shown(found, view, 80, 24))
    assert shown(found, View("endpoint"), 80)[-1].startswith("host-299:1")


def test_markup_and_control_characters_of_names_are_text() -> None:
    found = one_second()
    found.rows["route"][0]["route"] = "[red]x[/red]"
    console = Console(file=io.StringIO(), width=200)
    for line in lines(found, View("route"), 200, None):
        console.print(line)
    assert "[red]x[/red]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_keys_change_the_view() -> None:
    view = View()
    for key in terminal.parse(b"4>r"):
        assert terminal.press(view, key, 24)
    assert (view.kind, view.sort, view.reverse) == ("endpoint", "flight", True)
    for key in terminal.parse("/é\x7fdig\r".encode()):
        assert terminal.press(view, key, 24)
    assert (view.filter, view.typing) == ("dig", False)
    for key in terminal.parse(b"\x1b[B\x1b[6~ +"):
        assert terminal.press(view, key, 24)
    assert (view.scroll, view.paused, view.interval) == (17, True, 2.0)
    assert terminal.press(view, "tab", 24)
    assert (view.kind, view.scroll) == ("model", 0)
    assert terminal.press(view, "tab", 24)
    assert terminal.press(view, "back", 24)
    assert terminal.press(view, "tab", 24)
    assert view.kind == ""
    assert terminal.parse(b"\x1b") == ["escape"]
    assert terminal.press(view, "escape", 24)
    assert view.filter == ""
    assert terminal.press(view, "/", 24)
    assert terminal.press(view, "q", 24), "a q of a filter ends nothing"
    assert view.filter == "q"
    assert terminal.press(view, "enter", 24)
    assert not terminal.press(view, "q", 24)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.02, "0.02"), (3.25, "3.2"), (99.97, "100"), (999.9, "1k"), (12_345, "12.3k"), (2.5e9, "2.5G")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
    assert len(number(value)) <= 5


def test_units() -> None:
    assert [duration(s) for s in (0.0000123, 0.0123, 1.234, 60)] == ["12µs", "12.3ms", "1.23s", "60s"]
    assert [size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0", "1K", "1.5K", "5G"]
    assert "req/s" in keys()
