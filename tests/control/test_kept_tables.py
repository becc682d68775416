"""What is kept of stick tables for the next program: what is noted, what is of no use, and what begins anew."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lb.clock import MonotonicClock
from lb.config.schema.tables import TableConfig, table_plan
from lb.control import kept_tables
from lb.control.cache.kept import SEGMENT
from lb.control.systemd import Stored
from lb.control.tables import TableKeeper
from lb.shared.segment import Segment

USER = "\U000f0010header.x-user\U000f0012"


def table(**change: object) -> TableConfig:
    return TableConfig.model_validate({"key": USER, "size": 1000, "store": ["requests", "gpt0"], **change})


class Daemon:
    def __init__(self, stored: list[Stored] | None = None, **tables: TableConfig) -> None:
        before = kept_tables.take(stored or [])
        for each in stored or []:
            if each.name == SEGMENT:
                os.close(each.fd)
        self.segment = Segment.create(1, 1, 1, stick_sets=4096, stick_secret=before.secret if before else None)
        self.tables = TableKeeper(self.segment, MonotonicClock(), before)
        self.keeping = kept_tables.KeepingTables(self.segment)
        self.publish(**tables)

    def publish(self, **tables: TableConfig) -> None:
        places = self.tables.places(tables)
        self.tables.commit([table_plan(name, config, places[name]) for name, config in tables.items()])
        self.keeping.note(self.tables.kept)

    def requests(self, name: str) -> dict[str, int]:
        return {row["key"]: row["requests"] for row in self.tables.entries(name)}

    def passed(self) -> list[Stored]:
        return [Stored(name, os.dup(fd)) for name, fd in self.keeping.named(with_segment=True)]

    def close(self) -> None:
        self.tables.let_go()
        self.keeping.close()
        self.segment.close()


@pytest.fixture
def before() -> Iterator[Daemon]:
    made = Daemon(users=table(), others=table(size=2000))
    made.tables.put("users", "anna", {"requests": 5})
    made.tables.put("others", "bert", {"requests": 6})
    yield made
    made.close()


def test_tables_of_the_same_definition_go_on_wherever_they_are(before: Daemon) -> None:
    now = Daemon(before.passed(), others=table(size=2000, expire="1h"), new=table(), users=table())
    assert (now.requests("users"), now.requests("others"), now.requests("new")) == ({"anna": 5}, {"bert": 6}, {})
    before.tables.put("users", "anna", {"requests": 7})
    # A reload that makes it another ends that; what was counted for the other place goes nowhere.
    now.publish(users=table(size=3000), others=table(size=2000))
    before.tables.put("others", "bert", {"requests": 8})
    now.tables.bring()
    assert (now.requests("users"), now.requests("others")) == ({}, {"bert": 8})
    # And the one after that goes on with the new places.
    third = Daemon(now.passed(), users=table(size=3000), others=table(size=2000))
    assert (third.requests("users"), third.requests("others")) == ({}, {"bert": 8})
    third.close()
    now.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "\U000f0010client.address\U000f0012"}, "its key was ${header.x-user}, and is ${client.address}"),
        ({"size": 1001}, "its size was 1000, and is 1001"),
        ({"store": ["requests"]}, "its store was gpt0, requests, and is requests"),
    ],
)
def test_another_definition_begins_anew_and_is_told(
    before: Daemon, caplog: pytest.LogCaptureFixture, change: dict[str, object], said: str
) -> None:
    now = Daemon(before.passed(), users=table(**change), others=table(size=2000))
    assert (now.requests("users"), now.requests("others")) == ({}, {"bert": 6})
    assert f"tables.users: counts begin anew: {said}" in caplog.text
    now.close()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda notes: os.pwrite(notes, b"\xff", 20), "the notes are damaged"),
        (lambda notes: os.pwrite(notes, b"\xff\xff\xff\x7f", 0), "the notes are damaged"),
        (lambda notes: os.ftruncate(notes, 3), "the notes are damaged"),
    ],
)
def test_notes_that_were_not_written_to_the_end(
    before: Daemon, caplog: pytest.LogCaptureFixture, harm: object, said: str
) -> None:
    stored = before.passed()
    harm(stored[1].fd)  # type: ignore[operator]
    now = Daemon(stored, users=table())
    assert now.requests("users") == {}
    assert f"what was kept of them is of no use: {said}" in caplog.text
    now.close()


def test_notes_and_segment_belong_together(before: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    other = Daemon(users=table())
    mixed = [other.passed()[0], before.passed()[1]]
    assert kept_tables.take(mixed) is None
    assert "they are another segment's" in caplog.text
    caplog.clear()
    assert kept_tables.take([before.passed()[1]]) is None
    assert "they are another segment's" in caplog.text
    caplog.clear()
    assert kept_tables.take([before.passed()[0]]) is None
    assert not caplog.text, "a daemon without tables"
    other.publish()
    assert kept_tables.take(other.passed()) is None
    assert not caplog.text, "none are left"
    other.close()
