"""The rules of HTTP caching, by the words of RFC 9111, 9110, 5861 and 9213."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from compiled.http_caching import answer, date, names, part, use_of, values
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000
Fields = list[tuple[bytes, bytes]]


def http(seconds: int) -> bytes:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True).encode()


def why(status: int, fields: Fields, **asked: object) -> str:
    return str(answer(status, fields, now=NOW, **asked)[0])


def lifetime(*fields: tuple[bytes, bytes], status: int = 200, **given: object) -> int:
    return int(answer(status, list(fields), now=NOW, **given)[2])


def cc(text: bytes) -> tuple[bytes, bytes]:
    return (b"Cache-Control", text)


# Dates (RFC 9110 section 5.6.7).


@pytest.mark.parametrize(
    "text",
    [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994",
     b"sUN, 06 nOV 1994 08:49:37 gmt"],
)  # fmt: skip
def test_the_three_forms_of_a_date(text: bytes) -> None:
    assert date(text) == 784111777


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"-1", b"Sun, 06 Nov 1994 08:49:37", b"Sun, 06 Nov 1994 08:49:37 UTC", b"Sun, 32 Nov 1994 08:49:37 GMT",
     b"Sun, 06 Nov 94 08:49:37 GMT", b"Sun, 06 Nov 1994 24:49:37 GMT", b"Sun, 06 Non 1994 08:49:37 GMT",
     b"Sun, 06 Nov 1994 8:49:37 GMT", b"Sun, 06 Nov 1994 08.49.37 GMT", b",", b"Sun, 06 Nov 1969 08:49:37 GMT"],
)  # fmt: skip
def test_what_is_no_date(text: bytes) -> None:
    assert date(text) is None


@given(st.integers(0, 4_000_000_000))
def test_any_date_is_read(seconds: int) -> None:
    assert date(http(seconds)) == seconds


@given(st.binary(max_size=40))
def test_no_bytes_harm_the_reader_of_dates(text: bytes) -> None:
    found = date(text)
    assert found is None or found >= 0


# Freshness (RFC 9111 section 4.2.1).


def test_the_order_of_what_says_how_long() -> None:
    expires = (b"Expires", http(NOW + 300))
    modified = (b"Last-Modified", http(NOW - 1000))
    dated = (b"Date", http(NOW))
    assert lifetime(cc(b"max-age=60, s-maxage=30"), expires, dated) == 30
    assert lifetime(cc(b"max-age=60"), expires, dated) == 60
    assert lifetime(expires, dated, modified) == 300
    assert lifetime(modified, dated) == 100
    assert lifetime(modified, dated, default_ttl=7) == 7
    assert lifetime(dated) == 0
    assert lifetime((b"Last-Modified", http(NOW - 10**8)), dated) == 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"max-age=60", 60),
        (b"MAX-AGE=60", 60),
        (b'max-age="60"', 60),
        (b"max-age=0060", 60),
        (b"max-age=99999999999999999999", 0x7FFFFFFF),
        (b"max-age=-60", 0),
        (b"max-age=60.5", 0),
        (b"max-age='60'", 0),
        (b"max-age= 60", 0),
        (b"max-age", 0),
        (b'extension="max-age=3600", max-age=1', 1),
        (b'max-age=1, extension="max-age=3600"', 1),
        (b'e="a\\", max-age=3600", max-age=1', 1),
        (b"max-age=60, max-age=30", 30),
        (b",, max-age=60 ,", 60),
        (b"unknown=1, max-age=60", 60),
    ],
)
def test_lifetimes_as_they_are_written(text: bytes, seconds: int) -> None:
    assert lifetime(cc(text)) == seconds


def test_directives_on_several_lines_are_one_list() -> None:
    assert lifetime(cc(b"max-age=60"), cc(b"s-maxage=5")) == 5
    assert why(200, [cc(b"max-age=60"), cc(b"no-store")]) == "answer"


def test_a_string_without_an_end_may_hide_anything() -> None:
    assert why(200, [cc(b'max-age=60, e="no-store')]) == "answer"


def test_an_unreadable_expires_is_in_the_past() -> None:
    assert lifetime((b"Expires", b"0"), (b"Last-Modified", http(NOW - 1000))) == 0
    assert lifetime((b"Expires", http(NOW - 5)), (b"Date", http(NOW))) == 0


def test_age() -> None:
    def age(*fields: tuple[bytes, bytes], delay: int = 0) -> int:
        return int(answer(200, list(fields), now=NOW, delay=delay)[1])

    assert age((b"Date", http(NOW)), (b"Age", b"30")) == 30
    assert age((b"Date", http(NOW - 50)), (b"Age", b"30")) == 50
    assert age((b"Date", http(NOW + 50)), (b"Age", b"30"), delay=5) == 35
    assert age() == 0
    for unreadable in (b"abc", b"-1", b"7200.0", b"0, 7200", b"", b'"0"'):
        assert age((b"Age", unreadable)) > 10**9, unreadable
    assert age((b"Age", b"0"), (b"Age", b"0")) > 10**9


def test_fields_for_this_cache_stand_in_the_place_of_others() -> None:
    """RFC 9213 section 2.2."""
    ours, cdn = b"Tidegate-Cache-Control", b"CDN-Cache-Control"
    expires = (b"Expires", http(NOW + 300))
    assert lifetime(cc(b"no-store"), (cdn, b"max-age=60"), expires) == 60
    assert lifetime((cdn, b"max-age=60"), (ours, b"max-age=5"), cc(b"max-age=9")) == 5
    assert why(200, [cc(b"no-store"), (cdn, b"max-age=60")]) == "stored"
    assert why(200, [cc(b"max-age=60"), (cdn, b"no-store")]) == "answer"
    assert lifetime((cdn, b""), cc(b"max-age=9")) == 9
    assert lifetime((cdn, b"max-age=60 x"), cc(b"max-age=9")) == 9
    assert lifetime((cdn, b"must-revalidate"), cc(b"max-age=9"), expires) == 0


# What may be stored (RFC 9111 section 3).


@pytest.mark.parametrize(
    ("status", "fields", "asked", "expected"),
    [
        (200, [cc(b"max-age=60")], {}, "stored"),
        (200, [cc(b"max-age=60")], {"get": False}, "request"),
        (200, [cc(b"max-age=60")], {"no_store": True}, "request"),
        (200, [cc(b"max-age=60, no-store")], {}, "answer"),
        (200, [cc(b"max-age=60, private")], {}, "answer"),
        (200, [cc(b'max-age=60, private="x"')], {}, "stored"),
        (206, [cc(b"max-age=60")], {}, "status"),
        (304, [cc(b"max-age=60")], {}, "status"),
        (599, [cc(b"max-age=60")], {}, "stored"),
        (599, [cc(b"max-age=60, must-understand")], {}, "status"),
        (200, [cc(b"max-age=60, must-understand, no-store")], {}, "stored"),
        (200, [cc(b"max-age=60"), (b"Vary", b"a, *")], {}, "vary"),
        (200, [cc(b"max-age=60"), (b"Set-Cookie", b"a=b")], {}, "cookie"),
        (200, [cc(b"max-age=60"), (b"Set-Cookie", b"a=b")], {"ignore_cookie": True}, "stored"),
        (200, [], {}, "lifetime"),
        (200, [(b"ETag", b'"a"')], {}, "stored"),
        (200, [cc(b"no-cache"), (b"ETag", b'"a"')], {}, "stored"),
        (200, [cc(b"no-cache, max-age=60")], {}, "lifetime"),
        (200, [cc(b"max-age=60"), (b"Age", b"60")], {}, "lifetime"),
        (200, [cc(b"max-age=60, stale-while-revalidate=60"), (b"Age", b"60")], {}, "stored"),
        (200, [cc(b"max-age=60, must-revalidate, stale-if-error=60"), (b"Age", b"60")], {}, "lifetime"),
        (200, [cc(b"max-age=60"), (b"Age", b"60")], {"later": 5}, "stored"),
        (500, [(b"ETag", b'"a"')], {}, "status"),
        (302, [(b"Last-Modified", http(NOW - 1000))], {}, "status"),
        (302, [(b"Last-Modified", http(NOW - 1000)), cc(b"public")], {}, "stored"),
        (404, [(b"Last-Modified", http(NOW - 1000))], {}, "stored"),
        (200, [], {"default_ttl": 5}, "stored"),
        (500, [], {"default_ttl": 5}, "status"),
        (200, [], {"default_ttl": 5, "cookie": True}, "lifetime"),
        (200, [cc(b"max-age=60")], {"cookie": True}, "stored"),
        (200, [cc(b"max-age=60")], {"authorized": True}, "request"),
        (200, [cc(b"max-age=60, public")], {"authorized": True}, "stored"),
        (200, [cc(b"max-age=60, must-revalidate")], {"authorized": True}, "stored"),
        (200, [cc(b"s-maxage=60")], {"authorized": True}, "stored"),
        (200, [cc(b"max-age=60, proxy-revalidate")], {"authorized": True}, "request"),
    ],
)
def test_what_may_be_stored(status: int, fields: Fields, asked: dict[str, object], expected: str) -> None:
    assert why(status, fields, **asked) == expected


def test_fields_that_are_not_kept() -> None:
    """RFC 9111 section 3.1."""
    fields = [
        (b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Keep-Alive", b"1"), (b"Proxy-Authenticate", b"1"),
        (b"Proxy-Authentication-Info", b"1"), (b"Content-Length", b"1"), (b"Age", b"1"), (b"Set-Cookie", b"a=b"),
        (b"X-Kept", b"1"), (b"X-Named", b"1"), (b"x-other", b"1"), cc(b'max-age=60, no-cache="x-named, X-Other"'),
        (b"TE", b"1"), (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"1"),
    ]  # fmt: skip
    assert answer(200, fields)[3] == [b"X-Kept", b"Cache-Control"]
    assert answer(200, [(b"Tidegate-Cache-Control", b"max-age=1")])[3] == []


# What may be given (RFC 9111 sections 4.2 and 5.2.1, RFC 5861).


@pytest.mark.parametrize(
    ("request_fields", "told", "age", "expected"),
    [
        ([], b"max-age=60", 59, ("fresh", True)),
        ([], b"max-age=60", 60, ("validate", False)),
        ([], b"max-age=60, no-cache", 0, ("validate", False)),
        ([], b"max-age=60, stale-while-revalidate=30", 89, ("refresh", False)),
        ([], b"max-age=60, stale-while-revalidate=30", 90, ("validate", False)),
        ([], b"max-age=60, stale-if-error=30", 89, ("validate", True)),
        ([], b"max-age=60, stale-if-error=30", 90, ("validate", False)),
        ([], b"max-age=60, must-revalidate, stale-while-revalidate=30, stale-if-error=30", 60, ("validate", False)),
        ([], b"s-maxage=60, stale-while-revalidate=30", 60, ("validate", False)),
        ([cc(b"no-cache")], b"max-age=60", 0, ("request", True)),
        ([cc(b"no-store")], b"max-age=60", 0, ("request", True)),
        ([(b"Pragma", b"no-cache")], b"max-age=60", 0, ("request", True)),
        ([(b"Pragma", b"no-cache"), cc(b"x")], b"max-age=60", 0, ("fresh", True)),
        ([cc(b"max-age=0")], b"max-age=60", 0, ("request", True)),
        ([cc(b"max-age=10")], b"max-age=60", 9, ("fresh", True)),
        ([cc(b"max-age=10")], b"max-age=60", 10, ("request", True)),
        ([cc(b"min-fresh=10")], b"max-age=60", 50, ("fresh", True)),
        ([cc(b"min-fresh=10")], b"max-age=60", 51, ("request", True)),
        ([cc(b"max-stale=10")], b"max-age=60", 70, ("stale", False)),
        ([cc(b"max-stale=10")], b"max-age=60", 71, ("validate", False)),
        ([cc(b"max-stale")], b"max-age=60", 10**6, ("stale", False)),
        ([cc(b"max-stale")], b"max-age=60, proxy-revalidate", 61, ("validate", False)),
    ],
)
def test_what_may_be_given(request_fields: Fields, told: bytes, age: int, expected: tuple[str, bool]) -> None:
    assert use_of(request_fields, answer=[cc(told)], age=age) == expected


def test_requests_without_a_say() -> None:
    assert use_of([cc(b"no-cache")], answer=[cc(b"max-age=60")], honoured=False)[0] == "fresh"
    assert use_of([(b"Pragma", b"no-cache")], answer=[cc(b"max-age=60")], honoured=False)[0] == "fresh"


# Conditions and ranges (RFC 9110 sections 13 and 14).


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(b"If-None-Match", b'"a"')], 304),
        ([(b"If-None-Match", b'W/"a"')], 304),
        ([(b"If-None-Match", b'"b", W/"a" , "c"')], 304),
        ([(b"If-None-Match", b'"b"'), (b"If-None-Match", b'"a"')], 304),
        ([(b"If-None-Match", b"*")], 304),
        ([(b"If-None-Match", b'"b"')], 200),
        ([(b"If-None-Match", b'"a')], 200),
        ([(b"If-None-Match", b'"b, "a"')], 200),
        ([(b"If-Modified-Since", http(NOW))], 304),
        ([(b"If-Modified-Since", http(NOW - 1))], 200),
        ([(b"If-Modified-Since", b"yesterday")], 200),
        ([(b"If-None-Match", b'"b"'), (b"If-Modified-Since", http(NOW))], 200),
        ([(b"If-Match", b'"b"')], 200),
    ],
)
def test_conditions(fields: Fields, expected: int) -> None:
    assert part(fields, etag=b'"a"', last_modified=NOW, made=NOW + 60) == (expected,)


def test_without_last_modified_the_date_has_to_do() -> None:
    assert part([(b"If-Modified-Since", http(NOW))], made=NOW) == (304,)
    assert part([(b"If-Modified-Since", http(NOW))], made=NOW + 1) == (200,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"bytes=0-0", (206, 0, 0)),
        (b"bytes=3-", (206, 3, 9)),
        (b"bytes=-4", (206, 6, 9)),
        (b"bytes=-40", (206, 0, 9)),
        (b"bytes=9-99", (206, 9, 9)),
        (b"BYTES= 1-2 ", (206, 1, 2)),
        (b"bytes=10-", (416,)),
        (b"bytes=-0", (416,)),
        (b"bytes=-", (200,)),
        (b"bytes=2-1", (200,)),
        (b"bytes=0-1,3-4", (200,)),
        (b"bytes=a-b", (200,)),
        (b"bytes=99999999999999999999-", (200,)),
        (b"items=0-1", (200,)),
    ],
)
def test_ranges(text: bytes, expected: tuple[int, ...]) -> None:
    assert part([(b"Range", text)]) == expected
    assert part([(b"Range", text)], ranges=False) == (200,)


def test_a_range_of_nothing() -> None:
    assert part([(b"Range", b"bytes=0-")], size=0) == (416,)
    assert part([(b"Range", b"bytes=-1")], size=0) == (416,)


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        (b'"a"', True),
        (b'W/"a"', False),
        (b'"b"', False),
        (http(NOW), True),
        (http(NOW - 1), False),
        (b"rubbish", False),
    ],
)
def test_if_range(condition: bytes, held: bool) -> None:
    """RFC 9110 section 13.1.5."""
    fields = [(b"Range", b"bytes=1-2"), (b"If-Range", condition)]
    assert part(fields, etag=b'"a"', last_modified=NOW, made=NOW + 60) == ((206, 1, 2) if held else (200,))


def test_a_date_within_the_second_of_the_answer_is_weak() -> None:
    fields = [(b"Range", b"bytes=1-2"), (b"If-Range", http(NOW))]
    assert part(fields, last_modified=NOW, made=NOW) == (200,)


@given(st.binary(max_size=60), st.integers(0, 100))
def test_no_bytes_harm_the_reader_of_ranges(text: bytes, size: int) -> None:
    found = part([(b"Range", b"bytes=" + text), (b"If-None-Match", text)], etag=b'"a"', size=size)
    if found[0] == 206:
        assert 0 <= found[1] <= found[2] < size


# Variants (RFC 9111 section 4.1).


def test_names_of_vary() -> None:
    assert names([(b"Vary", b"Accept-Encoding , X-A"), (b"vary", b",x-b,")]) == b"accept-encoding,x-a,x-b,"
    assert names([]) == b""
    assert names([(b"Vary", b"a" * 600)]) is None


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ([(b"Foo", b"1, 2")], [(b"foo", b"1"), (b"FOO", b"2")], True),
        ([(b"Foo", b"1,2")], [(b"Foo", b" 1 ,\t2 ")], True),
        ([(b"Foo", b"1 2")], [(b"Foo", b"12")], False),
        ([(b"Foo", b'"a, b"')], [(b"Foo", b'"a,b"')], False),
        ([(b"Foo", b"1")], [(b"Foo", b"2")], False),
        ([(b"Foo", b"a")], [(b"Foo", b"A")], False),
        ([(b"Foo", b"1, 2")], [(b"Foo", b"2, 1")], False),
        ([], [(b"Foo", b"")], False),
        ([(b"Foo", b"1")], [], False),
        ([(b"Bar", b"1")], [(b"Bar", b"2")], True),
        ([(b"Accept-Language", b"en, de")], [(b"Accept-Language", b"DE,EN")], True),
        ([(b"Accept-Language", b"en;q=0.5, de")], [(b"Accept-Language", b"de, en; q=0.5")], True),
        ([(b"Accept-Language", b"en, de")], [(b"Accept-Language", b"en")], False),
    ],
)
def test_requests_that_get_the_same_variant(one: Fields, other: Fields, alike: bool) -> None:
    vary = b"foo,accept-language,"
    assert (values(vary, one) == values(vary, other)) == alike


@given(st.lists(st.binary(max_size=20), max_size=80))
def test_no_bytes_harm_the_reader_of_variants(elements: list[bytes]) -> None:
    fields = [(b"Accept", b",".join(elements)), (b"Accept-Language", b",".join(elements))]
    assert values(b"accept,accept-language,", fields) == values(b"accept,accept-language,", fields)
