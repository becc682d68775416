"""The wheel: what `pip install` puts on a machine, built from the modules that stand in the tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel, and what its build printed."""
    place = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        place,
        "build",
        "--build-base",
        place / "build",
    ]
    command += ["bdist_wheel", "--bdist-dir", place / "bdist", "--dist-dir", place]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    [wheel] = place.glob("*.whl")
    return wheel, done.stdout


@pytest.fixture(scope="module")
def unpacked(build: tuple[Path, str]) -> Path:
    wheel, _ = build
    place = wheel.parent / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def modules(place: Path) -> list[Path]:
    return [path.relative_to(place) for path in place.rglob("*.so")]


def test_modules_that_are_built_are_not_compiled_again(build: tuple[Path, str]) -> None:
    assert "compiling" not in build[1]


def test_every_compiled_module_is_there_once(unpacked: Path) -> None:
    sources = {
        path.relative_to(ROOT).with_suffix("") for top in ("lb", "backend") for path in ROOT.glob(f"{top}/**/*.pyx")
    }
    sources |= {
        path.relative_to(ROOT).with_suffix("")
        for path in ROOT.glob("lb/**/*.pxd")
        if path.with_suffix(".py").exists() and path.stem != "__init__"
    }
    shared = Path("lb/shared/cython_shared")  # generated
    found = {path.parent / path.name.partition(".")[0] for path in modules(unpacked)}
    assert found == sources | {shared}
    assert not [path for path in found if (unpacked / path).with_suffix(".py").exists()]


def test_no_sources_of_compiled_modules_and_no_bench_suite(unpacked: Path) -> None:
    files = [path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".pyx", ".pxd", ".c", ".cpp", ".h"}]
    assert {path.parts[0] for path in files if ".dist-info" not in path.parts[0]} == {"lb", "backend"}
    dashboard = {f"lb/control/admin/dashboard/{name}" for name in ("index.html", "style.css", "app.js")}
    assert {"lb/config/reference/schema.json", "lb/py.typed", *dashboard} <= {str(path) for path in files}


def test_modules_are_stripped(unpacked: Path) -> None:
    for path in modules(unpacked):
        sections = subprocess.run(
            ["readelf", "-SW", unpacked / path], text=True, capture_output=True, check=True
        ).stdout
        assert ".symtab" not in sections
        assert ".debug_info" not in sections


def test_the_unpacked_wheel_is_what_runs(unpacked: Path, tmp_path: Path) -> None:
    config = tmp_path / "tidegate.yaml"
    config.write_text("listeners: {web: {bind: '127.0.0.1:0', protocol: http, routes: [{respond: {status: 204}}]}}\n")
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import lb.proxy.proxy, lb.balancing.policies.maglev as m; print(lb.__file__, m.__file__)",
        ],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.split()
    assert all(Path(path).is_relative_to(unpacked) for path in said)
    done = subprocess.run(
        [sys.executable, "-m", "lb.cli", "check", "-c", config],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
