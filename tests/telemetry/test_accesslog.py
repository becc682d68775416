"""The ring and its thread: lines, spans for an exporter, switching both on and off, and pipes that nobody reads."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from compiled.access_log import write_sample
from waiting import eventually

from lb.telemetry import accesslog
from lb.telemetry.accesslog import AccessLog

TRACE, SPAN, PARENT = bytes(range(1, 17)), b"spanspan", b"parentid"


class Exporter:
    def __init__(self, fails: bool = False) -> None:
        self.spans: list[Mapping[str, Any]] = []
        self.closed = 0
        self.fails = fails

    def record(self, record: Mapping[str, Any]) -> None:
        self.spans.append(record)
        if self.fails:
            raise RuntimeError("no")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def made(path: Path) -> AccessLog:
    return AccessLog(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_every_field(path: Path) -> None:
    log = made(path)
    log.enable(True)
    texts = {
        "client": "203.0.113.1", "method": "GET", "host": "a", "target": '/"\\\x01\xff', "listener": "web",
        "route": "web/0", "pool": "app", "endpoint": "127.0.0.1:1", "reason": "timeout", "request_id": "abc",
    }  # fmt: skip
    assert write_sample(log, trace_id=TRACE, flags=1, status=504, version=20, tls=0x0304, texts=texts)
    log.close()
    (line,) = lines(path)
    assert {name: line[name] for name in texts} == texts
    assert (line["protocol"], line["tls"], line["status"], line["attempts"]) == ("HTTP/2", "TLSv1.3", 504, 1)
    assert line["grpc_status"] is None
    assert line["trace_id"] == TRACE.hex()
    assert [line[f"{name}_us"] for name in ("total", "wait", "connect", "upstream", "transfer")] == [
        4000, 1000, 500, 2000, 1000,
    ]  # fmt: skip


def test_characters_are_those_that_the_client_sent(path: Path) -> None:
    log = made(path)
    log.enable(True)
    for text in ("\u00e9 \u6f22 \U0001f600", "\x9b31m", "\u202e"):
        assert write_sample(log, texts={"user_agent": text.encode().decode("latin-1")})
    log.close()
    assert [line["user_agent"] for line in lines(path)] == ["\u00e9 \u6f22 \U0001f600", "\x9b31m", "\u202e"]
    assert path.read_bytes().isascii()  # nothing that a terminal obeys


def test_an_explanation_stands_at_the_end_and_is_freed_if_it_is_not_written(path: Path) -> None:
    log = made(path)
    log.export(Exporter())  # which takes none of it
    write_sample(log, explanation=b"[]")
    log.enable(True)
    for text in (b'{"a": "b"}', None, b"{}"):
        assert write_sample(log, explanation=text)
    log.close()
    assert [line.get("explain") for line in lines(path)][-3:] == [{"a": "b"}, None, {}]


@pytest.mark.parametrize(
    ("version", "tls", "names"),
    [(10, 0, ("HTTP/1.0", "")), (11, 0x0303, ("HTTP/1.1", "TLSv1.2")), (0, 0, ("", ""))],
)
def test_names_of_protocols(path: Path, version: int, tls: int, names: tuple[str, str]) -> None:
    log = made(path)
    log.enable(True)
    write_sample(log, version=version, tls=tls)
    log.close()
    (line,) = lines(path)
    assert (line["protocol"], line["tls"], line["trace_id"]) == (*names, "")


@pytest.mark.parametrize("code", [0, 14])
def test_a_grpc_status_stands_beside_that_of_http(path: Path, code: int) -> None:
    log = made(path)
    log.enable(True)
    write_sample(log, grpc_status=code)
    log.close()
    (line,) = lines(path)
    assert (line["status"], line["grpc_status"]) == (200, code)


def test_texts_are_cut_at_their_room(path: Path) -> None:
    log = made(path)
    log.enable(True)
    write_sample(log, texts=dict.fromkeys(("client", "target", "request_id", "reason"), "x" * 1000))
    log.close()
    (line,) = lines(path)
    assert [len(line[name]) for name in ("client", "target", "request_id", "reason")] == [46, 256, 128, 32]


def test_an_exporter_gets_sampled_traces_only(path: Path) -> None:
    log, exporter = made(path), Exporter()
    log.export(exporter)
    assert log.enabled
    assert not log.writing
    write_sample(log, trace_id=TRACE, span_id=SPAN, flags=0)
    write_sample(log, trace_id=TRACE, span_id=SPAN, parent_id=PARENT, flags=3, texts={"target": "/a?b", "route": "r"})
    write_sample(log, trace_id=TRACE, span_id=SPAN, flags=1)
    eventually(lambda: len(exporter.spans) == 2)
    first, second = exporter.spans
    assert (first["trace_id"], first["span_id"], first["parent_id"], first["trace_flags"]) == (TRACE, SPAN, PARENT, 3)
    assert (first["target"], first["route"], first["total_ns"], first["protocol"]) == (
        "/a?b",
        "r",
        4_000_000,
        "HTTP/1.1",
    )
    assert second["parent_id"] == b""
    log.close()
    assert exporter.closed == 1
    assert path.read_text() == ""


def test_written_and_exported_together(path: Path) -> None:
    log, exporter = made(path), Exporter()
    log.enable(True)
    log.export(exporter)
    for _ in range(100):
        assert write_sample(log, trace_id=TRACE, flags=1)
    log.close()
    assert len(lines(path)) == len(exporter.spans) == 100
    assert exporter.closed == 1


def test_another_exporter_replaces_the_first(path: Path) -> None:
    log, first, second = made(path), Exporter(), Exporter()
    log.export(first)
    log.export(first)
    assert first.closed == 0
    log.export(second)
    eventually(lambda: first.closed == 1)
    write_sample(log, trace_id=TRACE, flags=1)
    log.export(None)
    assert (len(first.spans), len(second.spans), second.closed) == (0, 1, 1)
    assert not log.enabled
    assert not write_sample(log)


def test_writing_goes_on_without_an_exporter_and_the_other_way_round(path: Path) -> None:
    log, exporter = made(path), Exporter()
    log.enable(True)
    log.export(exporter)
    log.export(None)
    write_sample(log)
    eventually(lambda: len(lines(path)) == 1)
    eventually(lambda: exporter.closed == 1)
    other = Exporter()
    log.export(other)
    log.enable(False)
    write_sample(log, trace_id=TRACE, flags=1)
    eventually(lambda: len(other.spans) == 1)
    log.close()
    assert len(lines(path)) == 1


def test_an_exporter_that_fails_costs_spans_only(path: Path) -> None:
    log, exporter = made(path), Exporter(fails=True)
    log.enable(True)
    log.export(exporter)
    for _ in range(3):
        write_sample(log, trace_id=TRACE, flags=1)
    log.close()
    assert len(exporter.spans) == 3
    assert len(lines(path)) == 3


def test_a_full_ring_drops_and_counts(path: Path) -> None:
    log = made(path)
    assert not write_sample(log)  # off
    assert log.dropped == 0
    log.enable(True)
    written = sum(write_sample(log) for _ in range(20_000))
    log.close()
    assert written + log.dropped == 20_000
    assert len(lines(path)) == written


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """As a shell makes them: with writes that wait."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def rest_of(reading: int) -> bytes:
    os.set_blocking(reading, False)
    data = b""
    try:
        while part := os.read(reading, 65536):
            data += part
    except BlockingIOError:
        pass
    return data


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(pipe[1])
    log.enable(True)
    assert sum(write_sample(log) for _ in range(20_000)) < 20_000
    with caplog.at_level(logging.WARNING, "tidegate.telemetry"):
        log.close()
    written = [json.loads(line) for line in rest_of(pipe[0]).splitlines()]  # whole ones only
    assert len(written) + log.dropped == 20_000
    assert written
    assert " records of the access log could not be written" in caplog.text


