"""Clients of other protocols through `tcp` and `udp` listeners: PostgreSQL, Redis, mail, DNS; each is the tool by which
operators measure such servers, and says by itself whether it got what it asked for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from daemon import Daemon
from ports import free_port, wait_for_port
from speaking_servers import SpeakingServer
from waiting import eventually

Start = Callable[..., Daemon]


def serve(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_port(port)
    return process


def run(*command: str, text: str | None = None, **environment: str) -> str:
    """What the command printed; it has to succeed."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def relayed(*endpoints: str, protocol: str = "tcp") -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": protocol, "pool": "servers"}},
        "pools": {"servers": {"protocol": protocol, "endpoints": list(endpoints)}},
    }


def test_pgbench_runs_its_transactions_through_a_reload(start: Start) -> None:
    with SpeakingServer("postgres") as server:
        daemon = start(relayed(f"127.0.0.1:{server.port}"))
        there = ("-h", "127.0.0.1", "-p", str(daemon.port()), "-U", "postgres")
        run("pgbench", "-i", "-q", *there, "postgres", PGPASSWORD="secret")
        command = ["pgbench", *there, "-c", "8", "-j", "2", "-t", "400", "postgres"]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PGPASSWORD": "secret"},
        ) as bench:
            eventually(lambda: daemon.in_flight() >= 8, "pgbench's connections")
            daemon.process.send_signal(signal.SIGHUP)
            printed = bench.communicate(timeout=60)[0]
        assert bench.returncode == 0, printed
        assert "number of transactions actually processed: 3200/3200" in printed
        assert "number of failed transactions: 0 " in printed
        # A connection for each transaction: the sessions are counted, and none is left.
        printed = run("pgbench", *there, "-C", "-S", "-c", "4", "-t", "25", "postgres", PGPASSWORD="secret")
        assert "number of transactions actually processed: 100/100" in printed
        eventually(lambda: daemon.in_flight() == 0, "the end of the sessions")


def test_redis_benchmark_pipelines(start: Start) -> None:
    port = free_port()
    server = serve(["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"], port)
    try:
        daemon = start(relayed(f"127.0.0.1:{port}"))
        tests = ("ping_mbulk", "set", "get", "lrange_100", "mset")
        printed = run(
            *("redis-benchmark", "-h", "127.0.0.1", "-p", str(daemon.port()), "-c", "20", "-n", "4000", "-P", "8"),
            *("-d", "3000", "--csv", "-t", ",".join(tests)),
        )
        # Its heading, and the filling of its lists; a command that fails ends the program.
        assert len(printed.splitlines()) == 2 + len(tests)
        asked = run("redis-cli", "-p", str(port), "info", "commandstats")
        calls = {name: int(n) for name, n in re.findall(r"cmdstat_(\w+):calls=(\d+)", asked)}
        assert min(calls[name] for name in ("ping", "set", "get", "lrange", "mset")) >= 4000
        assert "failed_calls=0" in asked
        assert not re.search(r"failed_calls=[1-9]", asked)
    finally:
        server.kill()
        server.wait()


class Box(Message):
    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.letters.append(message)


def test_mail_arrives_whole(start: Start, tmp_path: Path) -> None:
    box = Box()
    server = Controller(box, "127.0.0.1", free_port())
    server.start()
    try:
        daemon = start(relayed(f"127.0.0.1:{server.port}"))
        letter = EmailMessage()
        letter["From"], letter["To"], letter["Subject"] = "a@example.org", "b@example.org", "figures"
        letter.set_content(".\n..\nthe end\n")
        attached = bytes(range(256)) * 2000
        letter.add_attachment(attached, maintype="application", subtype="octet-stream", filename="figures.bin")
        (tmp_path / "letter").write_bytes(letter.as_bytes())
        (tmp_path / "msmtprc").write_text("")
        run(
            *("msmtp", f"--file={tmp_path / 'msmtprc'}", "--host=127.0.0.1", f"--port={daemon.port()}"),
            *("--from=a@example.org", "--auth=off", "--tls=off", "b@example.org"),
            text=letter.as_string(),
        )
        run(
            *(
                "curl",
                "-sS",
                "--noproxy",
                "*",
                f"smtp://127.0.0.1:{daemon.port()}/here",
                "--mail-from",
                "a@example.org",
            ),
            *("--mail-rcpt", "b@example.org", "--upload-file", str(tmp_path / "letter"), "--crlf"),
        )
        assert len(box.letters) == 2
        for got in box.letters:
            (words, file) = got.get_payload()
            assert words.get_payload(decode=True).replace(b"\r\n", b"\n") == b".\n..\nthe end\n"
            assert file.get_payload(decode=True) == attached
    finally:
        server.stop()


@pytest.fixture
def names() -> Iterator[int]:
    """The port of a name server that knows n0.test to n99.test."""
    port = free_port()
    answers = [f"--address=/n{n}.test/192.0.2.{n}" for n in range(100)]
    server = serve(
        ["dnsmasq", "-k", "-C", "/dev/null", "-p", str(port), "-a", "127.0.0.1", "-z", "-R", "-h", *answers], port
    )
    yield port
    server.kill()
    server.wait()


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_dnsperf_gets_all_answers(start: Start, names: int, tmp_path: Path, protocol: str) -> None:
    daemon = await asyncio.to_thread(start, relayed(f"127.0.0.1:{names}", protocol=protocol))
    times = 30 if protocol == "udp" else 9  # dnsmasq closes a connection after 100 questions, whatever is under way
    questions = tmp_path / "questions"
    questions.write_text("".join(f"n{n}.test A\n" for n in range(100)))
    printed = await asyncio.to_thread(
        run,
        *("dnsperf", "-s", "127.0.0.1", "-p", str(daemon.port()), "-m", protocol, "-d", str(questions)),
        *("-n", str(times), "-c", "10", "-q", "20", "-t", "20"),
    )
    assert re.search(rf"Queries sent:\s+{times}00\b", printed), printed
    assert re.search(rf"Queries completed:\s+{times}00 \(100.00%\)", printed), printed
    assert re.search(rf"Response codes:\s+NOERROR {times}00 \(100.00%\)", printed), printed
