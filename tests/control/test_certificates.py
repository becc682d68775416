"""The files of TLS sections: what is wrong with them, when they are read again, and keys of session tickets."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from authority import Authority, Pair

from lb.clock import MonotonicClock
from lb.config.environment import Sources, expanded
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import tls_plan
from lb.control.certificate_watch import CertificateWatch
from lb.control.certificates import DAY, TlsFiles, warn
from lb.control.configuration import Loaded
from lb.control.tickets import KEPT, PERIOD_NS, SIZE, TicketRing
from lb.errors import TidegateError

AUTHORITY = Authority()
PAIR = AUTHORITY.issue("example.org", "www.Example.org", days=30)


def config(folder: Path, maps: dict[str, Any] | None = None, **changes: Any) -> Config:
    one = {"cert": str(folder / "server.pem"), "key": str(folder / "server.key")}
    tls = {"certificates": [one], **changes}
    listener = {"bind": "127.0.0.1:0", "protocol": "https", "tls": tls, "routes": [{"pool": "app"}]}
    pool = {"protocol": "http", "endpoints": ["127.0.0.1:1"]}
    return Config.model_validate({"listeners": {"web": listener}, "pools": {"app": pool}, "maps": maps or {}})


def load(folder: Path, pair: Pair = PAIR, **changes: Any) -> Loaded:
    pair.write(folder)
    wanted = config(folder, **changes)
    files = TlsFiles()
    assert files.check(wanted) == []
    return Loaded(wanted, {}, files.material, files.facts)


class Counter:
    def endpoint(self, pool: str, address: str) -> int:
        return 0

    def series(self, kind: str, name: str) -> int:
        return 0


def test_files_become_a_plan_that_survives_the_wire_and_hides_its_keys(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    plan = compile_plan(
        loaded.config,
        generation=1,
        workers=1,
        allocator=Counter(),
        managed={},
        material=loaded.material,
        tickets=(b"k",),
    )
    (listener,) = plan.listeners
    assert listener.tls is not None
    assert listener.tls.certificates[0].names == ("example.org", "www.example.org")
    assert listener.tls.alpn == ("h2", "http/1.1")
    assert plan.tickets == (b"k",)
    assert Plan.from_wire(plan.to_wire()) == plan
    for shown in (repr(plan), repr(loaded), repr(loaded.material)):
        assert "PRIVATE" not in shown
        assert "tickets" not in shown


def test_facts(tmp_path: Path) -> None:
    (fact,) = load(tmp_path).certificates
    assert (fact.owner, fact.subject, fact.issuer) == ("listeners.web", "CN=example.org", "CN=Test authority")
    assert fact.state(fact.not_before - 1) == "future"
    assert fact.state(fact.not_before) == "valid"
    assert fact.state(fact.not_after - 11 * DAY) == "valid"
    assert fact.state(fact.not_after - 10 * DAY) == "expiring"
    assert fact.state(fact.not_after) == "expired"
    assert fact.to_dict(fact.not_after - 60)["expires_in_s"] == 60


def test_every_problem_has_its_place(tmp_path: Path) -> None:
    PAIR.write(tmp_path)
    other = AUTHORITY.issue("other.test").write(tmp_path, "other")
    nameless = AUTHORITY.issue("10.0.0.1").write(tmp_path, "nameless")
    (tmp_path / "empty.pem").write_bytes(b"")
    certificates = [
        {"cert": str(tmp_path / "server.pem"), "key": other[1]},
        {"cert": nameless[0], "key": nameless[1]},
        {"cert": str(tmp_path / "none.pem"), "key": other[1]},
    ]
    wanted = config(
        tmp_path,
        certificates=certificates,
        client_auth="required",
        client_ca=str(tmp_path / "empty.pem"),
        ciphers="nonsense",
    )
    found = dict(TlsFiles().check(wanted))
    assert found == {
        "listeners.web.tls.certificates[0].key": f"{other[1]}: the key does not belong to the certificate",
        "listeners.web.tls.certificates[1].cert": (
            f"{nameless[0]}: the certificate has no DNS name; say with `names` whom it is for"
        ),
        "listeners.web.tls.certificates[2].cert": f"{tmp_path}/none.pem: No such file or directory",
        "listeners.web.tls.client_ca": f"{tmp_path}/empty.pem: holds no certificate in PEM",
        "listeners.web.tls.ciphers": "'nonsense' names no cipher suite that OpenSSL knows",
    }


def test_what_should_not_be_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load(tmp_path)
    (tmp_path / "server.key").chmod(0o644)
    warn(loaded.config, loaded.certificates, loaded.certificates[0].not_after)
    assert "has expired" in caplog.text
    assert "can be read by everyone" in caplog.text
    assert "BEGIN" not in caplog.text


def stapled(folder: Path, der: bytes, **changes: Any) -> Config:
    PAIR.write(folder)
    (folder / "server.ocsp").write_bytes(der)
    one = {"cert": str(folder / "server.pem"), "key": str(folder / "server.key")}
    return config(folder, certificates=[{**one, "ocsp_file": str(folder / "server.ocsp")}], **changes)


def test_a_response_goes_into_the_plan_and_is_told_when_too_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    der = AUTHORITY.staple(PAIR, days=2)
    wanted, files = stapled(tmp_path, der), TlsFiles()
    assert files.check(wanted) == []
    (fact,) = files.facts
    tls = wanted.listeners["web"].tls
    assert tls is not None
    (one,) = tls_plan("https", tls, True, files.material).certificates
    assert (one.staple, one.staple_until) == (der, fact.staple_until)
    warn(wanted, files.facts, fact.staple_until - 1)
    assert "OCSP" not in caplog.text
    assert fact.to_dict(fact.staple_until - 1)["staple"] == "good"
    warn(wanted, files.facts, fact.staple_until)
    assert "is too old" in caplog.text
    assert fact.to_dict(fact.staple_until)["staple"] == "expired"


def test_what_is_wrong_with_responses_and_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    clients = {"client_auth": "required", "client_ca": str(tmp_path / "ca.pem"), "crl_file": str(tmp_path / "ca.pem")}
    found = TlsFiles().check(stapled(tmp_path, AUTHORITY.staple(AUTHORITY.issue("other.test")), **clients))
    assert found == [
        ("listeners.web.tls.certificates[0].ocsp_file", f"{tmp_path}/server.ocsp: is about another certificate"),
        ("listeners.web.tls.crl_file", f"{tmp_path}/ca.pem: holds no revocation list in PEM"),
    ]
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revoke(days=-1))
    clients["crl_file"] = str(tmp_path / "crl.pem")
    assert TlsFiles().check(stapled(tmp_path, AUTHORITY.staple(PAIR), **clients)) == []
    assert "past its next update" in caplog.text


class Publisher:
    """Takes what it is given, unless told to fail."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.published: list[Loaded | None] = []
        self.failing = False

    async def publish(self, loaded: Loaded | None = None) -> None:
        if self.failing:
            raise TidegateError("no worker is running")
        self.published.append(loaded)
        self.loaded = loaded or self.loaded


