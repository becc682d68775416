"""The command line: texts, exit codes, and never a traceback."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_daemon import ROOT, configuration, daemon, listener

import lb
from lb.cli.admin import AdminClient, AdminError


def tidegate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    environment.pop("TIDEGATE_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-m", "lb.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tidegate.yaml"
    path.write_text(yaml.safe_dump(configuration(tmp_path)))
    return path


def test_the_bench_suite_is_a_command(tmp_path: Path) -> None:
    done = tidegate("bench", "list", cwd=tmp_path)
    assert done.returncode == 0
    assert "proxy-http1" in done.stdout
    assert "SCENARIO" in tidegate("bench", "run", "--help", cwd=tmp_path).stdout
    failed = tidegate("bench", "run", "nonsense", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("bench: no such scenario: nonsense")


def test_help_names_every_command(tmp_path: Path) -> None:
    done = tidegate("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("run", "check", "reload", "status", "version"))
    assert "SIGHUP reloads" in tidegate("run", "--help", cwd=tmp_path).stdout


def test_the_options_that_everyone_tries_first(tmp_path: Path) -> None:
    assert tidegate("--version", cwd=tmp_path).stdout == f"tidegate {lb.__version__}\n"
    assert tidegate("-h", cwd=tmp_path).stdout == tidegate("--help", cwd=tmp_path).stdout
    assert tidegate("run", "-h", cwd=tmp_path).returncode == 0


def test_version(tmp_path: Path) -> None:
    done = tidegate("version", cwd=tmp_path)
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert lines["tidegate"] == lb.__version__
    assert lines.keys() >= {"python", "uvloop", "nghttp2", "llhttp"}


def test_check_says_valid(config: Path, tmp_path: Path) -> None:
    done = tidegate("check", "-c", str(config), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config}: valid: 1 listener, 1 pool\n", "")


def test_check_shows_every_problem_of_every_layer(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    bad = configuration(tmp_path, workers=-1, listeners={"web": listener("127.0.0.1:0", "nowhere")})
    bad["pools"]["up"]["policy"] = "least_requests"
    path.write_text(yaml.safe_dump(bad))
    done = tidegate("check", "-c", str(path), cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}:") for line in lines)
    assert "least_request" in done.stderr


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert tidegate("fly", cwd=tmp_path).returncode == 2
    assert tidegate("run", "--fly", cwd=tmp_path).returncode == 2


def test_without_a_daemon(config: Path, tmp_path: Path) -> None:
    for command in ("status", "reload"):
        done = tidegate(command, "-c", str(config), cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"tidegate: no answer from the daemon at unix:{tmp_path}/admin.sock: ")
        assert done.stderr.count("\n") == 1


def test_reload_and_status_of_a_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        path = str(running.path)
        done = tidegate("reload", "-c", path, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "reloaded: plan 2\n")
        shown = tidegate("status", "-c", path, cwd=tmp_path)
        assert shown.returncode == 0
        assert "plan 2" in shown.stdout
        assert running.address() in shown.stdout
        assert "127.0.0.1:9" in shown.stdout
        assert shown.stdout.count("running") == 3
        document = json.loads(
            tidegate("status", "--json", "--admin", f"unix:{tmp_path}/admin.sock", cwd=tmp_path).stdout
        )
        assert document["generation"] == 2
        bad = configuration(tmp_path, listeners={"refused": listener("127.0.0.1:0")})
        running.write(bad)
        done = tidegate("reload", "-c", path, cwd=tmp_path)
        assert done.returncode == 1
        assert "the old configuration stays" in done.stderr
        assert "the plan is refused" in done.stderr
        assert "failed" in tidegate("status", "-c", path, cwd=tmp_path).stdout
        running.write("nonsense")
        done = tidegate("reload", "--admin", f"unix:{tmp_path}/admin.sock", cwd=tmp_path)
        assert done.returncode == 1
        assert f"{path}:1" in done.stderr


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers what the test has put into the server."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.server.seen.append(self.headers["Authorization"])  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as made:
        made.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b"{}"), "does not accept the token"),
        ((200, b"<html>"), "not JSON"),
        ((200, b"[]"), "no JSON object"),
        ((503, b'{"error": "starting"}'), "answers 503: starting"),
    ],
)
def test_answers_that_are_no_good(server: Any, answer: tuple[int, bytes], message: str) -> None:
    server.answer = answer
    client = AdminClient(f"127.0.0.1:{server.server_port}")
    with pytest.raises(AdminError, match=message):
        client.status()
    with pytest.raises(AdminError):
        client.reload()


def test_the_token_is_sent(server: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    server.answer = (200, b'{"ok": true, "generation": 7}')
    url = f"http://127.0.0.1:{server.server_port}"
    done = tidegate("reload", "--admin", url, "--token-file", str(token), cwd=tmp_path)
    assert done.stdout == "reloaded: plan 7\n"
    assert server.seen == ["Bearer secret"]


@pytest.mark.parametrize("url", ["ftp://x:1", "127.0.0.1", "http://h:port", "http://h:1/path"])
def test_a_bad_admin_address(url: str, tmp_path: Path) -> None:
    done = tidegate("status", "--admin", url, cwd=tmp_path)
    assert done.returncode == 1
    assert "write http://HOST:PORT or unix:/PATH" in done.stderr
