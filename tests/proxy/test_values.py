"""Texts with values of the request: how each is found and written, and what no client can make of them."""

from __future__ import annotations

import codecs
import json
import random

import grpc
import pytest
from datapath import Site, settle
from hedge_site import Multiplexed
from routing_site import curl, marked, routing_gate, shown

from lb.config.values import KNOWN
from lb.proxy.routing.values.format import Format, RequestValues

H = "-H"
HEAD = (
    b"GET /a/b%20c?q=1&r=x%2Fy&e= HTTP/1.1\r\nHost: a.org:80\r\nX-A: one\r\nX-Empty:\r\nx-a: two\r\n"
    b"Cookie: sid=s%3D1; t=2\r\nX-Odd: a \"<&>' \\ ,;/\xe9\r\n\r\n"
)


def made(text: str, encoding: str = "field", **known: bytes) -> bytes:
    return Format(marked(text), encoding).filled(HEAD, {name.replace("_", "."): value for name, value in known.items()})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${header.x-a}", b"one, two"),
        ("[${header.X-A}]", b"[one, two]"),
        ("${header.x-none}|${header.x-empty:-none}", b"|none"),
        ("${query.q}${query.r}${query.e:-e}", b"1x%2Fye"),
        ("${cookie.sid}${cookie.t}${cookie.no:-${cookie.no2:-n}}", b"s%3D12n"),
        ("${client.address:-${header.x-a}}", b"one, two"),
    ],
)
def test_values_of_a_request(text: str, result: bytes) -> None:
    assert made(text) == result


@pytest.mark.parametrize(
    ("encoding", "result"),
    [
        ("field", b"a \"<&>' \\ ,;/\xe9"),
        ("cookie", b"a%20%22<&>'%20%5C%20%2C%3B/%E9"),
        ("query", b"a%20%22%3C%26%3E%27%20%5C%20%2C%3B%2F%E9"),
        ("text", b"a \"<&>' \\ ,;/\xe9"),
        ("html", b"a &#34;&#60;&#38;&#62;&#39; &#92; ,;/\xe9"),
        ("json", b"a \\u0022\\u003C\\u0026\\u003E\\u0027 \\u005C ,;/\\u00E9"),
    ],
)
def test_a_value_is_written_as_its_place_needs(encoding: str, result: bytes) -> None:
    assert made("${header.x-odd}", encoding) == result


@pytest.mark.parametrize("place", ["field", "html", "json", "text", "cookie", "query", "path", "host"])
def test_a_host_is_one_text_however_it_is_spelled(place: str) -> None:
    for host in (b"a.org", b"A.Org", b"a.org.", b"A.ORG."):
        assert made("${request.host}", place, request_host=host) == b"a.org"
    assert made("${request.host:-none}", place, request_host=b".") == b"none"


