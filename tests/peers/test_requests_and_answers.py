"""Requests and answers: values, maps, conditions, redirects, rewrites, own answers, the log."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, eventually
from peer_site import Answer, Echo, ask
from scenarios import from_haproxy, from_nginx

NGINX_MAP = {
    "exact": {"key": "${request.query}", "entries": {"foo": "bar", "foo2": "bar"}},
    "names": {
        "key": "${request.query}",
        "match": "domain",
        "entries": {"example.com": "foo", "dot.example.com": "special"},
    },
    "regex": {"key": "${request.query}", "match": "regex", "entries": {"(?i)^www.regex.example\\.org$": "insensitive"}},
}
MAPS = {
    **NGINX_MAP,
    "moved": {
        "key": "${request.path}",
        "entries": {"/path/to/old/file": "/path/to/new/file", "/far": "https://far.org/a?b=%20c#d"},
    },
    "sites": {
        "key": "${request.host}",
        "entries": {"example.org": "www.example.org", "sub.example.org": "www.sub.example.org"},
    },
    "pools": {"key": "${request.host}", "match": "domain", "entries": {"test1.example.com": "one"}},
    "order": {
        "key": "${request.host}",
        "match": "domain",
        "entries": {"first.domain.tld": "first", "domain.tld": "domain", "second.domain.tld": "second"},
    },
    "found": {"key": "${request.host}", "match": "regex", "entries": {"example\\.org$": "example", "other": "other"}},
}


def respond(path: dict[str, str], body: str = "", **more: Any) -> dict[str, Any]:
    return {"match": {"path": path}, "respond": {"body": body, **more}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Daemon]) -> tuple[Daemon, Path]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "1k.txt").write_text("x" * 1024)
    (folder / "empty.txt").write_text("")
    one, two = Echo("one"), Echo("two")
    plain = {"Content-Type": "text/plain"}
    routes = [
        {"match": {"maps": {"moved": {"present": True}}}, "redirect": {"location": "${map.moved}", "status": 301}},
        {
            "match": {"maps": {"sites": {"present": True}}},
            "redirect": {"location": "https://${map.sites}${request.uri}", "status": 301},
        },
        respond({"prefix": "/map"}, "x:${map.exact:-0} y:${map.names:-${map.regex:-0}}", headers=plain),
        respond({"prefix": "/complex"}, "foo:${map.exact:-bar}:foo", headers=plain),
        respond({"prefix": "/dom"}, "${map.order:-none}", headers=plain),
        respond({"prefix": "/regm"}, "${map.found}", headers=plain),
        respond({"exact": "/def-1"}),
        respond({"exact": "/def-2"}, headers={"X-Custom": "${request.uri}"}),
        respond({"exact": "/def-3"}, status=403),
        respond({"exact": "/string"}, "hello", headers={**plain, "X-Custom": "${request.uri}"}),
        respond({"exact": "/lf-string"}, "path is ${request.path}", headers=plain),
        respond({"exact": "/empty-file"}, file=str(folder / "empty.txt")),
        respond({"exact": "/file"}, file=str(folder / "1k.txt")),
        {
            "match": {"path": {"regex": "^/req[0-9]$"}},
            "pool": "one",
            "rewrite": {"path": "/foo/fe${request.path}/bar"},
            "request_headers": {
                "set": {"X-Path": "${request.path}", "X-Pathq": "${request.uri}", "X-Query": "${request.query}"}
            },
        },
        {
            "match": {"path": {"exact": "/cook"}},
            "pool": "one",
            "response_headers": {"set": {"X-Cook": "${cookie.cook2}", "X-None": "${cookie.cook9:-none}"}},
        },
        {
            "match": {"path": {"exact": "/del"}},
            "pool": "one",
            "request_headers": {"remove": ["X-Str1", "x-str2"]},
            "response_headers": {"remove": ["X-Secret"]},
        },
        {
            "match": {"path": {"regex": "^/download/(.*)/media/(.*)\\..*$"}},
            "pool": "one",
            "rewrite": {"path": "/download/${capture.1}/mp3/${capture.2}.mp3"},
        },
        {
            "match": {"path": {"regex": "^/old/(?P<rest>.*)$"}},
            "redirect": {"location": "/new/${capture.rest}", "status": 302},
        },
        {
            "match": {
                "path": {"prefix": "/restricted"},
                "none": [{"headers": {"referer": {"regex": "^https?://([^/]*\\.)?good\\.org(/|$)"}}}],
            },
            "respond": {"status": 403},
        },
        {"match": {"path": {"prefix": "/restricted"}}, "respond": {"body": "let in"}},
        {
            "match": {"path": {"prefix": "/lan"}, "not_source": ["127.0.0.2/32", "10.0.0.0/8"]},
            "respond": {"status": 403},
        },
        {"match": {"path": {"prefix": "/lan"}}, "respond": {"body": "let in"}},
        {
            "match": {
                "path": {"prefix": "/acl"},
                "any": [{"headers": {"x-a": {"present": True}}, "query": {"q": "1"}}, {"cookies": {"c": "ok"}}],
                "none": [{"headers": {"x-bad": {"present": True}}}],
            },
            "respond": {"body": "matched"},
        },
        respond({"prefix": "/acl"}, "not matched"),
        {"match": {"host": "www.names.org"}, "respond": {"body": "exact"}},
        {"match": {"host": "*.names.org"}, "respond": {"body": "wildcard"}},
        {"match": {"host_regex": "^www[0-9]+\\.other\\.org$"}, "respond": {"body": "regex"}},
        {"match": {"host": "switch.org", "path": {"prefix": "/"}}, "pool": "one"},
        {"match": {"host": "switch.org", "path": {"prefix": "/static/"}}, "pool": "two"},
        {
            "match": {"path": {"prefix": "/split"}},
            "pools": [{"pool": "one", "weight": 51}, {"pool": "two", "weight": 49}],
            "sticky": {"text": "${query.user}"},
        },
        {
            "match": {"path": {"exact": "/logged"}},
            "pool": "one",
            "log_fields": {"hosts": "${request.host}", "list": "${header.x-list}", "uri": "${request.uri}"},
        },
        {
            "pools": [{"pool": "one", "weight": 0}, {"pool": "two"}],
            "pool_by": "${map.pools}",
            "response_headers": {"set": {"X-Id": "${request.id}"}},
        },
    ]
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes, "request_id": True}
    pools = {each.name: {"protocol": "http", "endpoints": [each.address]} for each in (one, two)}
    log = folder / "access.log"
    config = {"listeners": {"web": web}, "pools": pools, "maps": MAPS, "log": {"access": str(log)}}
    return run(config), log


@pytest.fixture(scope="module")
def daemon(site: tuple[Daemon, Path]) -> Daemon:
    return site[0]


@pytest.fixture(scope="module")
def get(daemon: Daemon) -> Callable[..., Answer]:
    port = daemon.port()
    return lambda *arguments, **more: ask(port, *arguments, **more)


@from_haproxy("http-rules/map_redirect.vtc")
def test_a_path_in_a_map_is_redirected(get: Callable[..., Answer]) -> None:
    """A path that a map has is redirected to what the map has for it; any other path goes on to its pool."""
    moved = get("/path/to/old/file")
    assert (moved.status, moved.fields["location"]) == (301, "/path/to/new/file")
    assert get("/far").fields["location"] == "https://far.org/a?b=%20c#d"
    assert get("/path/to/other/file").name == "two"


@from_haproxy("http-rules/map_redirect.vtc")
def test_a_host_in_a_map_is_redirected(get: Callable[..., Answer]) -> None:
    """A host that a map has, with a port or without, is redirected to the host that the map has for it, path and query
    kept."""
    for host in ("example.org:8443", "example.org"):
        moved = get("/a?b=c", host=host)
        assert (moved.status, moved.fields["location"]) == (301, "https://www.example.org/a?b=c")
    assert get(host="sub.example.org").fields["location"] == "https://www.sub.example.org/"
    assert get(host="www.sub.example.org").status == 200


@from_haproxy("http-rules/map_redirect.vtc")
def test_a_map_names_the_pool(get: Callable[..., Answer]) -> None:
    """The pool is what a map has for the host; a host that the map does not have goes to the default."""
    assert get(host="test1.example.com:1234").name == "one"
    assert get(host="test3.example.com:1234").name == "two"


@from_haproxy(
    "http-rules/map_ordering.vtc",
    differs=(
        "The longest name counts, wherever it stands; in HAProxy the first in the file. An order that decides"
        " is easily broken by a sort."
    ),
)
def test_the_order_of_a_map(get: Callable[..., Answer]) -> None:
    """Of two names in a map that a host is below, one counts by a rule that does not depend on the table's inner
    order."""
    assert get("/dom", host="first.domain.tld").body == "first"
    assert get("/dom", host="second.domain.tld").body == "second"
    assert get("/dom", host="third.domain.tld").body == "domain"


@from_haproxy(
    "http-rules/map_regm_with_backref.vtc",
    differs=(
        "The value of an entry is plain text, without back references: `match.path.regex` and `${capture.1}` "
        "are for these."
    ),
)
def test_expressions_of_a_map(get: Callable[..., Answer]) -> None:
    """A map of regular expressions gives the value of the first that is found in the host, with its port taken off."""
    assert get("/regm", host="b.example.org:8443").body == "example"
    assert get("/regm", host="other.example.org").body == "example"
    assert get("/regm", host="b.other.net").body == "other"


@from_nginx(
    "map.t",
    differs=(
        "Names, expressions and plain texts are maps of their own, by `match`; a default stands behind `:-`. "
        "`example.*` does not exist."
    ),
)
def test_maps_by_query(get: Callable[..., Answer]) -> None:
    """Maps of texts, of host names with those below them, and of expressions, each with a default."""
    for query, said in (
        ("foo", "x:bar y:0"),
        ("foo2", "x:bar y:0"),
        ("none", "x:0 y:0"),
        ("example.com", "x:0 y:foo"),
        ("a.dot.example.com", "x:0 y:special"),
        ("WWW.REGEX.EXAMPLE.ORG", "x:0 y:insensitive"),
        ("", "x:0 y:0"),
    ):
        assert get(f"/map?{query}").body == said


@from_nginx("map_complex.t")
def test_text_around_a_map(get: Callable[..., Answer]) -> None:
    """The value of a map stands within other text, with another value as its default."""
    assert get("/complex?foo").body == "foo:bar:foo"
    assert get("/complex?x").body == "foo:bar:foo"


@from_haproxy(
    "http-rules/path_and_pathq.vtc",
    differs=(
        "One `rewrite` makes the whole new path; the query stays behind it. In HAProxy several rules change "
        "path and query one after another."
    ),
)
@pytest.mark.parametrize("target", ["/req1?p1=v1&p2=v2", "http://a.org/req1?p1=v1&p2=v2"])
def test_path_query_and_both(get: Callable[..., Answer], target: str) -> None:
    """Path, query and both are those of the request as it came, also of one in absolute form; the path is rewritten,
    and the query stays."""
    got = get(target)
    assert got.got["target"] == "/foo/fe/req1/bar?p1=v1&p2=v2"
    assert got.seen("x-path") == ["/req1"]
    assert got.seen("x-pathq") == ["/req1?p1=v1&p2=v2"]
    assert got.seen("x-query") == ["p1=v1&p2=v2"]


@from_haproxy("http-rules/http_return.vtc")
def test_answers_of_a_route(get: Callable[..., Answer]) -> None:
    """A route answers by itself: nothing, a status, headers, a text, a text with values, a file, an empty file."""
    nothing = get("/def-1")
    assert (nothing.status, nothing.fields["content-length"], "content-type" in nothing.fields) == (200, "0", False)
    assert get("/def-2").fields["x-custom"] == "/def-2"
    assert (get("/def-3").status, get("/def-3").body) == (403, "")
    text = get("/string")
    assert (text.body, text.fields["content-type"], text.fields["x-custom"]) == ("hello", "text/plain", "/string")
    assert get("/lf-string").body == "path is /lf-string"
    assert get("/empty-file").fields["content-length"] == "0"
    assert (get("/file").body, get("/file").fields["content-type"]) == ("x" * 1024, "text/plain; charset=utf-8")


@from_haproxy("sample_fetches/cook.vtc")
def test_a_cookie_among_several(get: Callable[..., Answer]) -> None:
    """The value of one cookie among several, in one header and in two; a cookie that is not there gives the default."""
    found = get("/cook", "Cookie: cook1=0; cook2=123; cook3=22")
    assert (found.fields["x-cook"], found.fields["x-none"]) == ("123", "none")
    assert get("/cook", "Cookie: cook1=0", "Cookie: cook2=4; cook3=5").fields["x-cook"] == "4"


@from_haproxy(
    "http-rules/del_header.vtc",
    differs=(
        "`remove` takes names in any case; patterns of names do not exist, so that a rule says what it takes away."
    ),
)
def test_headers_are_removed(get: Callable[..., Answer]) -> None:
    """Headers that a route removes do not reach the endpoint; the others do."""
    got = get("/del", "X-Always: always", "x-str1: 1", "X-STR2: 2", "X-Str3: 3")
    assert [got.seen(name) for name in ("x-always", "x-str1", "x-str2", "x-str3")] == [["always"], [], [], ["3"]]


@from_nginx("rewrite.t")
def test_a_path_by_groups(get: Callable[..., Answer]) -> None:
    """Groups of an expression make the new path for the endpoint, and the location of a redirect; the query stays."""
    assert get("/download/a/media/b.avi?c=d").got["target"] == "/download/a/mp3/b.mp3?c=d"
    moved = get("/old/x/y")
    assert (moved.status, moved.fields["location"]) == (302, "/new/x/y")


@from_nginx(
    "referer.t",
    differs=(
        "A condition on the header `Referer` does it; there is no directive of its own. `none` and `blocked` "
        "are `absent` and an expression."
    ),
)
def test_pages_of_other_sites(get: Callable[..., Answer]) -> None:
    """Requests that come from pages of other sites, or of none, are refused."""
    for referer, status in (
        ("https://www.good.org/page", 200),
        ("http://good.org", 200),
        ("https://good.org.evil.net/", 403),
        ("https://evil.net/good.org", 403),
    ):
        assert get("/restricted", f"Referer: {referer}").status == status
    assert get("/restricted").status == 403


@from_nginx("access.t")
def test_networks_that_may_ask(daemon: Daemon) -> None:
    """Only clients in the networks that a route names are let in."""
    port = daemon.port()
    assert ask(port, "/lan", source="127.0.0.2").body == "let in"
    assert ask(port, "/lan", source="127.0.0.3").status == 403
    assert ask(port, "/lan").status == 403


@from_haproxy(
    "sample_fetches/acl.vtc",
    differs="Groups stand where they are used, by `any` and `none`; conditions have no names.",
)
def test_groups_of_conditions(get: Callable[..., Answer]) -> None:
    """Conditions are joined by and, or and not."""
    for fields, query, said in (
        (["X-A: 1"], "?q=1", "matched"),
        (["X-A: 1"], "?q=2", "not matched"),
        (["Cookie: c=ok"], "", "matched"),
        (["Cookie: c=ok", "X-Bad: 1"], "", "not matched"),
        ([], "", "not matched"),
    ):
        assert get(f"/acl{query}", *fields).body == said


@from_nginx("http_server_name.t")
def test_names_of_hosts(get: Callable[..., Answer]) -> None:
    """An exact name goes before a wildcard and an expression, in any case and with a port."""
    assert get(host="www.names.org").body == "exact"
    assert get(host="WWW.Names.org:8080").body == "exact"
    assert get(host="x.y.names.org").body == "wildcard"
    assert get(host="www12.other.org").body == "regex"
    assert get(host="wwwx.other.org").name == "two"


@from_nginx("http_location.t")
def test_pools_by_path(get: Callable[..., Answer]) -> None:
    """Of the paths that a request begins with the longest counts, whatever the order in the file."""
    assert get("/static/logo.png", host="switch.org").name == "two"
    assert get("/index", host="switch.org").name == "one"


@from_nginx("split_clients.t")
def test_shares_of_clients(get: Callable[..., Answer]) -> None:
    """Clients are shared out by percent, by a text, and each stays with its share."""
    users = [f"u{i}" for i in range(32)]
    first = [get(f"/split?user={user}").name for user in users]
    assert first == [get(f"/split/again?user={user}").name for user in users]
    assert min(Counter(first).values()) > 3


@from_haproxy("stream/unique-id.vtc")
@from_nginx("request_id.t")
def test_an_id_for_each_request(get: Callable[..., Answer]) -> None:
    """Each request has an id of 32 hexadecimal digits, the same at the endpoint and in the answer; what a client sends
    is not taken for it."""
    answers = [get(), get(), get("/", "X-Request-Id: mine")]
    ids = [answer.seen("x-request-id") for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", one[0]) and len(one) == 1 for one in ids)
    assert [[answer.fields["x-id"]] for answer in answers] == ids
    assert len({one[0] for one in ids}) == 3


@from_haproxy(
    "http-capture/multiple_headers.vtc",
    "log/log_uri.vtc",
    differs="A URI in absolute form is logged in origin form, as routes see it.",
)
@from_nginx("access_log.t")
def test_headers_in_the_log(site: tuple[Daemon, Path]) -> None:
    """The access log has headers and the URI of a request as fields of their own, escaped, and several lines of a
    header as one."""
    daemon, log = site
    ask(daemon.port(), '/logged?a="b"', "X-List: one", "X-List: two", host="log.org")

    def line() -> Any:
        lines = [json.loads(text) for text in log.read_text().splitlines()]
        return next((each["fields"] for each in lines if each.get("fields")), None)

    assert eventually(line, "the line") == {"hosts": "log.org", "list": "one, two", "uri": '/logged?a="b"'}
    ask(daemon.port(), "http://log.org/logged?q=4", host="log.org")
    eventually(lambda: '"uri":"/logged?q=4"' in log.read_text(), "the second line")


@from_haproxy("http-rules/normalize_uri.vtc")
@from_nginx("merge_slashes.t", "http_uri.t")
def test_one_form_for_each_path(get: Callable[..., Answer]) -> None:
    """Slashes are merged, dot segments are resolved, and escapes of plain letters are undone, before a route is looked
    for; the query is left alone."""
    for target, form in (
        ("/a//b///c", "/a/b/c"),
        ("/a/./b/../c", "/a/c"),
        ("/%61/b", "/a/b"),
        ("/a?x=//y/../z", "/a?x=//y/../z"),
    ):
        assert get(target).got["target"] == form
    assert get("/x/..//string").body == "hello"
