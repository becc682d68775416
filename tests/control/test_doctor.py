"""`tidegate doctor`: on machines made of files, beside processes that hold ports, and as a command."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from control_daemon import ROOT, configuration, daemon, listener
from ports import free_port

from lb.cli.app import main
from lb.cli.doctor import files, machine, network, service
from lb.cli.doctor.finding import Finding
from lb.config.address import parse_socket
from lb.config.load import load
from lb.config.schema.file import Config
from lb.config.units import SECOND
from lb.control.certificates import CertificateFacts

DAY = 86400
GIB = 1 << 30


def made(root: Path, files: Mapping[str, str] | None = None) -> machine.Machine:
    """A machine with these files."""
    memory = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB"
    for name, text in {"proc/meminfo": memory, "proc/self/cgroup": "0::/a/b", **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return machine.Machine(root)


def config(tmp_path: Path, **more: object) -> Config:
    path = tmp_path / "t.yaml"
    document = {
        "listeners": {"web": {"bind": "127.0.0.1:8080", "protocol": "http", "routes": [{"pool": "p"}]}},
        "pools": {"p": {"protocol": "http", "endpoints": ["127.0.0.1:1", "models.invalid:2"]}},
        **more,
    }
    path.write_text(yaml.safe_dump(document))
    return load(path)


def port(bind: str) -> Finding:
    return network.port("admin", parse_socket(bind))


def about(found: list[Finding], word: str) -> Finding:
    (one,) = [one for one in found if word in one.text]
    assert bool(one.advice) == (one.state != "ok")
    return one


@pytest.mark.parametrize(
    ("files", "word", "state"),
    [
        ({"proc/sys/net/core/somaxconn": "128"}, "somaxconn", "warn"),
        ({"proc/sys/net/core/somaxconn": "4096"}, "somaxconn", "ok"),
        ({"proc/sys/net/ipv4/ip_local_port_range": "32768\t40000"}, "7233 local ports", "warn"),
        ({"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999"}, "28232 local ports", "ok"),
        ({"proc/sys/net/netfilter/nf_conntrack_count": "95", "proc/sys/net/netfilter/nf_conntrack_max": "100"},
         "connection tracking", "warn"),
        ({"proc/sys/net/netfilter/nf_conntrack_count": "5", "proc/sys/net/netfilter/nf_conntrack_max": "100"},
         "connection tracking", "ok"),
        ({"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}, "huge pages: madvise", "ok"),
        ({"sys/fs/cgroup/a/pids.max": "100"}, "100 processes", "warn"),
        ({"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"}, "hpet", "warn"),
        ({"sys/fs/cgroup/a/cpu.max": "50000 100000"}, "time for 0.5", "warn"),
        ({"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": str(GIB)}, "allows 1GiB", "ok"),
        ({"proc/driver/nvidia/gpus/0000:01:00.0/information": "x",
          "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue"},
         "1 of NVIDIA's, driver 550.54.15", "ok"),
    ],
)  # fmt: skip
def test_a_machine(files: dict[str, str], word: str, state: str, tmp_path: Path) -> None:
    found = list(machine.findings(made(tmp_path, files), None))
    assert about(found, word).state == state


@pytest.mark.parametrize(("size", "state"), [("2GiB", "fail"), ("900MiB", "warn"), ("64MiB", "ok")])
def test_a_cache_and_the_memory_of_the_cgroup(size: str, state: str, tmp_path: Path) -> None:
    place = made(tmp_path / "root", {"sys/fs/cgroup/a/memory.max": str(GIB)})
    found = list(machine.findings(place, config(tmp_path, cache={"size": size})))
    assert about(found, "result cache").state == state


def test_a_gpu_that_is_asked_for_and_not_there(tmp_path: Path) -> None:
    models = Path(__file__).parents[2] / "examples" / "digits" / "models"
    pools = {"p": {"protocol": "oip", "serve": {"models": str(models), "providers": ["cuda", "cpu"]}}}
    found = list(machine.gpus(made(tmp_path), config(tmp_path, pools=pools)))
    assert about(found, "none, and a pool asks for cuda").state == "warn"


def test_a_port_that_is_free_and_one_that_another_process_holds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    assert port(f"127.0.0.1:{number}").state == "ok"
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        found = port(f"127.0.0.1:{int(holder.stdout.readline())}")
        assert (found.state, f"(pid {holder.pid})" in found.text) == ("fail", True)
    finally:
        holder.stdin.close()
        holder.wait()
    assert port("203.0.113.1:80").state == "fail"


def test_a_port_below_1024_that_this_user_may_not_have() -> None:
    code = (
        "import os; from lb.cli.doctor import network; from lb.config.address import parse_socket; os.setuid(65534);"
        "print(network.port('web', parse_socket('127.0.0.1:81')).text)"
    )
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if os.geteuid() == 0 and start > 81:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "may not listen there" in done.stdout


def test_names_of_a_configuration(tmp_path: Path) -> None:
    read = config(tmp_path)
    assert network.names_of(read) == ["models.invalid"]
    found = list(network.findings(read))
    assert about(found, "models.invalid").state == "fail"
    assert about(found, "localhost").state == "ok"


@pytest.mark.parametrize(("days", "state"), [(-3, "fail"), (5, "warn"), (200, "ok")])
def test_a_certificate(days: int, state: str) -> None:
    now = 1_700_000_000
    fact = CertificateFacts("listeners.web", "a.pem", "", "", (), now - 100 * DAY, now + days * DAY, "")
    assert files.certificate(fact, now).state == state


def test_permissions(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 40)
    log = str(tmp_path / "logs" / "access.log")
    (tmp_path / "logs").mkdir()
    read = config(tmp_path, admin={"token_file": str(token)}, log={"access": log})
    loaded = files.Loaded(read, {})
    path = tmp_path / "t.yaml"
    for mode, state in ((0o600, "ok"), (0o644, "warn"), (0o666, "fail")):
        token.chmod(mode)
        assert about(list(files.findings(path, loaded)), "admin token").state == state
    path.chmod(0o666)
    found = list(files.findings(path, loaded))
    assert [one.state for one in found if one.text.startswith("configuration")] == ["fail"]
    assert about(found, "access log").state == "ok"
    (tmp_path / "logs").rmdir()
    assert about(list(files.findings(path, loaded)), "access log").state == "fail"


@pytest.mark.parametrize(
    ("said", "states"),
    [
        ({"LoadState": "not-found"}, ["ok"]),
        ({"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}, ["ok"]),
        (
            {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled", "NRestarts": "2"},
            ["ok", "warn", "warn"],
        ),
        ({"LoadState": "loaded", "ActiveState": "failed", "UnitFileState": "enabled", "Result": "exit-code"}, ["fail"]),
    ],
)
def test_a_unit(said: dict[str, str], states: list[str]) -> None:
    assert [one.state for one in service.state(said)] == states


SHIPPED = {
    "Type": "notify-reload", "NotifyAccess": "main", "KillMode": "mixed", "Restart": "on-failure",
    "OOMPolicy": "continue", "FileDescriptorStoreMax": "1024", "RuntimeDirectory": "tidegate",
    "RuntimeDirectoryPreserve": "restart", "TimeoutStopUSec": "1min 30s", "WatchdogUSec": "30s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, "its directives fit"),
        ({"Type": "simple"}, "Type=simple"),
        ({"NotifyAccess": "none"}, "NotifyAccess=none"),
        ({"KillMode": "control-group"}, "KillMode=control-group"),
        ({"Restart": "no"}, "Restart=no"),
        ({"OOMPolicy": "stop"}, "OOMPolicy=stop"),
        ({"FileDescriptorStoreMax": "0"}, "connections during a restart are refused"),
        ({"FileDescriptorStoreMax": "4"}, "5 are wanted"),
        ({"FileDescriptorStoreMax": "5"}, "its directives fit"),
        ({"RuntimeDirectoryPreserve": "no"}, "the paths of Unix sockets"),
        ({"RuntimeDirectoryPreserve": "no", "RuntimeDirectory": "other"}, "its directives fit"),
        ({"TimeoutStopUSec": "49s"}, "take up to 50 s"),
        ({"TimeoutStopUSec": "50s"}, "its directives fit"),
        ({"TimeoutStopUSec": "infinity"}, "its directives fit"),
        ({"WatchdogUSec": "0"}, "WatchdogSec is not set"),
        ({"WatchdogUSec": "10s"}, "WatchdogSec=10s"),
        ({"WatchdogUSec": "15s"}, "its directives fit"),
    ],
)
def test_the_directives_of_a_unit(tmp_path: Path, other: dict[str, str], told: str) -> None:
    read = config(
        tmp_path,
        workers=1,
        cache={},
        admin={"bind": "unix:/run/tidegate/admin.sock"},
        shutdown={"drain_timeout": "25s"},
        pools={"p": {"protocol": "oip", "serve": {"models": str(tmp_path), "drain_timeout": "20s"}}},
        listeners={
            "web": {"bind": "127.0.0.1:1", "protocol": "http", "routes": [{"pool": "p"}]},
            "more": {"bind": "127.0.0.1:2", "protocol": "http", "routes": [{"pool": "p"}]},
        },
    )
    (found,) = service.directives({**SHIPPED, **other}, 257, read)
    assert told in found.text
    assert (found.state == "ok") == ("fit" in told)


def test_the_unit_that_is_shipped_has_these_directives() -> None:
    text = (ROOT / "systemd" / "tidegate.service").read_text()
    for name, value in SHIPPED.items():
        directive = name.replace("USec", "Sec")
        said = re.search(rf"^{directive}=(.*)$", text, re.MULTILINE)
        assert said is not None, directive
        assert said[1] == value or service.span(said[1]) == service.span(value)


@pytest.mark.parametrize(("version", "state"), [(0, "ok"), (252, "fail"), (253, "warn"), (254, "ok")])
def test_a_systemd_of_another_version(version: int, state: str) -> None:
    assert [one.state for one in service.directives(SHIPPED, version, None)] == [state]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("1min 30s", 90), ("1h 500ms", 3600.5), ("infinity", None), ("", None), ("soon", None)],
)
def test_a_time_span_of_systemd(text: str, seconds: float | None) -> None:
    found = service.span(text)
    assert (found if found is None else found / SECOND) == seconds


def test_without_systemd(tmp_path: Path) -> None:
    assert [one.state for one in service.findings(None, tmp_path)] == ["ok"]


def test_the_command_beside_a_running_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with daemon(tmp_path, configuration(tmp_path, listeners={"web": listener(bind)})) as running:
        assert main(["doctor", "-c", str(running.path), "--json"]) == 0
        found = [Finding(**one) for one in json.loads(capsys.readouterr().out)]
        assert about(found, "is valid").state == "ok"
        assert "is held by tidegate" in about(found, bind).text
        assert main(["doctor", "-c", str(running.path)]) == 0
        assert ", 0 fail" in capsys.readouterr().out


def test_the_command_with_a_broken_file_and_with_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("listners: {}")
    assert main(["doctor", "-c", str(path)]) == 1
    assert f"{path}:1: listners: " in capsys.readouterr().out
    assert main(["doctor", "-c", str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().out
