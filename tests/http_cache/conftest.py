"""The daemon for the conformance suite."""

from daemons import pytest_runtest_makereport, start

__all__ = ["pytest_runtest_makereport", "start"]
