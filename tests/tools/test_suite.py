"""tools/suite.py asks what failed beside others once more, alone, and lets nothing pass that fails then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    assert False\n"
# The second run has no workers.
FAILS_BESIDE_OTHERS = "import os\ndef test_in_haste():\n    assert 'PYTEST_XDIST_WORKER' not in os.environ\n"


def suite(folder: Path, **files: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, str(ROOT / "tools" / "suite.py"), "-n", "2", "--dist", "loadfile", "."]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    outside |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin"}  # others take seconds
    done = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_all_pass(tmp_path: Path) -> None:
    status, output = suite(tmp_path, passes=PASSES)
    assert status == 0
    assert "alone" not in output


def test_what_fails_alone_too_fails(tmp_path: Path) -> None:
    status, output = suite(tmp_path, passes=PASSES, fails=FAILS, haste=FAILS_BESIDE_OTHERS)
    assert status == 1
    assert "Again, alone: " in output
    assert "passed alone" not in output


def test_what_fails_beside_others_alone_is_named(tmp_path: Path) -> None:
    status, output = suite(tmp_path, passes=PASSES, haste=FAILS_BESIDE_OTHERS)
    assert status == 0
    assert "1 failed" in output  # the first run is printed whole
    assert output.endswith("Failed beside other tests, passed alone:\n  test_haste.py::test_in_haste\n")


def test_what_ends_its_worker_is_asked_again_and_so_is_what_nobody_has_run(tmp_path: Path) -> None:
    ends = "import os, time\ndef test_before():\n    time.sleep(2)\ndef test_ends():\n"
    ends += "    if 'PYTEST_XDIST_WORKER' in os.environ:\n        os._exit(1)\ndef test_after():\n"
    ends += "    assert 'PYTEST_XDIST_WORKER' in os.environ\n"  # it is no run of what failed
    status, output = suite(tmp_path, passes=PASSES, ends=ends)
    assert status == 0
    assert "crashed while running 'test_ends.py::test_ends'" in output
    assert "Not run before: 1" in output


def test_what_nobody_has_run_may_fail(tmp_path: Path) -> None:
    ends = "import os, time\ndef test_before():\n    time.sleep(2)\ndef test_ends():\n"
    ends += "    if 'PYTEST_XDIST_WORKER' in os.environ:\n        os._exit(1)\ndef test_after():\n    assert False\n"
    status, output = suite(tmp_path, passes=PASSES, ends=ends)
    assert status == 1
    assert "passed alone" not in output


def test_many_failures_are_not_asked_again(tmp_path: Path) -> None:
    status, output = suite(tmp_path, **{f"haste{n}": FAILS_BESIDE_OTHERS for n in range(7)})
    assert status == 1
    assert "Again" not in output


def test_a_file_that_cannot_be_imported_fails(tmp_path: Path) -> None:
    status, _ = suite(tmp_path, passes=PASSES, broken="import nothing_of_this_name\n")
    assert status not in {0, 5}


def test_no_tests_at_all_fail(tmp_path: Path) -> None:
    status, _ = suite(tmp_path)
    assert status == 5
