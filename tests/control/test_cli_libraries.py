"""A shared library that is missing is named with its Debian package, whichever command needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from control_daemon import ROOT, configuration

from lb.cli import libraries
from lb.cli.libraries import MODULES, PACKAGES, told

GONE = "cannot open shared object file: No such file or directory"
SYSTEM = ("linux-vdso.so.1", "ld-linux", "libc.so", "libm.so", "libabsl_")


def needed(module: Path) -> set[str]:
    """The libraries that a module is linked with, the indirect ones included."""
    lines = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout.splitlines()
    return {Path(line.split()[0]).name for line in lines}


def modules() -> list[Path]:
    return sorted((ROOT / "lb").rglob("*.so"))


def test_every_library_is_in_the_table_and_proved_by_a_module() -> None:
    proved = {path: needed(path) for path in modules() if str(path.relative_to(ROOT / "lb")).split(".")[0] in MODULES}
    assert len(proved) == len(MODULES)
    linked = {name for path in modules() for name in needed(path) if not name.startswith(SYSTEM)}
    assert linked <= set().union(*proved.values())
    assert linked <= PACKAGES.keys()


Break = Callable[[str, str], Path]


@pytest.fixture
def broken(tmp_path: Path) -> Break:
    """Gives a folder with a copy of the package in which the module that needs `library` names another one instead."""

    def make(library: str, other: str) -> Path:
        assert len(library) == len(other)
        for folder, _, files in os.walk(ROOT / "lb"):
            copy = tmp_path / "copy" / Path(folder).relative_to(ROOT)
            copy.mkdir(parents=True)
            for name in files:
                source = Path(folder) / name
                content = source.read_bytes() if name.endswith(".so") else b""
                if f"{library}\0".encode() in content:
                    (copy / name).write_bytes(content.replace(f"{library}\0".encode(), f"{other}\0".encode()))
                elif name.endswith((".so", ".py", ".json")):
                    (copy / name).symlink_to(source)
        return tmp_path / "copy"

    return make


def ask(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # The package itself is found through its path, as installed ones are; no module is imported from the sources.
    return subprocess.run(
        [sys.executable, "-P", "-m", "lb.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd="/",
    )


@pytest.mark.parametrize(
    ("library", "other"), [("libllhttp.so.9.2", "libllhttp.so.9.9"), ("libnghttp2.so.14", "libnghttp2.so.99")]
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_library_that_is_not_there(tmp_path: Path, broken: Break, library: str, other: str, command: str) -> None:
    config = tmp_path / "tidegate.yaml"
    config.write_text(yaml.safe_dump(configuration(tmp_path)))
    done = ask(broken(library, other), command, "-c", str(config))
    assert (done.returncode, done.stdout) == (1, "")
    advice = f"`apt-file search {other}` shows the Debian package that has it"
    assert done.stderr == f"tidegate: the shared library {other} is missing: {advice}\n"


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libllhttp.so.9.2", "libllhttp9.2"),
        ("libnghttp2.so.14", "libnghttp2-14"),
        ("libsodium.so.23", "libsodium23"),
        ("libre2.so.11", "libre2-11"),
        ("libyaml-0.so.2", "libyaml-0-2"),
    ],
)
def test_a_library_that_is_broken(tmp_path: Path, library: str, package: str) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / library).write_text("no library\n" * 100)
    config = tmp_path / "tidegate.yaml"
    config.write_text(yaml.safe_dump(configuration(tmp_path)))
    done = ask(ROOT, "check", "-c", str(config), LD_LIBRARY_PATH=str(folder))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tidegate: the shared library {library} cannot be loaded (")
    assert line.endswith(f"): apt-get install {package}")


def test_all_are_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    for library in ("libllhttp.so.9.2", "libsodium.so.23"):
        (folder / library).write_text("no library\n" * 100)
    done = ask(ROOT, "run", "-c", "/nonexistent", LD_LIBRARY_PATH=str(folder))
    assert [line.split()[4] for line in done.stderr.splitlines()] == ["libsodium.so.23", "libllhttp.so.9.2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"libssl.so.3: {GONE}", "libssl.so.3 is missing: apt-get install libssl3t64 (Debian 12: libssl3)"),
        (f"libabsl_x.so.20240722: {GONE}", "libabsl_x.so.20240722 is missing: apt-get install libabsl20240722"),
        (f"libq.so.7: {GONE}", "libq.so.7 is missing: `apt-file search libq.so.7` shows the Debian package that has it"),  # noqa: E501
        ("/usr/lib/libz.so.1: file too short", "libz.so.1 cannot be loaded (file too short): apt-get install zlib1g"),
        ("libc.so.6: version `G_2' not found (required by x)", "libc.so.6 is too old, it has no G_2: apt-get install libc6"),  # noqa: E501
    ],
)  # fmt: skip
def test_messages_of_the_loader(text: str, said: str) -> None:
    assert told(ImportError(text)) == f"the shared library {said}"


def test_other_messages_of_the_loader() -> None:
    symbol = told(ImportError("/opt/lb/http/http1.cpython-311.so: undefined symbol: llhttp_init2"))
    assert symbol.startswith("http1.cpython-311.so was built for other libraries")
    assert "llhttp_init2" in symbol
    assert told(ImportError("something else")) == ""


def test_packages_that_are_missing() -> None:
    assert (
        told(ModuleNotFoundError(name="uvloop"))
        == "the Python package uvloop is missing: install Tidegate again with pip"
    )
    assert told(ModuleNotFoundError(name="lb.http.http1")).startswith("the compiled module lb.http.http1 is missing")


def test_here_nothing_is_missing() -> None:
    libraries.require()
