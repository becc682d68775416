"""The table of failures: what it says, and that nobody else says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lb import errors
from lb.failure import ALL, BY_NAME, grpc_to_http

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()
GRPC = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", PAGE, re.MULTILINE)
NAMES = [name for name, _ in GRPC]


def test_the_page_has_the_rows_of_the_table() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|((?:[^|]*\|){5}) ", PAGE, re.MULTILINE)[1:]  # the first is the heading
    assert [(reason, *(cell.strip().strip("`") for cell in cells.split("|")[:5])) for reason, cells in rows] == [
        (
            row.reason,
            row.fault,
            str(row.status or ""),
            NAMES[row.grpc_status] if row.status else "",
            row.counter,
            ", ".join(row.retry),
        )
        for row in ALL[1:]
    ]


def test_the_page_has_what_rest_clients_are_told() -> None:
    assert len(GRPC) == 17
    assert [int(status) for _, status in GRPC] == [grpc_to_http(code) for code in range(17)]


def test_kinds_have_names_of_their_own() -> None:
    assert [row.kind for row in ALL] == list(range(len(ALL)))
    assert len(BY_NAME) == len(ALL)
    assert all(len(row.reason) <= 32 for row in ALL), "a record of the access log has no more room"


@pytest.mark.parametrize(
    ("error", "status", "grpc_status", "retryable"),
    [
        (errors.TidegateError("x"), 500, 2, False),
        (errors.ClientError("x"), 400, 13, False),
        (errors.UpstreamError("x"), 502, 14, False),
    ],
)
def test_errors_are_rows_of_it(error: errors.TidegateError, status: int, grpc_status: int, retryable: bool) -> None:
    assert (error.status, error.grpc_status, error.retryable) == (status, grpc_status, retryable)


def test_the_data_path_says_neither_status_nor_reason_itself() -> None:
    reasons = "|".join(sorted({row.reason for row in ALL[1:]}))
    written = re.compile(
        rf'(?:fail|reject|refuse|fail_with)\((?:\d|b"|")|(?:reason|failure) = (?:b?"(?:{reasons})"|\d)'
    )
    found = {}
    for path in sorted((ROOT / "lb").rglob("*.pyx")):
        for line in path.read_text().splitlines():
            if written.search(line) and path.name != "failure.pyx":
                found[path.name] = line.strip()
    assert found == {}
