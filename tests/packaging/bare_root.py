"""Runs the wheel of dist/ in a bare Debian root. `make wheel-bare` runs it, as root.

The root has what `debootstrap --variant=minbase` installs and Python: no compiler, no package of a C library that the
wheel has inside. Where this Python is no package of Debian's, it is copied with the libraries that it is linked to. The
program runs in a network of its own, so that its ports are free whatever else runs here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bare"
BARE = WORK / "root"
WHEELS = WORK / "wheels"
SUITE = "trixie"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SECONDS = 120  # until the demonstration has served a prediction
INSIDE = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
}


def inside(*command: str) -> list[str]:
    """The command line that runs a command in the root, with a network of its own."""
    script = f'ip link set lo up 2>/dev/null; exec chroot "{BARE}" "$@"'
    return ["unshare", "--net", "sh", "-c", script, "sh", *command]


def make_root() -> None:
    if (BARE / "ready").exists():
        return
    of_debian = Path(sys.base_prefix) == Path("/usr")
    include = ["ca-certificates", *([PYTHON, f"{PYTHON}-venv"] if of_debian else [])]
    WORK.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(include)}", SUITE, BARE]
    subprocess.run(command, check=True)
    if not of_debian:
        copy_python()
    (BARE / "ready").touch()


def copy_python() -> None:
    target = BARE / sys.base_prefix.lstrip("/")
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "test", "share")
    shutil.copytree(sys.base_prefix, target, symlinks=True, ignore=ignored)
    modules = [*target.rglob("*.so*"), target / "bin" / PYTHON]
    listed = subprocess.run(["ldd", *modules], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        library = Path(line.partition("=> ")[2].split(" (")[0].strip() or "/")
        # One of Debian's: what is under the Python's own prefix is copied already.
        if library.is_file() and not library.is_relative_to(sys.base_prefix):
            place = BARE / str(library).lstrip("/")
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(library, place)


def fetch_wheels() -> None:
    """The wheel and what it needs, so that nothing is fetched inside."""
    wheel = max((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    WHEELS.mkdir(parents=True, exist_ok=True)
    for old in WHEELS.glob("tidegate-*"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--dest", WHEELS, f"{wheel}[cpu]"]
    subprocess.run(command, check=True)


@contextlib.contextmanager
def mounted() -> Iterator[None]:
    """With /proc and /dev in the root; they are gone afterwards, or it fails."""
    with contextlib.ExitStack() as stack:
        for kind, source, place in (("-t", "proc", "proc"), ("--rbind", "/dev", "dev")):
            target = BARE / place
            words = [kind, source, source] if kind == "-t" else [kind, source]
            subprocess.run(["mount", *words, target], check=True)
            if kind == "--rbind":
                subprocess.run(["mount", "--make-rslave", target], check=True)
            stack.callback(subprocess.run, ["umount", "--recursive", target], check=True)
        yield


def install() -> None:
    shutil.rmtree(BARE / "opt" / "tidegate", ignore_errors=True)
    shutil.rmtree(BARE / "wheels", ignore_errors=True)
    shutil.copytree(WHEELS, BARE / "wheels")
    for folder in ("configs", "examples"):
        shutil.copytree(ROOT / folder, BARE / "srv" / folder, dirs_exist_ok=True)
    python = "/usr/bin/python3" if Path(sys.base_prefix) == Path("/usr") else f"{sys.base_prefix}/bin/{PYTHON}"
    [wheel] = [path.name for path in (BARE / "wheels").glob("tidegate-*.whl")]
    for command in (
        [python, "-m", "venv", "/opt/tidegate"],
        [
            "/opt/tidegate/bin/pip",
            "install",
            "-q",
            "--no-compile",
            "--no-index",
            "--find-links",
            "/wheels",
            f"/wheels/{wheel}[cpu]",
        ],
    ):
        subprocess.run(inside(*command), env=INSIDE, check=True)


def check() -> None:
    for compiler in ("cc", "gcc", "g++", "clang"):
        assert not list(BARE.glob(f"usr/bin/*{compiler}")), f"the root has {compiler}"
    command = inside("/opt/tidegate/bin/tidegate", "--version")
    version = subprocess.run(command, env=INSIDE, capture_output=True, text=True)
    assert version.returncode == 0, version.stderr
    print(version.stdout.strip())
    log = WORK / "demo.log"
    command = inside(
        "/opt/tidegate/bin/python", "-m", "lb.cli.demo", "-c", "/srv/configs/demo.yaml",
        "--samples", "/srv/examples/digits/samples.json",
    )  # fmt: skip
    with log.open("w") as out, subprocess.Popen(command, env=INSIDE, stdout=out, stderr=subprocess.STDOUT) as demo:
        try:
            end = time.monotonic() + SECONDS
            while "Dashboard:" not in log.read_text():  # printed behind the predictions
                assert demo.poll() is None, f"the demonstration ended:\n{log.read_text()}"
                assert "the tour ended early" not in log.read_text(), log.read_text()
                assert time.monotonic() < end, f"no prediction in {SECONDS} s:\n{log.read_text()}"
                time.sleep(0.2)
        finally:
            demo.terminate()
            demo.wait(timeout=60)
    print(log.read_text())


def main() -> int:
    if os.geteuid() != 0:
        sys.exit("a root for another system needs root's rights")
    make_root()
    fetch_wheels()
    with mounted():
        install()
        check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
