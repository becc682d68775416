"""The measurement of what watching costs, with a small daemon."""

from __future__ import annotations

import pytest

from bench import watchers


def test_watchers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--endpoints", "12", "--pools", "3", "--models", "4", "--seconds", "0.3"]
    assert watchers.main(arguments) == 0, capsys.readouterr().err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0][0] == "nobody looks"
    assert len(rows) == 6
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    assert all(float(row[3]) > 0 for row in rows), "requests went on"
