"""What a worker process is started with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from control_daemon import daemon

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


def test_another_allocator_is_taken_and_said(tmp_path: Path) -> None:
    """As under a sanitizer, whose mallopt() does nothing."""
    source, library = tmp_path / "allocator.c", tmp_path / "allocator.so"
    source.write_text("int mallopt(int option, int value) { return (void)option, (void)value, 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    with daemon(tmp_path, env={"LD_PRELOAD": str(library)}) as running:
        assert "the allocator's thresholds could not be set" in running.log
