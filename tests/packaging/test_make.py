"""The Makefile's targets look at what they need before any work; those that a README names are tried in bare roots."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme_root

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
NOBODY = 65534


def packages(name: str) -> set[str]:
    """The Debian packages of a variable of the Makefile."""
    shown = subprocess.run(
        ["make", "-s", "-f", "-", "show"], cwd=ROOT, capture_output=True, text=True, check=True,
        input=f"include Makefile\nshow:\n\t@echo $({name})\n",
    )  # fmt: skip
    return set(shown.stdout.split())


def tools(folder: Path, **scripts: str) -> str:
    """A PATH with scripts in front of the programs of this machine."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_each_target_that_a_readme_names_is_tried_in_a_bare_root() -> None:
    named = {target: page for page in readme_root.readmes() for target in readme_root.named(page.read_text())}
    assert named.keys() >= {"run", "test", "deb"}
    for target, page in named.items():
        assert re.search(rf"(?m)^{target}:", MAKEFILE), f"{page} names make {target}, which there is not"
        assert target in readme_root.TRIALS, f"{page} names make {target}: try it in tests/packaging/readme_root.py"


def test_a_readme_says_what_a_minimal_debian_lacks() -> None:
    assert set(readme_root.needed((ROOT / "README.md").read_text())) >= {"git", "make", "curl"}


def test_the_package_is_built_with_all_that_dpkg_wants() -> None:
    """build-essential is in no Build-Depends, and wanted by dpkg-buildpackage."""
    (line,) = re.findall(r"(?m)^Build-Depends: (.*)$", (ROOT / "debian" / "control").read_text())
    wanted = {part.split()[0].replace("debhelper-compat", "debhelper") for part in line.split(", ")}
    assert wanted | {"build-essential", "git", "lintian"} <= packages("DEB_PACKAGES")


# What each wants beyond the packages that building the program takes.
TARGETS = {
    "build": "", "run": "", "dev": "", "wheel": "", "lint": "", "deb": "DEB_PACKAGES", "test": "TEST_PACKAGES",
    "test-other-servers": "TEST_PACKAGES", "test-http-cache": "TEST_PACKAGES", "asan": "TEST_PACKAGES",
    "asan-short": "TEST_PACKAGES", "soak": "TEST_PACKAGES", "soak-jobs": "TEST_PACKAGES", "chaos": "TEST_PACKAGES",
    "man": "MAN_PACKAGES", "bench-guard": "GUARD_PACKAGES", "test-deploy": "DEPLOY_PACKAGES",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_without_root_a_target_names_all_that_it_lacks_before_any_work(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy2(ROOT / name, tmp_path)
    path = tools(tmp_path / "tools", dpkg_query="exit 1", id=f"echo {NOBODY}")
    done = subprocess.run(
        ["make", target], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("these packages are missing")]
    every = packages("BUILD_PACKAGES") | (packages(TARGETS[target]) if TARGETS[target] else set())
    assert set(line.partition("apt-get install ")[2].split()) >= every
    assert not (tmp_path / ".venv").exists()
    assert "making the virtual environment" not in done.stdout


@pytest.mark.parametrize("target", ["wheel-bare", "test-deb", "test-readme"])
def test_without_root_a_root_of_another_system_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    shutil.copy2(ROOT / "Makefile", tmp_path)
    path = tools(tmp_path / "tools", id=f"echo {NOBODY}")
    done = subprocess.run(
        ["make", target], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 2
    assert "run this target as root" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "tools"]


@pytest.mark.parametrize("lacks", ["build-essential", "lintian"])
def test_a_package_that_went_since_is_told_before_any_work(lacks: str, tmp_path: Path) -> None:
    """The stamp says that it was there once."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "debian").mkdir()
    shutil.copy2(ROOT / "tools" / "deb.py", tmp_path / "tools")
    shutil.copy2(ROOT / "debian" / "control", tmp_path / "debian")
    unmet = "echo 'dpkg-checkbuilddeps: error: unmet build dependencies: build-essential:native' >&2; exit 1"
    path = tools(tmp_path / "programs", git="exit 0", dpkg_checkbuilddeps=unmet, lintian="exit 0")
    if lacks == "lintian":
        (tmp_path / "programs" / "lintian").unlink()
        path = str(tmp_path / "programs")
    done = subprocess.run(
        [sys.executable, "tools/deb.py"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": path}
    )
    assert done.returncode == 1
    assert lacks in done.stderr
    assert "apt-get" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "build").exists()
