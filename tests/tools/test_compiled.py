"""The compiled core is what runs: no module that should be compiled is loaded from its source or from a stale build."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("lb/**/*.pyx"))


def test_there_is_a_compiled_core():
    assert {path.name for path in SOURCES} >= {"segment.pyx", "hashing.pyx", "set.pyx", "policy.pyx", "maglev.pyx"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_compiled_and_current(source):
    module = importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts))
    loaded = Path(module.__file__)
    assert loaded.suffix == ".so"
    assert loaded.parent == source.parent
    assert loaded.stat().st_mtime >= source.stat().st_mtime, "built before its source was changed; build again"
