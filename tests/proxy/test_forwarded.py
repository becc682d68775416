"""What the next hop is told: X-Forwarded-*, Forwarded, Via, X-Request-Id, traceparent, and who is believed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from compiled.bytes_to_values import forward
from datapath import HTTP
from msgspec.structs import replace

from lb.config.plan.plan import HopPlan
from lb.proxy.accept.trusted import TrustedProxies

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def told(
    *lines: str, mode: str = "append", peer: str = "192.0.2.1", scheme: str = "http", version: int = 11, **hop: Any
) -> tuple[dict[str, str], list[str], str]:
    """(new fields, names of old fields that go on, the client's address)."""
    plan = replace(HTTP, forwarded=mode, hop=HopPlan(**hop))
    head = "\r\n".join(["GET / HTTP/1.1", *(lines or ("Host: example.org:8080",)), "", ""]).encode()
    pairs, wire, left, source = forward(plan, head, peer, scheme, version)
    assert wire == b"".join(spelled(name) + b": " + value + b"\r\n" for name, value in pairs)
    return {name.decode(): value.decode() for name, value in pairs}, [name.decode() for name in left], source


def spelled(name: bytes) -> bytes:
    return name if name == b"traceparent" else b"-".join(part.capitalize() for part in name.split(b"-"))


HOST = "Host: a"
TRUST = {"trusted_proxies": ("192.0.2.0/24", "2001:db8::/32")}


def test_a_plain_request_gets_all() -> None:
    fields, left, source = told(port=8080, scheme="https", via="gate")
    assert fields == {
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "example.org:8080",
        "x-forwarded-port": "8080",
        "via": "1.1 gate",
    }
    assert left == ["Host"]
    assert source == "192.0.2.1"


def test_append_keeps_every_line_that_came_in_order() -> None:
    fields, left, _ = told(HOST, "x-forwarded-for: 10.0.0.1", "A: b", "X-FORWARDED-FOR: 10.0.0.2, 10.0.0.3")
    assert fields["x-forwarded-for"] == "10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1"
    assert left == ["Host", "A"]


OLD = (
    HOST, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: b", "X-Forwarded-Port: 1",
    "Forwarded: for=10.0.0.1",
)  # fmt: skip
OURS = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "http", "x-forwarded-host": "a", "x-forwarded-port": "80"}


def test_replace_drops_what_came() -> None:
    assert told(*OLD, mode="replace", port=80)[:2] == (OURS, ["Host"])


def test_preserve_passes_on_and_fills_in() -> None:
    assert told(*OLD, mode="preserve", port=80)[:2] == ({}, [line.split(":")[0] for line in OLD])
    assert told(HOST, "X-Forwarded-Proto: gopher", mode="preserve", port=80)[:2] == (OURS, ["Host"])


def test_off_touches_nothing() -> None:
    assert told(*OLD, mode="off", port=80)[:2] == ({}, [line.split(":")[0] for line in OLD])


def test_without_trusted_proxies_append_says_how_the_client_came_to_us() -> None:
    fields, left, source = told(*OLD, port=80)
    assert fields == {**OURS, "x-forwarded-for": "10.0.0.1, 192.0.2.1"}
    assert left == ["Host", "Forwarded"]
    assert source == "192.0.2.1"


@pytest.mark.parametrize("mode", ["append", "preserve"])
def test_who_is_not_trusted_is_not_heard(mode: str) -> None:
    fields, left, source = told(*OLD, mode=mode, port=80, trusted_proxies=("10.0.0.0/8",))
    assert (fields, left, source) == (OURS, ["Host"], "192.0.2.1")


