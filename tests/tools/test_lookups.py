"""tools/lookups.py finds an attribute that a class known to Cython has not, and none in the code as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from Cython.Build import cythonize

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
cdef class Context:
    cdef object store
    cdef public object ask
    limit = 3
    def _told(self):
        pass
    cpdef int count(self):
        return 0

cdef object use(Context context):
    context._told()
    context.{}
"""


def check(folder: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "tools" / "lookups.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def planted(folder: Path, attribute: str) -> Path:
    source = folder / "lb" / "context.pyx"
    source.parent.mkdir()
    source.write_text(SOURCE.format(attribute))
    cythonize([str(source)], language_level=3, quiet=True, build_dir=None)
    return folder


@pytest.mark.parametrize("attribute", ["cache", "cache.max_object", "stored"])
def test_what_no_class_has_is_found(tmp_path: Path, attribute: str) -> None:
    assert check(planted(tmp_path, attribute)) == (1, [f"lb/context.pyx: context has no {attribute.partition('.')[0]}"])


@pytest.mark.parametrize("attribute", ["store", "ask", "limit", "count()", "_told()", "__class__"])
def test_what_it_has_is_no_breach(tmp_path: Path, attribute: str) -> None:
    assert check(planted(tmp_path, attribute))[0] == 0


def test_the_code_has_none() -> None:
    assert sum(path.with_suffix(".c").exists() for path in (ROOT / "lb").rglob("*.pyx")) > 200
    code, lines = check(ROOT)
    assert code == 0, lines
