"""The dashboard in a real browser, of a real daemon with traffic: what a reader sees, finds and does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Page, page_of, tables_of
from daemon import Daemon, eventually, http_listener, route
from ports import free_port

Start = Callable[..., Daemon]
NONE = "\N{EN DASH}"
LOOK = "dispatchEvent(new Event('hashchange'))"  # the page asks now
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;'\"</td><script>document.title='owned'</script>"


class Watched:
    """A daemon whose admin server has a port, as browsers need it."""

    def __init__(self, start: Start, config: dict[str, Any]) -> None:
        self.port = free_port()
        self.daemon = start({**config, "admin": {"bind": f"127.0.0.1:{self.port}"}}, ready=False)
        eventually(self._answers, "readiness", 60)
        self.web = self.ask("/api/v1/status?counters=no")["listeners"][0]["address"] if config["listeners"] else ""

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=20):
            return True
        return False

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer of the admin server."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=20) as answer:
            return json.load(answer)

    def get(self, path: str = "/") -> int:
        """The status of a request through the daemon."""
        try:
            with urllib.request.urlopen(f"http://{self.web}{path}", timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def endpoint(self, pool: str, number: int = 0) -> Any:
        rows = {row["name"]: row for row in self.ask("/api/v1/overview?fresh=yes")["pools"]}
        return rows[pool]["endpoints"][number]

    @contextmanager
    def page(self, folder: Path, place: str = "") -> Iterator[Page]:
        """The dashboard once it has been drawn. No script fails on it, and none is kept from running."""
        with Page(f"http://127.0.0.1:{self.port}/{place}", str(folder / "profile")) as page:
            page.wait("document.querySelectorAll('#panels section').length > 2", "the page")
            yield page
            assert page.problems == []


def text(page: Page, selector: str) -> str:
    """What a reader sees of an element."""
    return str(page.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))


async def test_tables(start: Start, endpoint: Callable[..., Any], stub: Callable[[], str], tmp_path: Path) -> None:
    first, second = await endpoint("a"), await endpoint("b")
    watched = await asyncio.to_thread(
        Watched,
        start,
        {
            "zone": "near",
            "cache": {},
            "listeners": {
                "web": http_listener(
                    route("/v2/", "models"),
                    route("/uncached/", "models", name="uncached", rewrite={"prefix": "/"}, cache=False),
                    route("/", "plain"),
                )
            },
            "pools": {
                "plain": {"protocol": "http", "endpoints": [first.address]},
                "levels": {
                    "protocol": "http",
                    "endpoints": [
                        {"address": first.address, "zone": "near"},
                        {"address": second.address, "zone": "<b>far"},
                        {"address": "127.0.0.1:9", "priority": 1},
                    ],
                    "zones": {},
                },
                "app": {
                    "protocol": "http", "endpoints": [first.address], "max_in_flight": 3,
                    "affinity": {"learn": {"cookie": "SID"}},
                },
                "models": {"protocol": "oip", "endpoints": [stub()], "cost": "batch"},
            },
        },
    )  # fmt: skip
    request = urllib.request.Request(
        f"http://{watched.web}/uncached/v2/models/m/infer",
        json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}).encode(),
        {"Content-Type": "application/json"},
    )

    def learned() -> bool:
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        return bool(
            next(p for p in watched.ask("/api/v1/overview?fresh=yes")["pools"] if p["name"] == "models")["cost"][
                "models"
            ]
        )

    await asyncio.to_thread(eventually, learned, "a learned cost")

    request.full_url = f"http://{watched.web}/v2/models/m/infer"
    for _ in range(4):
        urllib.request.urlopen(request, timeout=20).close()

    watched.daemon.path.write_text("listeners: 7\n")
    with pytest.raises(urllib.error.HTTPError, match="409"):
        watched.ask("/api/v1/reload", {})

    watched.ask("/api/v1/overview?fresh=yes")
    page = await asyncio.to_thread(page_of, f"http://127.0.0.1:{watched.port}/", str(tmp_path / "profile"))
    tables = {" ".join(table[0]).strip(): table[1:] for table in tables_of(page)}
    common, rest = "endpoint health admin weight in flight", "requests/s errors p50 p99 last check"
    assert [row[0].split()[1] for row in tables[f"{common} {rest}"]] == [first.address]
    assert [row[5:7] for row in tables[f"{common} priority zone {rest}"]] == [
        ["0", "near"],
        ["0", "<b>far"],
        ["1", NONE],
    ]
    assert tables[f"{common} priority zone {rest}"][2][-2] == "priority 1: priority 0 has all requests"
    assert tables["priority healthy could carry requests own zone other zones"] == [
        ["0", "2 of 2", "100 %", "100 %", "100 %", "0 %"],
        ["1", "1 of 1", "100 %", "0 %", NONE, NONE],
    ]
    assert [row[5] for row in tables[f"{common} sessions {rest}"]] == ["0"]
    assert [row[5] for row in tables[f"{common} cost {rest}"]] == ["0"]
    ((model, relative, unit, samples),) = tables["cost by batch: model relative time for a unit learned from"]
    assert (model, relative) == ("m", "1")
    assert re.fullmatch(r"[0-9.]+ [mµ]s", unit)
    assert int(samples) > 0
    cache = dict(next(table for table in tables_of(page) if table[1][0] == "hit ratio")[1:])
    assert cache["hit ratio"] == "75 %"
    assert (cache["hits"], cache["stale"], cache["misses"], cache["entries"]) == ("3", "0", "1", "1")
    assert cache["bytes"].startswith("512 B of ")
    assert re.fullmatch(r"[0-9.]+ [mµ]s", cache["compute saved"])
    assert re.search(r"Last reload failed, .*<li>[^<]*listeners: must be a mapping", page)
    assert "reload failed</span>" in page  # among the problems
    assert re.search(r'<p id="problem"[^>]*></p>', page), "a script failed"


async def test_a_failing_endpoint_is_found_in_one_look(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    good, bad = await endpoint("good"), await endpoint("bad")
    bad.status = b"500 Internal Server Error"
    listeners = {"web": http_listener(route("/", "chat"))}
    pool = {"protocol": "http", "policy": "round_robin", "endpoints": [good.address, bad.address], "outlier": "off"}
    watched = await asyncio.to_thread(Watched, start, {"listeners": listeners, "pools": {"chat": pool}})

    def look() -> None:
        with watched.page(tmp_path) as page:

            def failing() -> bool:
                for _ in range(20):
                    watched.get()
                return "endpoint failing" in text(page, "#verdict")

            eventually(failing, "the verdict")
            page.wait("document.querySelector('#heat li.bad .heat4') !== null", "a hot cell")
            row = text(page, "#verdict li.warn")
            assert "endpoint failing" in row
            assert bad.address in row
            assert bad.address in text(page, "#topology .node.bad[data-id^='e:']")
            assert good.address in text(page, "#topology .node.good[data-id^='e:']")
            assert bad.address in text(page, "#heat li.bad")
            assert bad.address in text(page, "#pools tr.bad")
            assert "2 of 2 take requests" in text(page, "#topology")  # as the verdict counts them
            assert "5xx" in text(page, "#charts")
            panels = text(page, "#panels")
            assert "an endpoint answered with an error" in panels
            assert "no connection to the endpoint" not in panels
            # The link leads to the endpoint's own charts and line, and is one that can be sent to somebody.
            page.click("#verdict li.warn a")
            page.wait("document.querySelectorAll('#pools tbody tr').length === 1", "its line alone")
            address = page.ask("location.href")
            assert bad.address in text(page, "#where")
            page.open("about:blank")
            page.open(address)
            page.wait("document.querySelectorAll('#pools tbody tr').length === 1", "the same by its link")
            assert bad.address in text(page, "#where")

    await asyncio.to_thread(look)


async def test_an_endpoint_is_drained_after_a_second_click(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = await endpoint("one"), await endpoint("two")
    listeners = {"web": http_listener(route("/", "chat"))}
    pools = {"chat": {"protocol": "http", "endpoints": [one.address, two.address]}}
    watched = await asyncio.to_thread(Watched, start, {"listeners": listeners, "pools": pools})

    def operate() -> None:
        with watched.page(tmp_path) as page:
            page.click(f"#pools button[aria-label='Change {one.address}']")
            page.click("dialog [data-state=drain]")
            assert watched.endpoint("chat")["admin"] == "enabled"
            assert "last endpoint" not in text(page, "dialog")
            page.click("#confirm")
            page.wait("!document.getElementById('dialog').open", "the end of the dialog")
            assert watched.endpoint("chat")["admin"] == "drain"
            page.wait("document.querySelector('#pools tr.idle') !== null", "its line says so")

            page.click(f"#pools button[aria-label='Change {two.address}']")
            page.click("dialog [data-state=maintenance]")
            assert "the last endpoint of pool chat" in text(page, "dialog")
            page.click("dialog .buttons button:last-child")  # Cancel
            assert watched.endpoint("chat", 1)["admin"] == "enabled"

            page.click(f"#pools button[aria-label='Change {two.address}']")
            page.ask("document.getElementById('weight').value = 7")
            page.click("dialog form button:not([type])")
            page.click("#confirm")
            page.wait("!document.getElementById('dialog').open", "the end of the dialog")
            assert watched.endpoint("chat", 1)["weight"] == 7

    await asyncio.to_thread(operate)


async def test_the_last_reload_and_a_test_alert(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    """What a reload changed, what a refused one would have, and a webhook that is not there."""
    one, two = await endpoint("one"), await endpoint("two")
    pool = {"protocol": "http", "endpoints": [one.address], "max_in_flight": 4}
    config = {
        "listeners": {"web": http_listener(route("/", "chat"))},
        "pools": {"chat": pool},
        "alerts": {"urls": [f"http://127.0.0.1:{free_port()}/<b>secret</b>"], "conditions": ["jobs_dead"]},
    }
    watched = await asyncio.to_thread(Watched, start, config)
    assert watched.ask("/api/v1/reload") is None
    whole = yaml.safe_load(watched.daemon.path.read_text())
    whole["pools"]["chat"] = {**pool, "max_in_flight": 6, "endpoints": [one.address, two.address]}
    whole["auth"] = {"keys": {"type": "api_key", "file": str(tmp_path / "keys")}}
    whole["alerts"]["urls"].append("https://hooks.example.org/?token=hunter2")
    (tmp_path / "keys").write_text(f"team-a:sha256:{'5f' * 32}\n")

    def look() -> None:
        with watched.page(tmp_path) as page:
            assert "It is that of the start" in text(page, "#panels")
            watched.daemon.path.write_text(yaml.safe_dump(whole))
            assert watched.ask("/api/v1/reload", {})["ok"]
            found = watched.ask("/api/v1/reload")
            assert found["by"].startswith("API: ")
            rows = {row["setting"]: (row["from"], row["to"]) for row in found["differences"]}
            assert rows["pools.chat.max_in_flight"] == (4, 6)
            assert rows["pools.chat.endpoints"] == ([one.address], [one.address, two.address])
            assert rows["auth"][0] is None
            assert "hunter2" not in json.dumps(found)
            page.wait(
                f"{LOOK} && document.querySelector('.changes tbody tr') !== null",
                "what it changed",
            )
            shown = text(page, "#panels")
            assert "pools.chat.max_in_flight" in shown
            assert "by API: " in shown
            assert "hunter2" not in shown
            page.click("#test-alert")
            page.wait("document.querySelector('#tested') !== null", "its outcome")
            assert "127.0.0.1: no answer" in text(page, "#tested")
            page.ask("1")
            page.problems.clear()  # the browser says that it got 502

            whole["pools"]["chat"]["max_in_flight"] = 8
            whole["pools"]["chat"]["polcy"] = "random"
            watched.daemon.path.write_text(yaml.safe_dump(whole))
            watched.daemon.process.send_signal(signal.SIGHUP)
            page.wait(
                f"{LOOK} && document.querySelector('#panels').textContent.includes('by SIGHUP')",
                "the refusal",
            )
            page.wait("document.querySelectorAll('.changes tbody tr').length === 2", "what it would have changed")
            refused = text(page, "#panels")
            assert "polcy" in refused
            assert "Last reload failed" in refused
            assert "secret" not in refused, "of webhooks only the hosts are shown"

    await asyncio.to_thread(look)


async def test_a_filter_leaves_what_it_names(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("one")
    listeners = {"web": http_listener(route("/chat", "chat"), route("/embed", "embed"))}
    pools = {name: {"protocol": "http", "endpoints": [one.address]} for name in ("chat", "embed")}
    watched = await asyncio.to_thread(Watched, start, {"listeners": listeners, "pools": pools})

    def look() -> None:
        with watched.page(tmp_path, "#q=emb") as page:
            assert [page.ask("[...document.querySelectorAll('#pools .pool')].map((p) => p.dataset.pool).join()")] == [
                "embed"
            ]
            page.ask(
                "const field = document.getElementById('filter');"
                "field.value = ''; field.dispatchEvent(new Event('input'));"
            )
            page.wait("document.querySelectorAll('#pools .pool').length === 2", "both")
            assert page.ask("location.hash") in ("", "#")

    await asyncio.to_thread(look)


async def test_the_history_outlives_the_page(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("one")
    listeners = {"web": http_listener(route("/", "chat"))}
    pools = {"chat": {"protocol": "http", "endpoints": [one.address]}}
    watched = await asyncio.to_thread(Watched, start, {"listeners": listeners, "pools": pools})

    def sampled() -> bool:
        watched.get()
        found = watched.ask("/api/v1/history?of=pool&name=chat")
        return sum(value or 0 for value in found.get("rate", ())) > 0 and found["number"] >= 3

    await asyncio.to_thread(eventually, sampled, "samples", 60)

    def look() -> None:
        with watched.page(tmp_path) as page:
            assert page.ask("document.querySelector('#charts .area.ok') !== null"), "what was before the page"

    await asyncio.to_thread(look)
    newest = watched.ask("/api/v1/history?after=2")
    assert len(newest["times"]) == newest["number"] - 2
    assert len(newest["times"]) == len(newest["rate"])


async def test_names_of_any_kind_are_text(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    """A zone, the socket of an endpoint, a model that a client names, and the error of a reload."""
    one = await endpoint("one")
    sock = "unix:/nowhere/<img src=x onerror=alert(1)>.sock"
    config = {
        "listeners": {"web": http_listener(route("/", "chat"))},
        "pools": {
            "chat": {
                "protocol": "http",
                "endpoints": [{"address": one.address, "zone": "<img/src=x/onerror=alert(1)>"}, sock],
                "health": {"type": "tcp", "interval": "100ms"},
            }
        },
    }
    watched = await asyncio.to_thread(Watched, start, config)
    hostile = urllib.parse.quote('"><img src=x onerror=alert(2)>\n' + "y" * 180, safe="")
    path = f"http://{watched.web}/v2/models/{hostile}/infer"
    await asyncio.to_thread(lambda: urllib.request.urlopen(path, b"{}", timeout=20).close())
    watched.daemon.path.write_text(json.dumps({"listeners": {HOSTILE: 7}}))
    with pytest.raises(urllib.error.HTTPError, match="409"):
        watched.ask("/api/v1/reload", {})

    def look() -> None:
        with watched.page(tmp_path) as page:
            page.wait("document.querySelector('#pools tr.bad') !== null", "the socket that is not there")
            assert "onerror" in text(page, "#pools")
            page.wait("document.querySelectorAll('#models tbody tr').length === 1", "the model")
            assert '"><img' in text(page, "#models")
            page.click("#models tbody a")
            page.wait("document.querySelector('#where').textContent.includes('model')", "its own charts")
            page.ask("location.hash = ''")
            page.wait("document.querySelector('#pools tr.bad') !== null", "all")
            assert "<script>" in text(page, "#verdict")
            page.click("#pools tr.bad button")
            assert "onerror" in text(page, "dialog")
            assert page.ask("document.title").endswith("Tidegate")
            assert page.ask("document.querySelectorAll('main img, main script').length") == 0

    await asyncio.to_thread(look)


async def test_a_token_goes_along(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("one")
    (tmp_path / "token").write_text("s3cret\n")
    port = free_port()
    config = {
        "admin": {"bind": f"127.0.0.1:{port}", "token_file": str(tmp_path / "token")},
        "listeners": {"web": http_listener(route("/", "chat"))},
        "pools": {"chat": {"protocol": "http", "endpoints": [one.address]}},
    }
    daemon = start(config, ready=False)
    await asyncio.to_thread(eventually, lambda: "admin on" in daemon.log, "the admin server")

    def look() -> None:
        with Page(f"http://127.0.0.1:{port}/", str(tmp_path / "profile")) as page:
            page.wait("!document.getElementById('ask').hidden", "the question")
            assert text(page, "#problem") == "a token is needed"
            page.ask("document.querySelector('#ask input').value = 's3cret'")
            page.click("#ask button")
            page.wait("document.querySelectorAll('#panels section').length > 2", "the page")
            page.click("#pools button[aria-label^=Change]")
            page.click("dialog [data-state=drain]")
            page.click("#confirm")
            page.wait("document.querySelector('#pools tr.idle') !== null", "the drain")

    await asyncio.to_thread(look)


async def test_no_page_scrolls_sideways(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("one")
    listeners = {"a-listener-with-a-long-name-that-does-not-end": http_listener(route("/", "c" * 40))}
    long = f"unix:/srv/{'inference/' * 5}digits-0.sock"
    pools = {"c" * 40: {"protocol": "http", "endpoints": [one.address, long]}}
    watched = await asyncio.to_thread(Watched, start, {"listeners": listeners, "pools": pools})

    def look() -> None:
        with watched.page(tmp_path) as page:
            for width in (360, 390, 820, 1366, 1920):
                page.look(width, 900, mobile=width < 900)
                page.wait(f"document.documentElement.scrollWidth <= {width}", f"nothing is wider than {width}")
            assert "…/digits-0.sock" in text(page, "#topology")

    await asyncio.to_thread(look)


async def test_a_crowd_of_long_names_is_told_apart_and_fits_a_phone(start: Start, tmp_path: Path) -> None:
    names = [f"production-embeddings-multilingual-v{i}.team-a.internal" for i in range(4)]
    pools = {
        name: {"protocol": "http", "endpoints": [f"127.{i + 1}.0.{j + 1}:9" for j in range(30)]}
        for i, name in enumerate(names)
    }
    routes = [route(f"/{i}/", name, name=f"{'r' * 40}.{i}.main") for i, name in enumerate(names)]
    watched = await asyncio.to_thread(Watched, start, {"listeners": {"web": http_listener(*routes)}, "pools": pools})

    def look() -> None:
        with watched.page(tmp_path) as page:
            page.look(1366, 900)
            page.wait("document.querySelectorAll('#pools .pool').length === 4")
            for kind in ("p:production", "r:rrr"):
                shown = page.ask(
                    f"[...document.querySelectorAll('#topology [data-id^=\"{kind}\"] .name')].map((e) => e.textContent)"
                )
                assert len(set(shown)) == 4, shown
                assert max(map(len, shown)) <= 24
            assert page.ask("document.querySelectorAll('#pools tbody tr').length") == 120
            page.look(390, 844, mobile=True)
            page.open(page.ask("location.href"))
            page.wait("document.querySelectorAll('#pools tbody tr').length === 32", "eight of each pool")
            page.click("#pools button[data-key^=unfold]")
            page.wait("document.querySelectorAll('#pools tbody tr').length === 54", "all of one pool")
            cases = (
                ["a/b/x.sock", "a/b/y.sock"],
                ["v1", "v12"],
                ["x" * 40 + "-a-b", "x" * 40 + "-b"],
                ["m" * 60, "n" * 60],
            )
            different = "(names) => new Set(m.shortNames(names).values()).size"
            script = f"import('/dashboard/format.js').then((m) => %s.map({different}))"
            assert page.ask(script % json.dumps(cases)) == [2] * len(cases)
            assert not page.problems

    await asyncio.to_thread(look)