def watching(loaded: Loaded, wall: Any = None) -> tuple[CertificateWatch, Publisher, SimpleNamespace]:
    clock = SimpleNamespace(time=MonotonicClock().now())
    clock.now = lambda: clock.time
    publisher = Publisher(loaded)
    ring = TicketRing(clock.now())
    watch = CertificateWatch(publisher, ring, clock, *([wall] if wall else []))  # type: ignore[arg-type]
    watch.started()
    return watch, publisher, clock


async def test_an_operator_has_changed_files_taken_at_once(tmp_path: Path) -> None:
    watch, publisher, _ = watching(load(tmp_path))
    assert await watch.reload() == {"ok": True, "changed": [], "maps": [], "problems": []}
    AUTHORITY.issue("new.test").write(tmp_path)
    changed = {"ok": True, "changed": [str(tmp_path / "server.pem")], "maps": [], "problems": []}
    assert await watch.reload(dry_run=True) == changed
    assert publisher.published == []
    assert await watch.reload() == changed
    assert len(publisher.published) == 1
    (tmp_path / "server.key").write_text("no key")
    found = await watch.reload()
    assert not found["ok"]
    assert "web" in found["problems"][0]
    assert len(publisher.published) == 1, "those in force stay"


async def test_an_operator_is_told_of_maps_that_have_changed(tmp_path: Path) -> None:
    entries = tmp_path / "tenants.map"
    entries.write_text("a.org one\n")
    key = expanded("${request.host}", Sources({}, tmp_path), [])
    watch, publisher, _ = watching(load(tmp_path, maps={"tenants": {"key": key, "file": str(entries)}}))
    entries.write_text("a.org two\n")
    changed = {"ok": True, "changed": [], "maps": ["tenants"], "problems": []}
    assert await watch.reload(dry_run=True) == changed
    assert await watch.reload() == changed
    assert len(publisher.published) == 1
    assert await watch.reload() == {**changed, "maps": []}


