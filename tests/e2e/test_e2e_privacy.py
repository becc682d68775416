"""Nothing that Tidegate runs reports to anybody: its system calls show whom it speaks to and what it writes."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import system_calls
from daemon import COMMAND, DIGITS, ROOT, Daemon, digits_pool, environment, eventually, http_listener, route
from traffic import DIGITS_INFER, ask_once, digit_samples, request

Start = Callable[..., Daemon]


def private(folder: Path) -> dict[str, str]:
    """The environment of a user whose home is an empty folder, with the installed switches of telemetry left out."""
    home = folder / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "OTEL_", "GRPC_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def traced(folder: Path, *command: str) -> system_calls.Trace:
    """Of a command that ends by itself; it succeeds."""
    prefix = folder / "calls"
    done = subprocess.run(
        [*system_calls.traced(prefix), *command],
        env=private(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return ended(prefix)


def ended(prefix: Path) -> system_calls.Trace:
    """The trace, once strace has written all of it: a moment after the last process has ended."""

    def complete() -> bool:
        files = list(prefix.parent.glob(f"{prefix.name}.*"))
        return bool(files) and not any(tracers(prefix))

    eventually(complete, "the end of the trace")
    return system_calls.read(prefix)


def tracers(prefix: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"strace" and os.fsencode(prefix) in words:
            found.append(int(entry.parent.name))
    return found


async def test_a_daemon_with_model_servers_speaks_to_nobody_but_its_peers(tmp_path: Path, start: Start) -> None:
    """From start to stop, with a request in between, over every library that is loaded: ONNX Runtime, gRPC, aiohttp,
    OpenTelemetry."""
    prefix = tmp_path / "calls"
    own = private(tmp_path)
    with tempfile.TemporaryDirectory(prefix="tg-") as temporary:  # the paths of the model servers' sockets are short
        own["TMPDIR"] = temporary
        trace = await traced_daemon(prefix, own, start)
    assert trace.calls > 1000
    assert trace.peers == set()
    assert {path for path in trace.sockets if not path.startswith((f"{tmp_path}/", f"{temporary}/"))} == set()
    assert trace.beyond(tmp_path / "daemon0", Path(temporary)) == set()
    assert list(Path(own["HOME"]).iterdir()) == []


async def traced_daemon(prefix: Path, own: dict[str, str], start: Start) -> system_calls.Trace:
    names = ("HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE")
    shell = " ".join(["unset ORT_DISABLE_TELEMETRY;", "export", *(f"{n}={shlex.quote(own[n])}" for n in names)])
    daemon = start(
        {
            "workers": 1,
            "listeners": {"web": http_listener(route("/v2", "digits"))},
            # Traced, all takes so long that the model cache would have it for the next start.
            "pools": {"digits": digits_pool(min=1, args=["--model-cache", "off"])},
            "tracing": {"endpoint": "http://127.0.0.1:9", "ratio": 1},
        },
        shell=f'{shell}; set -- {shlex.join(system_calls.traced(prefix))} "$@"',
    )
    (sample, *_) = digit_samples()
    inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": sample["image"]}]
    answer = await ask_once(daemon.port(), request("POST", DIGITS_INFER, {"inputs": inputs}))
    assert answer.status == 200, answer.body
    assert daemon.stop() == 0
    return ended(prefix)


def test_the_commands_speak_to_nobody(tmp_path: Path) -> None:
    config = tmp_path / "tidegate.yaml"
    config.write_text(
        f"""
listeners: {{web: {{bind: "127.0.0.1:0", protocol: http, routes: [{{pool: digits}}]}}}}
pools: {{digits: {{protocol: oip, serve: {{models: {DIGITS / "models"}}}}}}}
tracing: {{endpoint: "http://127.0.0.1:9"}}
"""
    )
    for command in (("check", "-c", str(config)), ("version",), ("bench", "--help")):
        folder = tmp_path / command[0]
        folder.mkdir()
        trace = traced(folder, *COMMAND, *command)
        assert (trace.peers, trace.sockets, trace.beyond(folder)) == (set(), set(), set()), command
        assert trace.calls > 100


SPEAKS = """
import pathlib, socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 443))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 53))
pathlib.Path.home().joinpath("deviceid").write_text("1")
pathlib.Path("/tmp").joinpath("nowhere", "mark").unlink(missing_ok=True)
"""


def test_the_trace_sees_what_a_library_would_do(tmp_path: Path) -> None:
    trace = traced(tmp_path, sys.executable, "-c", SPEAKS)
    assert trace.peers == {"192.0.2.1 port 443", "127.0.0.1 port 53"}
    assert trace.beyond(tmp_path / "other") == {f"{tmp_path}/home/deviceid", "/tmp/nowhere/mark"}


def test_onnx_runtime_is_imported_where_its_telemetry_is_switched_off() -> None:
    """Also by the tests, the examples and the benchmarks: one place sets the switch before the import. What runs other
    makers' servers in environments of their own sets it itself."""
    importers = set()
    for folder in ("backend", "bench", "examples", "lb", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                if any(name.partition(".")[0] == "onnxruntime" for name in names):
                    importers.add(str(path.relative_to(ROOT)))
    others = {name for name in importers if name.startswith("bench/model_servers/others/")}
    for name in others:
        text = (ROOT / name).read_text()
        assert 0 < text.find('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < text.index("\nimport onnxruntime"), name
    assert importers - others == {"backend/runtime.py"}


def test_telemetry_stays_off_but_for_who_asks_for_it(tmp_path: Path) -> None:
    """An empty value, or one that ONNX Runtime might not take for a yes, is not to switch it on."""
    code = "from backend.runtime import SWITCH; import os; print(os.environ[SWITCH])"
    for given, left in ((None, "1"), ("", "1"), ("false", "1"), ("1", "1"), ("0", "0")):
        env = {k: v for k, v in environment().items() if k != "ORT_DISABLE_TELEMETRY"} | {"HOME": str(tmp_path)}
        if given is not None:
            env["ORT_DISABLE_TELEMETRY"] = given
        command = ["unshare", "--net", "--map-root-user", sys.executable, "-c", code]  # no network: "0" would use it
        assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip() == left