def test_characters_in_json_are_those_that_the_client_sent() -> None:
    """A byte that is no UTF-8 is taken for ISO-8859-1, whatever stands around it."""
    codecs.register_error("of bytes", lambda bad: (bad.object[bad.start : bad.end].decode("latin-1"), bad.end))
    rng = random.Random(3)
    pieces = [
        b"\xc3\xa9", "\u6f22".encode(), "\U0001f600".encode(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf",
        b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xc3", b"\xe6\xbc", b"\x80", b"\xff", b"a", b'"', b"\\",
    ]  # fmt: skip
    for _ in range(400):
        value = b"x" + b"".join(rng.choice(pieces) for _ in range(rng.randrange(9))) + b"x"
        text = made("${client.address}", "json", client_address=value)
        assert json.loads(b'"' + text + b'"') == value.decode("utf-8", "of bytes"), value


def test_parts_of_the_path_keep_their_escapes_in_a_path_and_get_more_in_a_query() -> None:
    known = {"request_uri": b"/a/b%20c?d=1&e", "request_path": b"/a/b%20c", "request_query": b"d=1&e"}
    assert made("${request.path}x", "path", **known) == b"/a/b%20cx"
    assert made("https://h${request.uri}", "url", **known) == b"https://h/a/b%20c?d=1&e"
    assert made("/l?n=${request.uri}", "url", **known) == b"/l?n=%2Fa%2Fb%2520c%3Fd%3D1%26e"
    assert made("/l?${request.query}", "url", **known) == b"/l?d=1&e"


@pytest.mark.parametrize("value", [b"a/b", b"a\\b"])
def test_a_value_is_never_more_than_a_part_of_a_segment(value: bytes) -> None:
    with pytest.raises(ValueError, match="refused"):
        made("/x/${client.address}", "path", client_address=value)


@pytest.mark.parametrize("text", ["/${request.path}", "/${header.x-none}${request.path}", "/${header.x-none}/a.org/b"])
def test_no_value_makes_a_host_of_a_path(text: str) -> None:
    assert made(text, "url", request_path=b"/a.org/b") == b"/a.org/b"
    assert made("/x${header.x-none}//b", "url") == b"/x//b"


@pytest.mark.parametrize("value", [b"a.org/x", b"a@b", b"a b", b"a?b", b"a#b", b"a%2f", b"\xc3\xa9"])
def test_a_host_is_a_host(value: bytes) -> None:
    with pytest.raises(ValueError, match="refused"):
        made("www.${request.host}", "host", request_host=value)


def test_a_text_has_a_longest_length() -> None:
    assert made("${client.address}", client_address=b"x" * 16384) == b"x" * 16384
    for text in ("${client.address}", "y${client.address}", "${client.address}${client.address}"):
        with pytest.raises(ValueError, match="too long"):
            made(text, client_address=b"x" * (16384 if text[0] == "y" or text.count("$") > 1 else 16385))


def test_no_byte_of_a_value_ends_a_line_or_changes_what_is_around_it() -> None:
    """Of any bytes, in each encoding: nothing that ends a header's line, a cookie, a path or a string."""
    rng = random.Random(7)
    worst = {
        "field": b"\r\n\0", "cookie": b"\r\n\0; ,\"\\", "host": b"\r\n\0 /?#@", "path": b"\r\n\0 /?#\\",
        "query": b"\r\n\0 /?#&=+", "text": b"\r\n\0", "html": b"\r\n\0<>&\"'", "json": b"\r\n\0\"\\",
    }  # fmt: skip
    for encoding, forbidden in worst.items():
        text = Format(marked("${client.address}"), encoding)
        for _ in range(300):
            value = bytes(rng.choice(forbidden + bytes(range(256))) for _ in range(rng.randrange(1, 12)))
            try:
                result = text.filled(HEAD, {"client.address": value})
            except ValueError:
                assert encoding in ("host", "path")
                continue
            left = result.replace(b"&#", b"").replace(b"\\u", b"") if encoding in ("html", "json") else result
            assert not set(left) & set(forbidden), (encoding, value, result)


def test_captures_of_a_path() -> None:
    text = Format(marked("${capture.1}-${capture.2:-none}-${capture.9}"))
    regex = RequestValues(text.kinds, "regex", "^/(a+)(b)?")
    assert text.filled(HEAD, {}, b"/aac", regex) == b"aa-none-"
    assert text.filled(HEAD, {}, b"/x", regex) == b"-none-"
    template = RequestValues(text.kinds, "template", "/m/{x}/{rest...}")
    assert text.filled(HEAD, {}, b"/m/1/2/3", template) == b"1-2/3-"


def test_every_value_has_a_number() -> None:
    kinds = [Format(marked("${" + name + "}")).kinds for name in KNOWN]
    assert kinds == [1 << number for number in range(len(KNOWN))]


# At the wire.


async def test_headers_of_requests_and_answers(site: Site) -> None:
    made_, pools = await shown(site, "a")
    changes = {
        "set": {
            "X-Real-IP": "${client.address}", "X-Path": "${request.method} ${request.path}?${request.query}",
            "X-Mine": "was ${header.x-mine:-nothing}", "X-Gone": "${header.x-none}", "X-Plain": "text",
            "X-Where": "${listener.name} ${route.name} ${pool.name} ${request.scheme} ${request.protocol}",
        },
        "remove": ["X-Mine"],
    }  # fmt: skip
    answer = {
        "set": {"X-Host": "${request.host}", "X-By": "to ${endpoint.address}", "X-Empty": "${header.x-none}"},
        "add": {"Set-Cookie": "was=${cookie.c}; Path=/"},
    }
    route = {"pool": "a", "request_headers": changes, "response_headers": answer, "rewrite": {"path": "/other"}}
    gate = await routing_gate(site, [route], pools)
    reply = await curl(gate, "/p/q?r=1", H, "X-Mine: me", H, "Host: a.org:99", H, "Cookie: c=1 2", H, "X-Gone: forged")
    head = made_["a"].last.lower()
    assert head.startswith(b"get /other?r=1 ")
    assert b"\r\nx-real-ip: 127.0.0.1\r\n" in head
    assert b"\r\nx-path: get /p/q?r=1\r\n" in head
    assert b"\r\nx-mine: was me\r\n" in head
    assert b"\r\nx-where: web web/0 a http http/1.1\r\n" in head
    assert b"\r\nx-plain: text\r\n" in head
    assert b"x-gone" not in head
    assert reply.fields["x-host"] == "a.org"
    assert reply.fields["x-by"] == f"to {pools['a'][0]}"
    assert reply.fields["set-cookie"] == "was=1%202; Path=/"
    assert "x-empty" not in reply.fields


async def test_answers_in_a_row_on_one_connection_have_their_own_values(site: Site) -> None:
    _, pools = await shown(site, "a")
    gate = await routing_gate(
        site, [{"pool": "a", "response_headers": {"set": {"X-Q": "${query.q}"}}}], pools
    )  # fmt: skip
    requests = b"".join(b"GET /?q=%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(20))
    answer = await gate.exchange(requests + b"GET /?q=end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    lines = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"x-q: ")]
    assert lines == [b"X-Q: %d" % i for i in range(20)] + [b"X-Q: end"]


REWRITES = [
    ({"path": {"prefix": "/old/"}}, {"prefix": "/t/${header.x-t}/"}, "/old/x?q", "/t/acme/x?q"),
    ({}, {"path": "/t/${header.x-t:-none}${request.path}"}, "/x%20y?q", "/t/acme/x%20y?q"),
    (
        {"path": {"template": "/m/{model}/{verb}"}},
        {"path": "/${capture.verb}/{model}/${header.x-t}"}, "/m/a/b", "/b/a/acme",
    ),
    (
        {"path": {"regex": "^/u/(?P<user>[^/]+)/(.*)$"}},
        {"path": "/${capture.2}/${capture.user}"}, "/u/me/x/y", "/x/y/me",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("match", "rewrite", "sent", "got"), REWRITES)
async def test_rewrites(site: Site, match: dict[str, object], rewrite: dict[str, str], sent: str, got: str) -> None:
    made_, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a", "match": match, "rewrite": rewrite}], pools)
    assert (await curl(gate, sent, H, "X-T: acme")).body == "a"
    assert made_["a"].last.split(b" ")[1].decode() == got
    for value in ("..", "a/../..", "."):
        if "header" in str(rewrite):
            count = len(made_["a"].requests)
            assert (await curl(gate, sent, H, f"X-T: {value}")).status == 400
            assert len(made_["a"].requests) == count


REDIRECTS = [
    ({"location": "/${request.path}"}, "/x"),
    ({"location": "/${header.x-none}/${header.x-t}"}, "/a%20b%3Fc%23"),
    ({"host": "www.${request.host}"}, "http://www.a.org/x?y=1"),
    ({"scheme": "https", "host": "${request.host}:8443"}, "https://a.org:8443/x?y=1"),
    ({"path": "/${header.x-t}"}, "/a%20b%3Fc%23?y=1"),
    ({"location": "https://login.a.org/?next=${request.scheme}%3A%2F%2F${request.host}${request.uri}"},
     "https://login.a.org/?next=http%3A%2F%2Fa.org%2Fx%3Fy%3D1"),
    ({"location": "${request.scheme}://b.${request.host}${request.uri}", "status": 308}, "http://b.a.org/x?y=1"),
]  # fmt: skip


@pytest.mark.parametrize(("redirect", "location"), REDIRECTS)
async def test_redirects(site: Site, redirect: dict[str, object], location: str) -> None:
    gate = await routing_gate(site, [{"redirect": redirect}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, "/x?y=1", H, f"Host: a.org:{gate.port}", H, "X-T: a b?c#")
    assert (reply.status, reply.fields["location"]) == (redirect.get("status", 302), location)


@pytest.mark.parametrize("redirect", [{"host": "www.${request.host}"}, {"location": "https://${request.host}/"}])
async def test_a_redirect_whose_host_no_request_names_is_refused(site: Site, redirect: dict[str, str]) -> None:
    gate = await routing_gate(site, [{"redirect": redirect}], {"a": ["127.0.0.1:1"]})
    answer = await gate.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert gate.proxy.busy() == 0


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("text/plain", "${header.x-t} ü ${request.path}", '"<b>" ü /x'),
        ("application/json; charset=utf-8", '{"t": "${header.x-t}"}', '{"t": "\\u0022\\u003Cb\\u003E\\u0022"}'),
        ("text/html", "<p>${header.x-t}</p>", "<p>&#34;&#60;b&#62;&#34;</p>"),
        (None, "${header.x-t}", "&#34;&#60;b&#62;&#34;"),
    ],
)
async def test_fixed_answers(site: Site, kind: str | None, body: str, said: str) -> None:
    headers = {"X-T": "${header.x-t:-none}", **({"Content-Type": kind} if kind else {})}
    gate = await routing_gate(site, [{"respond": {"headers": headers, "body": body}}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, "/x", H, 'X-T: "<b>"')
    assert (reply.status, reply.body, reply.fields["x-t"]) == (200, said, '"<b>"')
    assert (await curl(gate, "/x")).fields["x-t"] == "none"


async def test_copies_and_grpc_calls_have_them_too(site: Site) -> None:
    made_, pools = await shown(site, "a", "copy")
    main, upstream = Multiplexed("main", ["answer"]), {"X-Call": "${request.path} ${header.x-t}"}
    pools["main"] = {"protocol": "grpc", "endpoints": [await site.endpoint(main)]}  # type: ignore[assignment]
    answer = {"set": {"X-Was": "${header.x-t} ${endpoint.address}"}}
    routes = [
        {"match": {"grpc": {"service": "test.Kinds"}}, "pool": "main", "request_headers": {"set": upstream},
         "response_headers": answer},
        {"pool": "a", "mirror": {"pool": "copy"}, "request_headers": {"set": upstream}, "response_headers": answer},
    ]  # fmt: skip
    gate = await routing_gate(site, routes, pools)
    reply = await curl(gate, "/x", H, "X-T: me")
    assert reply.fields["x-was"] == f"me {pools['a'][0]}"
    await settle(lambda: len(made_["copy"].requests) == 1, "the copy arrives")
    assert b"X-Call: /x me\r\n" in made_["copy"].last
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        called = channel.unary_unary("/test.Kinds/Unary")(b"hello", timeout=10, metadata=[("x-t", "them")])
        await called
        told = dict(await called.initial_metadata())
    assert main.fields[-1]["x-call"] == "/test.Kinds/Unary them"
    assert told["x-was"] == f"them {pools['main']['endpoints'][0]}"  # type: ignore[call-overload]


async def test_a_text_that_would_be_too_long_refuses_the_request(site: Site) -> None:
    made_, pools = await shown(site, "a")
    long = "${header.x-t}" * 8
    routes = [
        {"match": {"path": {"prefix": "/req/"}}, "pool": "a", "request_headers": {"set": {"x-l": long}}},
        {"match": {"path": {"prefix": "/res/"}}, "pool": "a", "response_headers": {"set": {"x-l": long}}},
        {"match": {"path": {"prefix": "/own/"}}, "respond": {"body": long}},
        {"match": {"path": {"prefix": "/red/"}}, "redirect": {"location": "https://a.org/?" + long}},
        {"match": {"path": {"prefix": "/rew/"}}, "pool": "a", "rewrite": {"path": "/" + long}},
    ]
    gate = await routing_gate(site, routes, pools)
    for place, status in (("req", 431), ("res", 431), ("own", 431), ("red", 431), ("rew", 414)):
        assert (await curl(gate, f"/{place}/", H, "X-T: " + "x" * 3000)).status == status
    assert made_["a"].requests == []
    assert gate.proxy.busy() == 0