def test_a_pipe_that_is_read_late_gets_everything(pipe: tuple[int, int]) -> None:
    log = AccessLog(pipe[1])
    log.enable(True)
    assert all(write_sample(log, explanation=b'"' + b"x" * 5000 + b'"' if i % 3 else None) for i in range(300))
    data = b""
    while data.count(b"\n") < 300:
        data += os.read(pipe[0], 65536)
    log.close()
    assert len([json.loads(line) for line in data.splitlines()]) == 300
    assert (log.dropped, log.write_errors) == (0, 0)


def test_a_log_that_is_opened_anew_gets_what_the_pipe_did_not_take(pipe: tuple[int, int], path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    log = AccessLog(pipe[1])
    log.enable(True)
    assert all(write_sample(log) for _ in range(1000))
    os.dup2(file, pipe[1])  # as the worker does it
    write_sample(log, texts={"target": "/last"})
    eventually(lambda: '"/last"' in path.read_text())
    log.close()
    os.close(file)
    data = rest_of(pipe[0]) + path.read_bytes()
    assert len([json.loads(line) for line in data.splitlines()]) == 1001


def test_what_a_pipe_does_not_take_is_exported_all_the_same(pipe: tuple[int, int]) -> None:
    log, exporter = AccessLog(pipe[1]), Exporter()
    log.enable(True)
    log.export(exporter)
    for i in range(10):
        assert all(write_sample(log, trace_id=TRACE, flags=1) for _ in range(1000)), i
        eventually(lambda: len(exporter.spans) == (i + 1) * 1000)  # noqa: B023 - called before the next
    log.close()
    assert len(exporter.spans) == 10_000
    assert len(rest_of(pipe[0]).splitlines()) + log.dropped == 10_000


def test_a_full_disk_is_told_once_and_so_is_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accesslog, "SAY_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    fd = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog(fd)
    log.enable(True)
    for n in range(1, 4):
        assert write_sample(log)
        eventually(lambda n=n: log.dropped == n, "the record is lost")
    assert log.trouble == os.strerror(errno.ENOSPC)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, fd)  # as rotation does

    def well() -> bool:
        assert write_sample(log)
        return not log.trouble

    eventually(well, "the log is well")
    log.close()
    assert [line for line in caplog.messages if "access log" in line][:2] == [
        "the access log cannot be written: No space left on device; records are lost until it can",
        "the access log takes records again, 3 were lost so far",
    ]
    os.close(file)
    os.close(fd)
