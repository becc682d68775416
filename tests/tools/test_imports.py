"""tools/imports.py finds planted cycles and breaches, of `import` and `cimport`, and nothing in the code as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = """
[[tool.importlinter.contracts]]
name = "Layers"
type = "layers"
layers = ["lb.proxy", "lb.upstream | lb.cache", "lb.core"]

[[tool.importlinter.contracts]]
name = "The model server"
type = "forbidden"
source_modules = ["backend"]
forbidden_modules = ["lb.proxy", "lb.upstream"]
"""
SOUND = {
    "lb/proxy/route.py": "from lb.upstream import pool\n\ndef f():\n    import lb.proxy.exchange\n",
    "lb/proxy/exchange.pyx": "from lb.upstream.pool cimport Pool\nfrom lb.proxy cimport (\n    route,  # what for\n)\n",
    "lb/upstream/pool.pxd": "from libc.stdint cimport int32_t\nfrom lb.core.heap cimport Heap\n",
    "lb/upstream/pool.pyx": "from lb.upstream.pool cimport Pool\nfrom lb.core.heap cimport Heap\n",
    "lb/core/heap.pxd": "cimport cython\n",
    "backend/run.pyx": "from lb.core.heap cimport Heap\n",
}
PLANTED = {
    "a cycle of imports": (
        {"lb/core/a.py": "from lb.core import b\n", "lb/core/b.py": "import lb.core.a\n"},
        "a cycle: lb.core.a, lb.core.b",
    ),
    "a cycle of cimports": (
        {"lb/core/a.pxd": "from lb.core.b cimport B\n", "lb/core/b.pyx": "from lb.core.a cimport A, C\n"},
        "a cycle: lb.core.a, lb.core.b",
    ),
    "a cycle of both": (
        {
            "lb/core/a.pyx": "from lb.core.b cimport B\n",
            "lb/core/b.pyx": "from lb.core import c\n",
            "lb/core/c.py": "from lb.core.a import A\n",
        },
        "a cycle: lb.core.a, lb.core.b, lb.core.c",
    ),
    "a cimport that goes up": (
        {"lb/core/a.pyx": "from lb.upstream.pool cimport Pool\n"},
        "lb.core.a cimports lb.upstream.pool, but lb.upstream is not below lb.core",
    ),
    "a cimport of a neighbour": (
        {"lb/cache/a.pxd": "from lb.upstream cimport pool\n"},
        "lb.cache.a cimports lb.upstream.pool, but lb.upstream is not below lb.cache",
    ),
    "a cimport of the model server": (
        {"backend/grpc/call.pxd": "from lb.upstream.pool cimport Pool\n"},
        "backend.grpc.call cimports lb.upstream.pool, which is not for the model server",
    ),
}


def check(folder: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "tools" / "imports.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def planted(folder: Path, files: dict[str, str]) -> Path:
    (folder / "pyproject.toml").write_text(CONTRACT)
    for name, text in {**SOUND, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_code_as_it_is() -> None:
    assert check(ROOT)[0] == 0


def test_a_sound_tree(tmp_path: Path) -> None:
    assert check(planted(tmp_path, {})) == (0, ["4 modules: no cycle, and every cimport goes down"])


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found(tmp_path: Path, what: str) -> None:
    files, line = PLANTED[what]
    assert check(planted(tmp_path, files)) == (1, [line])