def test_a_trusted_proxy_is_heard() -> None:
    fields, left, source = told(*OLD, port=80, **TRUST)
    assert fields == {"x-forwarded-for": "10.0.0.1, 192.0.2.1"}
    assert left == ["Host", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded"]
    assert source == "10.0.0.1"


@pytest.mark.parametrize(
    ("chain", "source"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 192.0.2.77", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 192.0.2.77", "203.0.113.9"),  # what the client invented is to the left
        ("192.0.2.3, 192.0.2.4", "192.0.2.3"),  # all are ours: the first
        ("203.0.113.9:51234", "203.0.113.9"),
        ("[2001:DB9::0001]:443, 192.0.2.3", "2001:db9::1"),
        ("2001:db9::1,2001:db8::7", "2001:db9::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        (" , 203.0.113.9 ,, ", "203.0.113.9"),
        ("203.0.113.9, unknown", "192.0.2.1"),  # whoever wrote that hides the rest
        ("203.0.113.9, garbage, 192.0.2.3", "192.0.2.3"),
        ("", "192.0.2.1"),
        ("1.2.3.4.5", "192.0.2.1"),
        ("6.6.6.6:80x", "192.0.2.1"),
        ("6.6.6.6:", "192.0.2.1"),
        ("6.6.6.6:65536", "192.0.2.1"),
        ("[2001:db9::1]x", "192.0.2.1"),
        ("[2001:db9::1]:x", "192.0.2.1"),
        ("x" * 300, "192.0.2.1"),
    ],
)
def test_the_client_behind_trusted_proxies(chain: str, source: str) -> None:
    assert told(HOST, f"X-Forwarded-For: {chain}", **TRUST)[2] == source


def test_the_chain_may_come_in_several_lines() -> None:
    lines = ("X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-For: 192.0.2.3")
    assert told(HOST, *lines, **TRUST)[2] == "203.0.113.9"


def test_a_unix_socket_is_trusted_when_anybody_is() -> None:
    assert told(HOST, "X-Forwarded-For: 203.0.113.9", peer="", **TRUST)[2] == "203.0.113.9"
    fields, _, source = told(HOST, "X-Forwarded-For: 203.0.113.9", peer="")
    assert (fields["x-forwarded-for"], source) == ("203.0.113.9, unix", "")


def test_networks() -> None:
    trusted = TrustedProxies(["10.0.0.0/8", "192.0.2.128/25", "2001:db8::/33", "203.0.113.7"])
    inside = [
        "10.0.0.0",
        "10.255.255.255",
        "192.0.2.128",
        "2001:db8:7fff::",
        "203.0.113.7",
        "::ffff:10.1.1.1",
        "10.1.1.1:5",
        "",
    ]
    outside = ["9.255.255.255", "11.0.0.0", "192.0.2.127", "2001:db8:8000::", "203.0.113.8", "::10.1.1.1", "x", "10.1"]
    assert [text for text in inside if text not in trusted] == []
    assert [text for text in outside if text in trusted] == []
    assert "10.1.1.1" not in TrustedProxies([])
    assert "" not in TrustedProxies([])
    everybody = TrustedProxies(["0.0.0.0/0", "::/0"])
    assert "8.8.8.8" in everybody
    with pytest.raises(ValueError, match="host bits"):
        TrustedProxies(["10.0.0.1/8"])


@pytest.mark.parametrize(
    ("peer", "node"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", '"[2001:db8::1]"'), ("", "unknown")]
)
def test_forwarded(peer: str, node: str) -> None:
    fields, _, _ = told(HOST, peer=peer, forwarded_header=True, scheme="https")
    assert fields["forwarded"] == f'for={node};host="a";proto=https'


def test_forwarded_is_appended_replaced_or_preserved() -> None:
    old = (HOST, "Forwarded: for=10.0.0.1", "Forwarded: for=10.0.0.2;proto=https")
    ours = 'for=192.0.2.1;host="a";proto=http'
    fields, left, _ = told(*old, forwarded_header=True)
    assert (fields["forwarded"], left) == (f"for=10.0.0.1, for=10.0.0.2;proto=https, {ours}", ["Host"])
    assert told(*old, forwarded_header=True, mode="replace")[0]["forwarded"] == ours
    assert "forwarded" not in told(*old, forwarded_header=True, mode="preserve")[0]
    assert "forwarded" not in told(*old, forwarded_header=True, mode="off")[0]
    assert told(*old, forwarded_header=True, trusted_proxies=("10.0.0.0/8",))[0]["forwarded"] == ours


def test_a_host_cannot_break_out_of_its_quotes() -> None:
    fields, _, _ = told('Host: a";for=6.6.6.6;x="', forwarded_header=True)
    assert fields["forwarded"] == r'for=192.0.2.1;host="a\";for=6.6.6.6;x=\"";proto=http'


@pytest.mark.parametrize(("version", "text"), [(10, "1.0"), (11, "1.1"), (20, "2.0")])
def test_via_goes_behind_the_others(version: int, text: str) -> None:
    fields, left, _ = told(HOST, "Via: 1.0 fred", "Via: 1.1 p.example.net", via="gate", version=version)
    assert fields["via"] == f"1.0 fred, 1.1 p.example.net, {text} gate"
    assert left == ["Host"]
    assert "via" not in told(HOST, "Via: 1.0 fred", via="")[0]


def test_request_ids_are_made() -> None:
    made = {told(HOST, request_id=True)[0]["x-request-id"] for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in made)


def test_only_trusted_proxies_name_requests() -> None:
    line = "X-Request-Id: abc-123"
    fields, left, _ = told(HOST, line, request_id=True, **TRUST)
    assert (fields["x-request-id"], left) == ("abc-123", ["Host"])
    for trust in ({}, {"trusted_proxies": ("10.0.0.0/8",)}):
        fields, left, _ = told(HOST, line, request_id=True, **trust)
        assert re.fullmatch("[0-9a-f]{32}", fields["x-request-id"])
        assert left == ["Host"]
    assert told(HOST, line)[1] == ["Host", "X-Request-Id"]


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "a,b", "a;b", "a\\b", "x" * 129, "\x80"])
def test_odd_request_ids_are_replaced(value: str) -> None:
    fields, _, _ = told(HOST, f"X-Request-Id: {value}", request_id=True, **TRUST)
    assert re.fullmatch("[0-9a-f]{32}", fields["x-request-id"])


