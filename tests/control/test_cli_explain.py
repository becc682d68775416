"""What `tidegate explain` prints, from documents as the daemon makes them."""

from __future__ import annotations

from typing import Any

import pytest

from lb.cli.admin import AdminClient
from lb.cli.explain import explain

ENDPOINT = {
    "address": "10.0.0.7:9001",
    "health": "up",
    "admin": "enabled",
    "weight": 1,
    "in_flight": 0,
    "max_in_flight": 0,
    "latency_ms": 0,
    "share": 1,
    "ejection_state": "full",
    "available": True,
    "why_not": "",
    "note": "",
    "score": 0,
    "best": False,
}
POOL = {
    "name": "digits",
    "policy": "least_request",
    "key": None,
    "steps": [],
    "rule": "the least",
    "endpoints": [ENDPOINT],
}


class Answers(AdminClient):
    """A daemon that explains every request by a document."""

    def __init__(self, pool: dict[str, Any]) -> None:
        super().__init__("nowhere:1")
        self._pool = pool

    def status(self) -> dict[str, Any]:
        return {"state": "running", "listeners": [], "pools": [{"name": "digits"}]}

    def explain(self, question: dict[str, Any]) -> dict[str, Any]:
        assert question == {"pool": "digits"}
        return {"worker": 0, "route": None, "pool": self._pool}


@pytest.mark.parametrize(
    ("refused", "available", "why", "words"),
    [
        (None, True, "2 are equally good", "not certain: 2 are equally good"),
        (503, True, "503: the model is ready nowhere", "none: 503: the model is ready nowhere"),
        (None, False, "no endpoint takes requests now", "none: no endpoint takes requests now"),
    ],
)
def test_no_choice_is_certain_where_the_request_is_refused(
    capsys: pytest.CaptureFixture[str], refused: int | None, available: bool, why: str, words: str
) -> None:
    endpoint = {**ENDPOINT, "available": available}
    pool = {**POOL, "endpoints": [endpoint], "refused": refused, "choice": {"address": None, "why": why}}
    explain(Answers(pool), "digits", {}, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"choice   {words}"


@pytest.mark.parametrize(
    ("address", "found", "words"),
    [
        ("unix:/run/d.sock", {"used": True, "why_not": None}, "local transport"),
        ("unix:/run/d.sock", {"used": False, "why_not": "no room"}, "no local transport: no room"),
        ("10.0.0.7:9001", {"used": False, "why_not": "the endpoint is not on a Unix socket"}, ""),
        ("unix:/run/d.sock", None, ""),
    ],
)
def test_local_transport_is_told_of_where_it_could_be(
    capsys: pytest.CaptureFixture[str], address: str, found: dict[str, Any] | None, words: str
) -> None:
    endpoint = {**ENDPOINT, "address": address, "local_transport": found}
    pool = {**POOL, "endpoints": [endpoint], "refused": None, "choice": {"address": address, "why": "the only one"}}
    explain(Answers(pool), "digits", {}, as_json=False)
    row = next(line for line in capsys.readouterr().out.splitlines() if address in line and "up" in line)
    assert row.strip().endswith(words or "0")
