"""What `tidegate scaling` prints and writes, from documents as the daemon makes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lb.cli.admin import AdminClient, AdminError
from lb.cli.scaling import explain, record

SCALING: dict[str, Any] = {
    "rule": "hpa",
    "interval_s": 15.0,
    "wanted": 6,
    "ready": 2,
    "min": 1,
    "max": 10,
    "decided_s_ago": 3.2,
    "recommended": 6,
    "reason": "in_flight 6 per replica, target 2: 6",
    "recommenders": {"in_flight": {"target": 2.0, "average": 6.0, "replicas": 6}},
    "learned": {"highest_in_window": 6, "schedules": ["a", "b"]},
    "memory": None,
    "start_time_s": 4.25,
    "traffic": {
        "span_s": 1.0, "requests_per_second": 11.0, "answered": 9, "failed": 1, "refused": 2, "in_flight": 6.5,
        "waiting": 3.0,
    },
    "signals": {
        "in_flight": {"average": 6.0, "missing": 0, "unready": 4},
        "cpu": {"average": None, "missing": 2, "unready": 4},
    },
    "measures": {"gpu": {"age_s": None, "error": "no NVML"}, "batch_occupancy": {"age_s": 3.0, "error": None}},
    "events": [
        {"s_ago": 63.0, "from": 1, "to": 2, "reason": "before"},
        {"s_ago": 3.2, "from": 2, "to": 6, "reason": "now"},
    ],
}  # fmt: skip


class Daemon(AdminClient):
    """Answers with these documents, one after another, the last one for good."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        super().__init__("nowhere:1")
        self.documents = list(documents)

    def scaling(self, pool: str) -> dict[str, Any]:
        assert pool == "digits"
        return self.documents.pop(0) if len(self.documents) > 1 else self.documents[0]


def shown(document: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    explain(Daemon({"pool": "digits", "arrived": 5, "scaling": document}), "digits", False, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_that_a_decision_was_made_of() -> None:
    text = shown(SCALING)
    for words in (
        "digits: 6 wanted, 2 ready, limits 1 to 10",
        "hpa, decides every 15 s",
        "3 s ago: in_flight 6 per replica, target 2: 6",
        "a replica took 4.25 s to be ready",
        "11 requests/s, 6.5 in flight, 3 waiting, 1 failed and 2 refused",
        "schedules: a, b",
        "nothing is kept over restarts",
        "missing    gpu: no NVML",
    ):
        assert words in text
    lines = [line.split() for line in text.splitlines()]
    assert ["in_flight", "2", "6", "6"] in lines
    assert ["cpu", "-", "2", "4"] in lines
    newest = next(i for i, line in enumerate(lines) if line[-1:] == ["now"])
    assert lines[newest + 1][-1] == "before"


def test_before_the_first_look() -> None:
    nothing: dict[str, Any] = {"recommenders": {}, "learned": {}, "signals": {}, "measures": {}, "events": []}
    fresh = {**SCALING, **nothing, "decided_s_ago": None, "start_time_s": None, "traffic": None, "memory": "/var/lib/x"}
    text = shown(fresh)
    assert "decision   no decision yet" in text
    assert "traffic    not known" in text
    assert "/var/lib/x" in text


def test_a_pool_that_is_not_scaled() -> None:
    with pytest.raises(AdminError, match="pool digits is not scaled"):
        explain(Daemon({"pool": "digits", "arrived": 5, "scaling": None}), "digits", False)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"pool": "digits", "arrived": 5, "scaling": SCALING}
    explain(Daemon(document), "digits", True)
    assert json.loads(capsys.readouterr().out) == document


def arrivals(*counts: int | None) -> Daemon:
    return Daemon(*({"pool": "digits", "arrived": n, "scaling": None} for n in counts))


def test_a_trace_second_by_second(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    pauses: list[float] = []
    assert record(arrivals(100, 107, 107, 112), "digits", 3, file, pauses.append) == 12
    assert file.read_text() == "second,requests\n0,7\n1,0\n2,5\n"
    assert [round(pause) for pause in pauses] == [1, 2, 3]  # from the beginning, so that no delay adds up


def test_a_pool_that_came_back_counts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert record(arrivals(100, 3, 5), "digits", 2, None, lambda _: None) == 5
    assert capsys.readouterr().out == "second,requests\n0,3\n1,2\n"


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="counts no requests"):
        record(arrivals(None), "digits", 1, None)
    with pytest.raises(AdminError, match="cannot be written"):
        record(arrivals(1), "digits", 1, tmp_path / "gone" / "trace.csv")
