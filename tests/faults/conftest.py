"""Starts daemons. The helpers of tests/e2e are used here, too."""

from daemons import pytest_runtest_makereport, start

__all__ = ["pytest_runtest_makereport", "start"]
