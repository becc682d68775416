"""What a head says about its job."""

from __future__ import annotations

import pytest

from lb.jobs.job import Fields
from lb.jobs.options import OptionError, Options, passed_on, preferences, read_options, tenant_of


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("respond-async", [("respond-async", "")]),
        ("Respond-Async, wait=10", [("respond-async", ""), ("wait", "10")]),
        ('wait = "7"; x=y, return=minimal', [("wait", "7"), ("return", "minimal")]),
        (",, =x", []),
        ("", []),
    ],
)
def test_preferences(line: str, found: list[tuple[str, str]]) -> None:
    assert preferences([line]) == found


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ([], Options()),
        ([("Prefer", "respond-async"), ("prefer", "wait=5")], Options(wait=5.0)),
        ([("Prefer", "wait=100000000000000000000")], Options(wait=60.0)),
        ([("Prefer", "wait=-1")], Options()),
        ([("Prefer", "wait=²")], Options()),
        ([("Priority", "u=1, i")], Options(priority=1)),
        ([("Priority", "i,u=0")], Options(priority=0)),
        ([("Priority", "u=8")], Options()),
        ([("Priority", "u=33")], Options()),
        ([("X-Tidegate-Deadline", "1.5m")], Options(deadline=90.0)),
        ([("Idempotency-Key", " k ")], Options(key="k")),
        ([("X-Tidegate-Webhook", " https://h/x ")], Options(webhook="https://h/x")),
    ],
)
def test_options(fields: Fields, options: Options) -> None:
    assert read_options(fields) == options


@pytest.mark.parametrize(
    "field",
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "k" * 256),
        ("X-Tidegate-Deadline", "10"),
        ("X-Tidegate-Deadline", "0s"),
        ("X-Tidegate-Deadline", "-1s"),
    ],
)
def test_what_cannot_be_meant_is_refused(field: tuple[str, str]) -> None:
    with pytest.raises(OptionError, match=field[0]):
        read_options([field])


@pytest.mark.parametrize(
    ("kind", "name", "fields", "target", "tenant"),
    [
        ("header", "X-T", [("x-t", "a")], "/", "a"),
        ("header", "X-T", [], "/", None),
        ("header", "X-T", [("x-t", "")], "/", None),
        ("header", "X-T", [("x-t", "a"), ("X-T", "b")], "/", None),
        ("cookie", "t", [("Cookie", "x=1; t=a")], "/", "a"),
        ("cookie", "t", [("Cookie", "t=a; t=b")], "/", None),
        ("query", "t", [], "/x?t=%41&u=1", "A"),
        ("query", "t", [], "/x", None),
    ],
)
def test_a_tenant_is_named_once(kind: str, name: str, fields: Fields, target: str, tenant: str | None) -> None:
    assert tenant_of(kind, name, fields, target) == tenant


def test_fields_of_one_connection_and_our_own_stay_behind() -> None:
    fields = [
        ("Host", "h"), ("Connection", "close, X-Hop"), ("X-Hop", "1"), ("TE", "trailers"), ("Content-Length", "3"),
        ("Prefer", "respond-async"), ("X-Tidegate-Job-Route", "forged"), ("X-Tidegate-Webhook", "u"),
        ("Idempotency-Key", "k"), ("Authorization", "a"), ("X-A", "1"), ("X-A", "2"),
    ]  # fmt: skip
    assert passed_on(fields) == [
        ("Host", "h"), ("Idempotency-Key", "k"), ("Authorization", "a"), ("X-A", "1"), ("X-A", "2"),
    ]  # fmt: skip
