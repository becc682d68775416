"""Starts daemons for a test, ends them, and shows their logs when the test fails."""

from __future__ import annotations

from daemons import pytest_runtest_makereport, start

__all__ = ["pytest_runtest_makereport", "start"]
