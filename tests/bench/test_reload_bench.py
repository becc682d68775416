"""`python -m bench.reload` on a small daemon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bench.reload import Size, configuration, main


def test_what_changes_between_two_editions(tmp_path: Path) -> None:
    size = Size(routes=100, endpoints=40, workers=1)

    def read(changed: int, edition: int) -> tuple[list[str], list[str]]:
        data = yaml.safe_load(configuration(size, 80, tmp_path / "a", changed, edition))
        routes = [repr(route) for route in data["listeners"]["front"]["routes"]]
        return routes, [address for pool in data["pools"].values() for address in pool["endpoints"]]

    for changed in (10, 100):
        (routes, endpoints), (others, other_endpoints) = read(changed, 1), read(changed, 2)
        assert len(routes) == len(others) == 101  # with the one that the client asks for
        assert len(set(endpoints)) == 40
        assert sum(a != b for a, b in zip(routes, others, strict=True)) == changed
        assert (endpoints != other_endpoints) == (changed == 100)


def test_a_table_of_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--routes", "200", "--endpoints", "40", "--workers", "1", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line, kind in zip(lines[2:], ("one route of a hundred", "every route and endpoint"), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == kind
        assert re.fullmatch(r"\d+ \(\d+ to \d+\)", cells[1])
        assert all(float(cell) > 0 for cell in cells[2:])
