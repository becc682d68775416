"""The measurement of a start, once, with a real daemon."""

from __future__ import annotations

import pytest

from bench import start


def test_a_start_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert start.main(["--rounds", "1", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(start.NAMES.values())
    assert all(float(line.split("|")[2]) > 0 for line in lines[2:])
