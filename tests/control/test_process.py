"""What a worker process is started with."""

from __future__ import annotations

import pytest

from lb.control.process import FREE_BLOCKS, worker_environment


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, FREE_BLOCKS),
        ("glibc.malloc.arena_max=1", f"glibc.malloc.arena_max=1:{FREE_BLOCKS}"),
        ("glibc.malloc.tcache_count=0", "glibc.malloc.tcache_count=0"),
    ],
)
def test_the_operators_word_on_the_allocator_stands(
    monkeypatch: pytest.MonkeyPatch, said: str | None, told: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if said is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", said)
    assert worker_environment()["GLIBC_TUNABLES"] == told
