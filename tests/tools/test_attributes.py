"""tools/attributes.py finds an attribute that a class and one of its bases declare, and none in the code as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = "cdef class Timed:\n    cdef tg_timer timer   # of the wheel\n    cdef void on_timer(self) noexcept\n"
MIDDLE = "from lb.net.poller cimport Timed\n\ncdef class Waiter(Timed):\n    cdef uint64_t order\n"
PLANTED = {
    "in the next class": ("    cdef object order", "Exchange.order is declared by Waiter, too"),
    "two classes on": ("    cdef Timer *timer         # of another kind", "Exchange.timer is declared by Timed, too"),
    "among others": ("    cdef unsigned char a[16], order[2], b", "Exchange.order is declared by Waiter, too"),
    "for Python": ("    cdef readonly int order", "Exchange.order is declared by Waiter, too"),
}


def check(folder: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "tools" / "attributes.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def planted(folder: Path, line: str) -> Path:
    method = "    cdef void on_timer(self) noexcept:\n        pass\n"
    text = f"cdef class Exchange(Waiter):\n    cdef uint64_t key\n{line}\n{method}"
    for name, content in (("net/poller.pxd", BASE), ("upstream/queue.pxd", MIDDLE), ("proxy/exchange.pyx", text)):
        path = folder / "lb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize("name", PLANTED)
def test_an_attribute_of_a_base_is_found(tmp_path: Path, name: str) -> None:
    line, said = PLANTED[name]
    assert check(planted(tmp_path, line)) == (1, [f"exchange.pyx: {said}"])


def test_methods_and_variables_of_functions_are_none(tmp_path: Path) -> None:
    assert check(planted(tmp_path, "    cdef int other(self, int order):\n        cdef int timer"))[0] == 0


def test_the_code_has_none() -> None:
    code, lines = check(ROOT)
    assert code == 0, lines
