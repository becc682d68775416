"""The worst body of each parser, four at once: another client goes on, and memory keeps to the bodies' bytes.

`sweep.py` runs the same at all sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep import Site
from sweep_cases import CASES, MIB

SIZE = 1 * MIB


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(Path(tmp_path_factory.mktemp("sweep")), SIZE)
    yield made
    made.close()


@pytest.mark.parametrize("name", list(CASES))
def test_nobody_waits_for_a_body(name: str, site: Site) -> None:
    felt = site.best(CASES[name], SIZE, 4)
    assert felt.holds, f"wait {felt.wait * 1000:.0f} ms, memory {felt.times:.1f} times the bodies, answers {felt.codes}"
