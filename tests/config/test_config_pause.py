"""The garbage collector's pause ends with the last of those who asked for it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from lb.config.load import load
from lb.config.pause import collector_paused
from lb.errors import ConfigError


def test_it_ends_with_the_last_user_whatever_happens() -> None:
    assert gc.isenabled()
    with collector_paused():
        with pytest.raises(KeyError), collector_paused():
            raise KeyError
        assert not gc.isenabled()
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_file_with_errors_leaves_it_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path / "none.yaml")
    assert gc.isenabled()
