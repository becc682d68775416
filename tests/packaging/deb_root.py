"""Installs the Debian package of dist/ in a bare Debian root, runs it, upgrades it, removes and purges it; and as a
service of a systemd that is booted in such a root.

`make test-deb` runs this, as root. The root has what `debootstrap --variant=minbase` installs; apt brings what the
package depends on. The daemon runs as the package's user, in a network of its own. So does systemd, in namespaces of
its own.
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
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "deb"
BASE = WORK / "base"
BARE = WORK / "root"
SUITE = "trixie"
CONFIG = "/etc/tidegate/tidegate.yaml"
MADE_AT_RUN_TIME = ("/var/lib/tidegate", "/var/log/tidegate", "/var/cache/tidegate")
INSIDE = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=5).read().decode())"


def inside(*command: str) -> str:
    """What a command in the root prints. Raises AssertionError if it fails."""
    done = subprocess.run(["chroot", BARE, *command], env=INSIDE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def fresh_root() -> None:
    if not (BASE / "ready").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, BASE], check=True)
        (BASE / "ready").touch()
    shutil.rmtree(BARE, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", BASE, BARE], check=True)
    shutil.copy2("/etc/resolv.conf", BARE / "etc" / "resolv.conf")


@contextlib.contextmanager
def mounted() -> Iterator[None]:
    """With /proc and /dev in the root; they are gone afterwards, or it fails."""
    with contextlib.ExitStack() as stack:
        subprocess.run(["mount", "-t", "proc", "proc", BARE / "proc"], check=True)
        stack.callback(subprocess.run, ["umount", BARE / "proc"], check=True)
        subprocess.run(["mount", "--rbind", "/dev", BARE / "dev"], check=True)
        subprocess.run(["mount", "--make-rslave", BARE / "dev"], check=True)
        stack.callback(subprocess.run, ["umount", "--recursive", BARE / "dev"], check=True)
        yield


def newer(package: Path) -> Path:
    """The same package with a later version, and a change in its configuration file and its program."""
    folder = WORK / "newer"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder], check=True)
    control = folder / "DEBIAN" / "control"
    text = control.read_text()
    control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \g<1>+next", text))
    shipped = folder / CONFIG.lstrip("/")
    shipped.write_text(shipped.read_text() + "\n# of the next version\n")
    target = WORK / "newer.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", folder, target],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


@contextlib.contextmanager
def daemon() -> Iterator[subprocess.Popen[str]]:
    """`tidegate run` as the package's user, in a network of its own with nothing but loopback."""
    script = (
        f'ip link set lo up 2>/dev/null || true; exec chroot "{BARE}" setpriv --reuid=tidegate --regid=tidegate '
        f"--init-groups tidegate run -c {CONFIG}"
    )
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script],
        env=INSIDE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def fetched(process: subprocess.Popen[str], port: int, path: str) -> str:
    """What the daemon answers, once it does."""
    code = FETCH.format(port=port, path=path)
    command = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "chroot", BARE, "python3", "-c", code]
    end = time.monotonic() + 60
    while True:
        done = subprocess.run(command, env=INSIDE, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end, done.stderr
        time.sleep(0.2)


def serves() -> None:
    with daemon() as process:
        assert "Tidegate runs" in fetched(process, 8080, "/")
        assert "tidegate_" in fetched(process, 9900, "/metrics")


def installs(package: Path) -> None:
    shutil.copy2(package, BARE / "tmp")
    inside("apt-get", "update", "-q")
    inside("apt-get", "install", "-q", "-y", "--no-install-recommends", f"/tmp/{package.name}")
    assert "tidegate:" in inside("getent", "passwd", "tidegate")
    assert "valid" in inside("tidegate", "check", "-c", CONFIG)
    print(inside("tidegate", "doctor"))
    for file in (
        "/usr/lib/systemd/system/tidegate.service",
        "/etc/logrotate.d/tidegate",
        "/usr/share/bash-completion/completions/tidegate",
        "/usr/share/zsh/vendor-completions/_tidegate",
        "/usr/share/fish/vendor_completions.d/tidegate.fish",
        "/usr/share/man/man8/tidegate.8.gz",
        "/usr/share/man/man5/tidegate.yaml.5.gz",
        "/usr/share/doc/tidegate/examples/gpu.conf",
    ):
        assert (BARE / file.lstrip("/")).is_file(), file
    assert not list(BARE.glob("usr/bin/*gcc*"))
    unit = (BARE / "usr/lib/systemd/system/tidegate.service").read_text()
    assert "User=tidegate" in unit
    assert "/opt" not in unit
    for needed in ("numpy", "onnxruntime", "lb.proxy.proxy"):
        inside("/usr/lib/tidegate/bin/python3", "-c", f"import {needed}")
    print(inside("tidegate", "version"))


def upgrades(package: Path) -> None:
    """An operator's file stays as it is, with the new one beside it; the program is the new one's."""
    config = BARE / CONFIG.lstrip("/")
    mine = config.read_text().replace("Tidegate runs", "Tidegate runs for me")
    config.write_text(mine)
    later = newer(package)
    shutil.copy2(later, BARE / "tmp")
    inside("apt-get", "install", "-q", "-y", "-o", "Dpkg::Options::=--force-confold", "/tmp/newer.deb")
    assert config.read_text() == mine
    assert "of the next version" in Path(f"{config}.dpkg-dist").read_text()
    assert "+next" in inside("dpkg-query", "-W", "-f", "${Version}", "tidegate")
    with daemon() as process:
        assert "runs for me" in fetched(process, 8080, "/")


def is_removed() -> None:
    for folder in MADE_AT_RUN_TIME:
        (BARE / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    inside("apt-get", "remove", "-q", "-y", "tidegate")
    assert (BARE / CONFIG.lstrip("/")).is_file(), "a removal keeps the configuration"
    assert not (BARE / "usr/bin/tidegate").exists()
    assert not (BARE / "usr/lib/tidegate").exists(), list((BARE / "usr/lib/tidegate").rglob("*"))[:5]
    inside("apt-get", "purge", "-q", "-y", "tidegate")
    left = [
        str(path)
        for place in ("etc", "usr", "var/lib", "var/log", "var/cache")
        for path in (BARE / place).rglob("*tidegate*")
    ]
    left = [path for path in left if "/deb-systemd-helper" not in path and "/apt/" not in path]
    assert left == [], left


BOOT = """
mount --make-rprivate /; mount --bind {root} {root}
mount -t proc proc {root}/proc; mount -t sysfs sysfs {root}/sys; mount -t cgroup2 cgroup2 {root}/sys/fs/cgroup
mount -t tmpfs tmpfs {root}/run; mount -t tmpfs tmpfs {root}/dev; mkdir {root}/dev/pts {root}/dev/shm
mount -t devpts devpts {root}/dev/pts -o newinstance,ptmxmode=0666; ln -s pts/ptmx {root}/dev/ptmx
for device in null zero full random urandom tty; do
  touch {root}/dev/$device; mount --bind /dev/$device {root}/dev/$device
done
ip link set lo up
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec env -i container=tidegate PATH=$PATH chroot {root} /lib/systemd/systemd --unit=multi-user.target
"""


@contextlib.contextmanager
def booted() -> Iterator[list[str]]:
    """systemd runs in the root as process 1 of namespaces of its own; the beginning of command lines inside."""
    spaces = ["--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    process = subprocess.Popen(["unshare", *spaces, "sh", "-ec", BOOT.format(root=BARE)])
    try:
        end = time.monotonic() + 120
        while True:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children:
                enter = [
                    "nsenter",
                    "--target",
                    children[0],
                    "--all",
                    "chroot",
                    BARE,
                    "env",
                    "-i",
                    f"PATH={INSIDE['PATH']}",
                ]
                state = subprocess.run(
                    [*enter, "systemctl", "is-system-running"], capture_output=True, text=True
                ).stdout
                if state.strip() in ("running", "degraded"):  # modules of the kernel cannot be loaded here
                    break
            assert process.poll() is None, "systemd has ended"
            assert time.monotonic() < end, "systemd does not come up"
            time.sleep(0.5)
        yield [str(word) for word in enter]
    finally:
        process.kill()
        process.wait()


def is_a_service(package: Path) -> None:
    """Started by the installation, reloaded, kept by a broken file, stopped by the removal."""
    with mounted():
        shutil.copy2(package, BARE / "root")
        inside("apt-get", "update", "-q")
        # What the package depends on stays when it is purged: there is no network beside systemd.
        inside("apt-get", "install", "-q", "-y", "--no-install-recommends", "systemd", "dbus", f"/root/{package.name}")
        inside("dpkg", "--purge", "tidegate")
    config = BARE / CONFIG.lstrip("/")

    with booted() as enter:

        def ran(*command: str, good: bool = True) -> str:
            done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=300)
            assert (done.returncode == 0) == good, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
            return done.stdout

        def answer() -> str:
            return ran("python3", "-c", FETCH.format(port=8080, path="/"))

        ran("dpkg", "--install", f"/root/{package.name}")
        assert ran("systemctl", "is-enabled", "tidegate").strip() == "enabled"
        ran("sh", "-c", "for i in $(seq 60); do systemctl is-active tidegate && exit; sleep 1; done; exit 1")
        assert "Tidegate runs" in answer()
        assert "User=tidegate" in ran("systemctl", "show", "tidegate", "--property=User")
        good = config.read_text()
        config.write_text(good.replace("Tidegate runs", "Tidegate is reloaded"))
        ran("systemctl", "reload", "tidegate")
        assert "is reloaded" in answer()
        config.write_text("listners: {}")
        ran("systemctl", "reload", "tidegate", good=False)
        assert "is reloaded" in answer()
        config.write_text(good)
        ran("systemctl", "restart", "tidegate")
        assert "Tidegate runs" in answer()
        ran("dpkg", "--purge", "tidegate")
        assert ran("systemctl", "is-active", "tidegate", good=False).strip() == "inactive"


def main() -> int:
    if os.geteuid() != 0:
        sys.exit("a root for another system needs root's rights")
    package = max((ROOT / "dist").glob("tidegate_*.deb"), key=lambda path: path.stat().st_mtime)
    fresh_root()
    with mounted():
        installs(package)
        serves()
        upgrades(package)
        is_removed()
    fresh_root()
    is_a_service(package)
    print("installed, ran, upgraded, removed and purged, alone and under systemd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