def test_an_expression_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    entries = tmp_path / "tenants.map"
    PAIR.write(tmp_path)
    key = expanded("${request.host}", Sources({}, tmp_path), [])
    for match, content, said in (
        ("regex", "# hosts\n^A$ one\n\n(b two\n", "line 4: '(b' is not a regular expression: missing ): (b"),
        ("domain", f"a.org 1\n.{'B' * 1025} 1\n", f"line 2: '{'b' * 64}': a key has at most 1024 bytes, a value 4096"),
        ("exact", f"a.org 1\nb {'x' * 4097}\n", "line 2: 'b': a key has at most 1024 bytes, a value 4096"),
    ):
        entries.write_text(content)
        wanted = config(tmp_path, maps={"tenants": {"key": key, "file": str(entries), "match": match}})
        assert TlsFiles().check(wanted) == [("maps.tenants.file", f"{entries}: {said}")]
    wanted = config(tmp_path, maps={"tenants": {"key": key, "entries": {"(b": "x"}, "match": "regex"}})
    ((where, said),) = TlsFiles().check(wanted)
    assert (where, said.partition(":")[0]) == ("maps.tenants.entries", "'(b' is not a regular expression")


async def test_a_map_that_names_pools_knows_them(tmp_path: Path) -> None:
    entries = tmp_path / "tenants.map"
    PAIR.write(tmp_path)
    host, tenants, other = (
        expanded(text, Sources({}, tmp_path), [])
        for text in ("${request.host}", "a${map.tenants:-${header.x-pool}}p", "${map.tenants}${map.other}")
    )
    maps = {"tenants": {"key": host, "file": str(entries)}, "other": {"key": host, "entries": {"a": "b"}}}
    wanted = config(tmp_path, maps=maps).model_dump(exclude_unset=True)
    wanted["listeners"]["web"]["routes"] = [
        {"pools": [{"pool": "app"}], "pool_by": tenants},
        {"match": {"method": ["PUT"]}, "pools": [{"pool": "app"}], "pool_by": other},
    ]
    entries.write_text("a.org p\nlisted\n")  # a name of a list leaves it to the header, and to weights
    assert TlsFiles().check(Config.model_validate(wanted)) == []
    entries.write_text("a.org p\n# more\nb.org q\n")
    assert TlsFiles().check(Config.model_validate(wanted)) == [
        ("maps.tenants.file", f"{entries}: line 3: 'q' names none of the pools of listeners.web.routes[0].pool_by")
    ]
    maps["tenants"] = {"key": host, "entries": {"a.org": "ap"}}
    wanted["listeners"]["web"]["routes"][0]["pool_by"] = expanded("${map.tenants}", Sources({}, tmp_path), [])
    assert TlsFiles().check(Config.model_validate({**wanted, "maps": maps})) == [
        (
            "maps.tenants.entries",
            "'ap' names none of the pools of listeners.web.routes[0].pool_by; did you mean app?",
        )
    ]


