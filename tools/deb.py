"""Makes the Debian package: `python tools/deb.py`. Run by `make deb`; it is in dist/ afterwards.

The program is built for Debian's own Python and linked to Debian's libraries, so that security updates reach it. It is
compiled in a copy of the sources, build/deb/tree, which stays: the next call compiles what has changed. The Python
packages come as wheels and lie in a private environment; debian/rules puts the package together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "deb"
TREE = WORK / "tree"
MADE = TREE / "debian" / "made"
VENV = WORK / "venv"
PYTHON = VENV / "bin" / "python"
DEBIAN_PYTHON = "/usr/bin/python3"
COMPLETIONS = {"bash": "tidegate.bash", "zsh": "_tidegate", "fish": "tidegate.fish"}
SOURCES = (".py", ".pyx", ".pxd", ".h")
PROGRAMS = {"git": "git", "dpkg-checkbuilddeps": "dpkg-dev", "lintian": "lintian", DEBIAN_PYTHON: "python3-venv"}


def look_for_needs() -> None:
    """Ends the program with what is missing: dpkg-buildpackage would say so after minutes of compiling."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        sys.exit(f"these packages are missing; as root run: apt-get install {' '.join(missing)}")
    # That names what debian/control wants, and build-essential, which is in no Build-Depends.
    if subprocess.run(["dpkg-checkbuilddeps", ROOT / "debian" / "control"]).returncode:
        sys.exit("these packages are missing; as root run: apt-get build-dep ./")


def run(*command: str | Path, cwd: Path = TREE, **variables: str) -> str:
    """Its output. Ends the program with the command's own status if it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        sys.exit(done.returncode)
    return done.stdout


def copy_sources() -> None:
    """The files that git knows, and new ones that it does not ignore; what is gone here is gone there."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    names = {name for name in listed if name and (ROOT / name).is_file()}
    for name in names:
        target = TREE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    generated = {"lb/shared/segment_words.pxd"}
    for top in ("lb", "backend", "debian"):
        for path in (TREE / top).rglob("*"):
            name = str(path.relative_to(TREE))
            if path.is_file() and (path.suffix in SOURCES or top == "debian") and name not in names | generated:
                path.unlink()


def environment() -> None:
    """Debian's Python with what the build needs."""
    if not PYTHON.exists():
        run(DEBIAN_PYTHON, "-m", "venv", VENV, cwd=ROOT)
    run(
        PYTHON,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "setuptools>=77",
        "cython>=3.3",
        "wheel",
        cwd=ROOT,
    )


def wheels() -> None:
    """Those of Tidegate and of all that it needs, in debian/made."""
    folder = MADE / "wheels"
    folder.mkdir(parents=True)
    run(PYTHON, "setup.py", "-q", "build_ext", "--inplace", TIDEGATE_RUN_ONLY="1")
    run(PYTHON, "setup.py", "-q", "bdist_wheel", "--dist-dir", folder, TIDEGATE_RUN_ONLY="1")
    (wheel,) = folder.glob("tidegate-*.whl")
    cache = WORK / "wheels"
    cache.mkdir(exist_ok=True)
    pip = (PYTHON, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "download", "--only-binary=:all:", "--find-links", cache, "--dest", folder, f"{wheel}[cpu]")
    for other in folder.iterdir():
        if other != wheel:
            shutil.copy2(other, cache)
    run(*pip, "install", "--no-index", "--find-links", folder, "--force-reinstall", "--no-deps", wheel)
    run(*pip, "install", "--no-index", "--find-links", folder, "tidegate[cpu]")
    run(*pip, "install", "argparse-manpage>=4.5")


def texts() -> None:
    """Manual pages, completion scripts and Debian's changelog."""
    run(PYTHON, "tools/man.py", MADE / "man", PYTHONPATH=str(TREE))
    for shell, name in COMPLETIONS.items():
        (MADE / name).write_text(run(PYTHON, "-m", "lb.cli", "completion", shell))
    version = run(PYTHON, "-c", "import lb; print(lb.__version__)").strip()
    stamp = int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct", cwd=ROOT))
    date = datetime.fromtimestamp(stamp, UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
    maintainer = next(
        line.removeprefix("Maintainer: ")
        for line in (TREE / "debian" / "control").read_text().splitlines()
        if line.startswith("Maintainer: ")
    )
    text = f"tidegate ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- {maintainer}  {date}\n"
    (TREE / "debian" / "changelog").write_text(text)


def main() -> None:
    look_for_needs()
    copy_sources()
    shutil.rmtree(MADE, ignore_errors=True)
    environment()
    wheels()
    texts()
    for old in WORK.glob("tidegate_*"):
        old.unlink()
    build = ["dpkg-buildpackage", "--build=binary", "--unsigned-changes", "--unsigned-source"]
    made = subprocess.run(build, cwd=TREE, env={**os.environ, "PIP": f"{PYTHON} -m pip"})
    if made.returncode:
        sys.exit(made.returncode)
    (ROOT / "dist").mkdir(exist_ok=True)
    for package in WORK.glob("tidegate_*.deb"):
        print(shutil.copy2(package, ROOT / "dist"))


if __name__ == "__main__":
    main()
