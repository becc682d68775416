"""Runs each target of the Makefile that a README names in a bare Debian root. `make test-readme` runs this, as root.

A root has what `debootstrap --variant=minbase` installs, what README.md says to install, and a clone of this
repository: no compiler, no Python. Each target has a root of its own, so that none finds what another has installed.
apt and pip fetch what the target asks for; what is served afterwards is in a network of its own.

    python3 tests/packaging/readme_root.py           all of them
    python3 tests/packaging/readme_root.py deb run   these
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "readme"
BASE = WORK / "base"
BARE = WORK / "root"
TREE = "/srv/tidegate"
SUITE = "trixie"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
SECONDS = 300  # until what `make run` serves has answered
# How pip gets out is a matter of this machine.
OF_THIS_MACHINE = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
INSIDE = {
    **{name: value for name, value in os.environ.items() if name.startswith(OF_THIS_MACHINE)},
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
}


def readmes() -> list[Path]:
    """Those of the repository."""
    listed = subprocess.run(["git", "ls-files", "*README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split()]


def named(text: str) -> set[str]:
    """The targets that a document names, as code."""
    code = "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.S), *re.findall(r"`([^`\n]+)`", text)])
    return set(re.findall(r"(?m)^make ([a-z][a-z-]*)", code))


def needed(text: str) -> list[str]:
    """The packages that README.md says a minimal Debian lacks."""
    (line,) = re.findall(r"(?m)^apt-get install (git .*?)(?: +#.*)?$", text)
    return str(line).split()


def fresh_root() -> None:
    if not (BASE / "ready").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, BASE], check=True)
        (BASE / "ready").touch()
    shutil.rmtree(BARE, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", BASE, BARE], check=True)
    shutil.copy2("/etc/resolv.conf", BARE / "etc" / "resolv.conf")


def ran(*command: str) -> None:
    subprocess.run(command, check=True)


@contextlib.contextmanager
def mounted() -> Iterator[None]:
    """With /proc and /dev in the root; they are gone afterwards, or it fails."""
    with contextlib.ExitStack() as stack:
        subprocess.run(["mount", "-t", "proc", "proc", BARE / "proc"], check=True)
        stack.callback(ran, "umount", str(BARE / "proc"))
        subprocess.run(["mount", "--rbind", "/dev", BARE / "dev"], check=True)
        subprocess.run(["mount", "--make-rslave", BARE / "dev"], check=True)
        stack.callback(ran, "umount", "--recursive", str(BARE / "dev"))
        yield


def inside(*command: str) -> None:
    """Runs a command in the root, in the clone once that is there."""
    folder = TREE if (BARE / TREE.lstrip("/")).exists() else "/"
    words = ["chroot", str(BARE), "env", "-C", folder, *command]
    done = subprocess.run(words, env=INSIDE, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}"


def first_steps() -> None:
    """What README.md has a user do, up to the first `make`."""
    inside("apt-get", "update", "-q")
    inside("apt-get", "install", "-q", "-y", "--no-install-recommends", *needed((ROOT / "README.md").read_text()))
    shutil.copy2(Path("/", CERTIFICATES), BARE / CERTIFICATES)  # with those of a proxy in between
    subprocess.run(["git", "clone", "-q", ROOT, BARE / TREE.lstrip("/")], check=True)
    inside("git", "config", "--global", "--add", "safe.directory", TREE)


def serves() -> None:
    """`make run`, and what README.md asks meanwhile."""
    inside("make", "build")
    page = (ROOT / "README.md").read_text().partition("While `make run` runs")[2].partition("```sh\n")[2]
    asked = [line for line in page.partition("```")[0].splitlines() if not line.startswith("xdg-open")]
    log = WORK / "run.log"
    space = f'ip link set lo up 2>/dev/null; exec chroot "{BARE}" env -C {TREE} make run'
    with log.open("w") as out:
        run = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", space], env=INSIDE, stdout=out, stderr=out, start_new_session=True
        )
    try:
        end = time.monotonic() + SECONDS
        while "Dashboard:" not in log.read_text():  # printed behind the predictions
            assert run.poll() is None, f"it ended:\n{log.read_text()}"
            assert time.monotonic() < end, f"no prediction in {SECONDS} s:\n{log.read_text()}"
            time.sleep(0.2)
        for line in asked:
            enter = ["nsenter", f"--net=/proc/{run.pid}/ns/net", "chroot", str(BARE), "env", "-C", TREE, "sh", "-ec"]
            done = subprocess.run([*enter, line.replace("curl ", "curl --fail ")], env=INSIDE)
            assert done.returncode == 0, line
    finally:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
        run.wait(timeout=60)
    print(log.read_text())


def tests() -> None:
    """All are collected, so that what they import is there; some of each kind run."""
    some = ("test_config_units", "test_cli_completion", "test_man", "test_e2e_own_addresses", "test_bench_stats")
    inside("env", f"PYTEST_ADDOPTS=-k '{' or '.join(some)}'", "make", "test")


def bench() -> None:
    inside("make", "bench", "BENCH=run proxy-http1 --runs 1")


def deb() -> None:
    inside("make", "deb")
    assert list((BARE / TREE.lstrip("/") / "dist").glob("tidegate_*.deb"))


TRIALS: dict[str, Callable[[], None]] = {"deb": deb, "run": serves, "bench": bench, "test": tests}


def main(wanted: list[str]) -> int:
    if os.geteuid() != 0:
        sys.exit("a root for another system needs root's rights")
    for target in wanted or TRIALS:
        print(f"\nmake {target}, in a bare root", flush=True)
        fresh_root()
        with mounted():
            first_steps()
            TRIALS[target]()
        print(f"make {target}: done in a bare root", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