async def test_a_list_of_networks_with_a_mistake_keeps_nothing_else_back(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("127.6.0.0/16\n")
    second.write_text("10.0.0.0/8\n")
    PAIR.write(tmp_path)
    wanted = config(tmp_path).model_dump(exclude_unset=True)
    wanted["listeners"]["web"] |= {"deny_file": str(first), "allow": ["127.0.0.0/8"]}
    wanted["listeners"]["raw"] = {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw", "deny_file": str(second)}
    wanted["pools"]["raw"] = {"protocol": "tcp", "endpoints": ["127.0.0.1:1"]}
    files, parsed = TlsFiles(), Config.model_validate(wanted)
    assert files.check(parsed) == []
    watch, publisher, clock = watching(Loaded(parsed, {}, files.material, files.facts))
    before = dict(publisher.loaded.material.sources)

    async def look() -> None:
        for _ in range(3):
            clock.time += 10_000_000_000
            await watch.look()

    # What is no network, one that is allowed, and no file.
    for number, broken in enumerate(("127.7.0.0/16\nhost\n", "127.0.0.0/8\n", None), 9):
        AUTHORITY.issue(f"of-{number}.test").write(tmp_path)
        second.write_text(f"10.0.0.0/{number}\n")
        if broken is None:
            first.unlink()
        else:
            first.write_text(broken)
        facts, lists = publisher.loaded.certificates, publisher.loaded.material.sources
        await look()
        (problem,) = watch.problems
        assert problem.startswith("listeners.web.deny_file: ")
        assert publisher.loaded.certificates != facts
        assert publisher.loaded.material.sources["web"] == before["web"]
        assert publisher.loaded.material.sources["raw"] != lists["raw"]
    first.write_text("127.7.0.0/16\n")
    await look()
    assert not watch.problems
    assert publisher.loaded.material.sources["web"] != before["web"]


async def test_each_file_stands_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has a mistake keeps what is in force; certificate, key and OCSP response belong together."""
    key = expanded("${request.host}", Sources({}, tmp_path), [])
    names = ("one.map", "two.map", "page.html", "other.html", "deny.txt")
    one, two, page, other, deny = (tmp_path / name for name in names)
    for path in (one, two, page, other):
        path.write_text("a 1\n")
    deny.write_text("10.0.0.0/8\n")
    second = PAIR.write(tmp_path, "second")
    PAIR.write(tmp_path)
    maps = {name: {"key": key, "file": str(path)} for name, path in (("one", one), ("two", two))}
    wanted = config(tmp_path, maps=maps).model_dump(exclude_unset=True)
    wanted["listeners"]["web"]["tls"]["certificates"].append({"cert": second[0], "key": second[1]})
    wanted["listeners"]["web"]["error_pages"] = [
        {"on": ["404"], "file": str(page)},
        {"on": ["5xx"], "file": str(other)},
    ]
    wanted["listeners"]["web"]["deny_file"] = str(deny)
    files, parsed = TlsFiles(), Config.model_validate(wanted)
    assert files.check(parsed) == []
    watch, publisher, clock = watching(Loaded(parsed, {}, files.material, files.facts))
    first = publisher.loaded

    async def look() -> list[str]:
        caplog.clear()
        for _ in range(3):
            clock.time += 10_000_000_000
            await watch.look()
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert said == [f"changed files are not used, the old ones stay: {problem}" for problem in watch.problems]
        return [problem.split(": ")[0] for problem in watch.problems]

    # A list that is too large and a page that is, a key without its certificate: all else is in force.
    deny.write_bytes(b"#" * (8 << 20) + b"\n")
    page.write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "second.key").write_bytes(AUTHORITY.issue("another.test").key)
    AUTHORITY.issue("new.test").write(tmp_path)
    other.write_text("new")
    two.write_text("a 2\n")
    assert await look() == [
        "listeners.web.deny_file", "listeners.web.tls.certificates[1].key", "listeners.web.error_pages[0].file",
    ]  # fmt: skip
    now = publisher.loaded
    assert [fact.names for fact in now.certificates] == [("new.test",), first.certificates[1].names]
    assert {path.name for path in now.material.files if now.material.files[path] != first.material.files[path]} == {
        "server.pem", "server.key", "other.html",
    }  # fmt: skip
    assert now.material.maps["one"] == first.material.maps["one"]
    assert now.material.maps["two"] != first.material.maps["two"]
    assert now.material.sources == first.material.sources
    made = {"generation": 2, "workers": 1, "allocator": Counter(), "managed": {}, "tickets": (b"k",)}
    compile_plan(now.config, material=now.material, **made)
    # An operator is told the same, and what is good is taken.
    one.write_text("a 3\n")
    told = await watch.reload(dry_run=True)
    assert (told["ok"], told["maps"], len(told["problems"])) == (False, ["one"], 3)
    assert publisher.loaded is now
    assert await watch.reload() == told
    assert publisher.loaded.material.maps["one"] != now.material.maps["one"]
    # Each may be small enough, and all together too large: those that grew most stay as they are.
    for path in (deny, page):
        path.write_text("10.0.0.0/9\n")
    PAIR.write(tmp_path, "second")
    for module in ("certificates", "changed_files"):
        monkeypatch.setattr(f"lb.control.{module}.MAX_MAPS", 1 << 20)
    lines = b"".join(b"%d.example.org some-pool\n" % i for i in range(16_000))
    one.write_bytes(lines)
    two.write_bytes(lines[: len(lines) // 2])
    assert await look() == ["maps.one"]
    assert len(publisher.loaded.material.maps["one"]) < 4096
    assert len(publisher.loaded.material.maps["two"]) > 1 << 18
    assert publisher.loaded.material.sources != first.material.sources
    one.write_text("a 4\n")
    assert await look() == []


async def test_changed_files_are_taken_once_they_rest(tmp_path: Path) -> None:
    watch, publisher, _ = watching(load(tmp_path))
    for _ in range(3):
        await watch.look()
    assert publisher.published == []
    os.utime(tmp_path / "server.pem")  # touched, not changed
    for _ in range(3):
        await watch.look()
    assert publisher.published == []
    AUTHORITY.issue("new.test").write(tmp_path)
    await watch.look()
    assert publisher.published == []  # somebody may still be writing
    await watch.look()
    assert [loaded.certificates[0].names for loaded in publisher.published if loaded] == [("new.test",)]
    assert watch.status()["certificates"][0]["subject"] == "CN=new.test"
    assert watch.reloads == {"ok": 1, "failed": 0}


async def test_broken_files_change_nothing_until_they_are_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, publisher, _ = watching(load(tmp_path))
    new = AUTHORITY.issue("new.test")
    (tmp_path / "server.pem").write_bytes(new.chain)  # its key has not come yet
    for _ in range(5):
        await watch.look()
    assert publisher.published == []
    assert "does not belong" in watch.status()["problems"][0]
    assert watch.reloads["failed"] == 1
    assert caplog.text.count("does not belong") == 1
    (tmp_path / "server.key").unlink()
    for _ in range(3):
        await watch.look()
    assert "No such file" in watch.status()["problems"][0]
    new.write(tmp_path)
    for _ in range(3):
        await watch.look()
    assert watch.status()["problems"] == []
    assert len(publisher.published) == 1


async def test_a_publication_that_fails_is_tried_again(tmp_path: Path) -> None:
    watch, publisher, _ = watching(load(tmp_path))
    publisher.failing = True
    AUTHORITY.issue("new.test").write(tmp_path)
    for _ in range(3):
        await watch.look()
    assert "no worker is running" in watch.status()["problems"][0]
    publisher.failing = False
    await watch.look()
    assert publisher.loaded.certificates[0].names == ("new.test",)
    assert watch.status()["problems"] == []


async def test_running_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loaded = load(tmp_path)
    end = loaded.certificates[0].not_after
    times = [end - 20 * DAY]
    watch, _, _ = watching(loaded, lambda: times[-1])
    await watch.look()
    assert "expire" not in caplog.text
    for when, text in ((end - 10 * DAY, " expires on "), (end + 1, "has expired")):
        times.append(when)
        for _ in range(3):
            await watch.look()
        assert caplog.text.count(text) == 1


async def test_ticket_keys_change_and_old_ones_stay_for_a_while(tmp_path: Path) -> None:
    watch, publisher, clock = watching(load(tmp_path))
    clock.time += PERIOD_NS - 1
    await watch.look()
    assert publisher.published == []
    clock.time += 1
    await watch.look()
    await asyncio.sleep(0)
    assert publisher.published == [None]


def test_the_ring_of_ticket_keys() -> None:
    ring = TicketRing(0)
    seen = [ring.keys[0]]
    assert not ring.rotate(PERIOD_NS - 1)
    for i in range(1, 6):
        assert ring.rotate(i * PERIOD_NS)
        assert ring.keys[0] not in seen
        assert ring.keys[1:KEPT] == tuple(reversed(seen[-(KEPT - 1) :]))
        seen.append(ring.keys[0])
    assert all(len(key) == SIZE for key in seen)
    assert len(ring.keys) == KEPT
