"""What `make wheel` refuses: tools/wheel.py, on archives made for it."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("wheel_tool", Path(__file__).parents[2] / "tools" / "wheel.py")
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

MODULES = ("lb/net/heap", "lb/balancing/policies/maglev")
RIGHT = [
    *tool.NEEDED,
    *(f"{module}.cpython-313-x86_64-linux-gnu.so" for module in MODULES),
    *(f"tidegate.libs/{name}-0123abcd.so.1" for name in tool.BUNDLED),
    "tidegate-1.0.dist-info/METADATA",
]


def archive(path: Path, names: list[str], size: int = 1) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in names:
            made.writestr(name, b"x" * size)
    return path


def test_a_right_one(tmp_path: Path) -> None:
    assert list(tool.faults(archive(tmp_path / "a.whl", RIGHT), MODULES)) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("bench/run.py", "bench does not belong into it"),
        ("tests/compiled/timers.so", "tests does not belong into it"),
        ("lb/net/heap.pyx", "lb/net/heap.pyx is a source"),
        ("lb/net/heap.c", "lb/net/heap.c is a source"),
        ("tidegate.libs/libssl-0123abcd.so.3", "libssl-0123abcd.so.3 is the system's"),
    ],
)
def test_what_does_not_belong_into_it(tmp_path: Path, name: str, fault: str) -> None:
    assert list(tool.faults(archive(tmp_path / "a.whl", [*RIGHT, name]), MODULES)) == [fault]


@pytest.mark.parametrize("name", RIGHT[:-1])
def test_what_is_missing(tmp_path: Path, name: str) -> None:
    (fault,) = tool.faults(archive(tmp_path / "a.whl", [other for other in RIGHT if other != name]), MODULES)
    assert fault.endswith(" is missing")


def test_one_that_is_too_large(tmp_path: Path) -> None:
    (fault,) = tool.faults(archive(tmp_path / "a.whl", RIGHT, tool.MOST_BYTES // len(RIGHT) + 1), MODULES)
    assert "more than" in fault