def test_two_request_ids_are_none() -> None:
    fields, left, _ = told(HOST, "X-Request-Id: a", "X-Request-Id: b", request_id=True, **TRUST)
    assert re.fullmatch("[0-9a-f]{32}", fields["x-request-id"])
    assert left == ["Host"]


PARENT = f"traceparent: 00-{ID}-{SPAN}-01"


def test_a_trace_goes_on_with_our_span_as_the_parent() -> None:
    fields, left, _ = told(HOST, PARENT, "tracestate: a=b", tracing=True)
    version, trace, span, flags = fields["traceparent"].split("-")
    assert (version, trace, flags) == ("00", ID, "01")
    assert span != SPAN
    assert re.fullmatch("[0-9a-f]{16}", span)
    assert left == ["Host", "tracestate"]


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("traceparent: 00-nonsense",),
        (PARENT, PARENT),
        (f"traceparent: ff-{ID}-{SPAN}-01",),
    ],
)
def test_a_trace_begins_here_otherwise(lines: tuple[str, ...]) -> None:
    fields, left, _ = told(HOST, *lines, "tracestate: a=b", tracing=True, trace_ratio=1.0)
    _, trace, _, flags = fields["traceparent"].split("-")
    assert trace != ID
    assert flags == "03"
    assert left == ["Host"]  # the state of a trace that was not continued goes with it


@pytest.mark.parametrize(
    ("parent", "trust", "continued"),
    [("any", {}, True), ("trusted", {}, False), ("trusted", TRUST, True), ("ignore", TRUST, False)],
)
def test_whose_traces_are_continued(parent: str, trust: dict[str, Any], continued: bool) -> None:
    fields, _, _ = told(HOST, PARENT, tracing=True, trace_parent=parent, **trust)
    assert (ID in fields["traceparent"]) == continued


def test_without_tracing_the_field_passes() -> None:
    fields, left, _ = told(HOST, PARENT, "tracestate: a=b")
    assert "traceparent" not in fields
    assert left == ["Host", "traceparent", "tracestate"]
