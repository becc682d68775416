"""The admin server of a real daemon: who may ask what, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from browser import page_of
from daemon import Daemon, eventually

HTTP = {
    "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "web"}]}},
    "pools": {"web": {"protocol": "http", "endpoints": ["127.0.0.1:9"]}},
}


def ask(url: str, token: str = "", method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Content-Type", ""), error.read()


def admin_url(daemon: Daemon) -> str:
    """Where the admin server of a daemon listens that has one on a port."""
    line = eventually(lambda: next((x for x in daemon.log.splitlines() if "admin on" in x), None), "the admin server")
    return f"http://{line.rpartition('admin on ')[2].strip()}"


def test_a_token_guards_all_but_the_probes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0", "token_file": str(token)}})
    try:
        base = admin_url(daemon)
        assert ask(f"{base}/healthz")[0] == 200
        eventually(lambda: ask(f"{base}/readyz")[0] == 200, "readiness")
        for path in ("/metrics", "/api/v1/status", "/nothing"):
            assert ask(base + path)[0] == 401, path
            assert ask(base + path, "wrong")[0] == 401, path
        refusal = urllib.request.Request(f"{base}/metrics", headers={"Authorization": "Bearer \xff"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(refusal, timeout=20)
        assert (refused.value.code, refused.value.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ask(f"{base}/api/v1/transitions", Authorization="bearer s3cret")[0] == 200
        code, kind, body = ask(f"{base}/metrics", "s3cret")
        assert (code, kind.split(";")[0]) == (200, "text/plain")
        assert b"tidegate_build_info" in body
        code, kind, body = ask(f"{base}/")  # browsers send no token for a page: its script asks for one
        assert (code, kind.split(";")[0]) == (200, "text/html")
        assert b"<title>Tidegate</title>" in body
        assert json.loads(ask(f"{base}/nothing", "s3cret")[2]) == {"error": "Not Found"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(
                urllib.request.Request(f"{base}/api/v1/explain", headers={"Authorization": "Bearer s3cret"}), timeout=20
            )
        assert (refused.value.code, refused.value.headers["Allow"]) == (405, "POST")
        assert ask(f"{base}/api/v1/reload", "s3cret", "POST", Sec_Fetch_Site="cross-site")[0] == 403
        assert json.loads(ask(f"{base}/api/v1/reload", "s3cret", "POST")[2])["ok"] is True
        for asked, said in (("0", 400), ("9" * 18, 200), ("9" * 5000, 400)):
            assert ask(f"{base}/api/v1/transitions?last={asked}", "s3cret")[0] == said
        daemon.path.write_text("listeners: 7\n")
        code, _, body = ask(f"{base}/api/v1/reload", "s3cret", "POST")
        assert code == 409
        assert "listeners" in json.loads(body)["error"]
    finally:
        daemon.stop()


def test_without_a_token_it_goes_by_no_name_of_another_site(tmp_path: Path) -> None:
    """A page whose name resolves to this machine when it is asked again (DNS rebinding) is of the same origin."""
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0"}})
    try:
        base = admin_url(daemon)
        port = base.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.org", "[::1"):
            for path in ("/api/v1/status", "/metrics"):
                assert ask(base + path, Host=host)[0] == 403, host
            assert ask(f"{base}/healthz", Host=host)[0] == 200, host
        for host in ("localhost", f"LOCALHOST:{port}", "tide.localhost", f"[::1]:{port}", "[::1]", "10.1.2.3:80"):
            assert ask(f"{base}/api/v1/status", Host=host)[0] == 200, host
    finally:
        daemon.stop()


def test_a_page_of_another_site_gets_nothing_and_changes_nothing(tmp_path: Path) -> None:
    """By `Origin` as well as by `Sec-Fetch-Site`: browsers send only the former to an address that is not localhost."""
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0"}})
    try:
        base = admin_url(daemon)
        paths = {
            "GET": ("/metrics", "/api/v1/status", "/api/v1/transitions", "/api/v1/endpoint?pool=web", "/nothing"),
            "POST": ("/api/v1/reload", "/api/v1/explain", "/api/v1/endpoint", "/metrics", "/", "/healthz", "/nothing"),
            "PUT": ("/api/v1/reload", "/"),
            "OPTIONS": ("/api/v1/reload", "/api/v1/status"),
        }
        foreign: tuple[dict[str, str], ...] = (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
        )
        for method, targets in paths.items():
            for path in targets:
                for fields in foreign:
                    code, _, body = ask(base + path, method=method, **fields)
                    assert (code, json.loads(body)) == (403, {"error": "cross-site requests are refused"}), path
        for probe in ("/healthz", "/readyz", "/"):
            assert ask(base + probe, Origin="https://evil.example")[0] == 200
        own = {"Origin": base, "Sec_Fetch_Site": "same-origin"}
        assert ask(f"{base}/api/v1/reload", method="POST", **own)[0] == 200
        reloads = json.loads(ask(f"{base}/api/v1/status", **own)[2])["reloads"]
        assert sum(reloads.values()) == 1
    finally:
        daemon.stop()


def test_slow_and_endless_requests_end_and_leave_it_to_others(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {**HTTP, "workers": 1, "admin": {"bind": "127.0.0.1:0"}})
    try:
        base = admin_url(daemon)
        host, port = base.removeprefix("http://").split(":")
        post = b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n"
        chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
        before = psutil.Process(daemon.process.pid).memory_info().rss
        with contextlib.ExitStack() as open_:
            slow = []
            for begun in 40 * (b"GET /metrics HTTP/1.1\r\nHost: a", post + b"Content-Length: 9\r\n\r\n1", chunked):
                slow.append(open_.enter_context(socket.create_connection((host, int(port)), 60)))
                slow[-1].sendall(begun)
            endless = open_.enter_context(socket.create_connection((host, int(port)), 60))
            endless.sendall(chunked)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 64 << 20:
                    endless.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
            assert sent < 64 << 20
            assert ask(f"{base}/api/v1/status")[0] == 200
            assert psutil.Process(daemon.process.pid).memory_info().rss < before + (64 << 20)
            for client in slow:
                assert client.makefile("rb").readline().split()[1] == b"408"
        assert sum(json.loads(ask(f"{base}/api/v1/status")[2])["reloads"].values()) == 0
    finally:
        daemon.stop()


def test_a_new_token_is_noticed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0", "token_file": "token"}})
    try:
        status = f"{admin_url(daemon)}/api/v1/status"
        assert ask(status, "first")[0] == 200

        token.write_text("second\n")
        assert [ask(status, given)[0] for given in ("first", "second")] == [401, 200]
        token.write_text("\n")
        assert [ask(status, given)[0] for given in ("", "first", "second")] == [401, 401, 200]
        assert daemon.log.count("token is empty; the old token stays") == 1
        token.unlink()
        assert [ask(status, given)[0] for given in ("", "second")] == [401, 200]

        def reloaded(secret: str, **admin: str) -> bool:
            daemon.write({**HTTP, "admin": {"bind": "127.0.0.1:0", **admin}})
            url = status.replace("status", "reload")
            return bool(json.loads(ask(url, secret, "POST")[2])["ok"])

        other = tmp_path / "other"
        other.write_text("third\n")
        assert reloaded("second", token_file="other")
        assert [ask(status, given)[0] for given in ("second", "third")] == [401, 200]
        assert reloaded("third")
        assert ask(status)[0] == 200
        assert reloaded("", token_file="other")
        assert [ask(status, given)[0] for given in ("", "third")] == [401, 200]
    finally:
        daemon.stop()


def test_the_dashboard_asks_for_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0", "token_file": "token"}})
    try:
        page = page_of(f"{admin_url(daemon)}/", str(tmp_path / "profile"))
    finally:
        daemon.stop()
    assert re.search(r'<p id="problem"[^>]*>a token is needed</p>', page)
    assert '<form id="ask">' in page


def test_connections_to_it_leave_descriptors_for_workers(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {**HTTP, "workers": 1, "admin": {"bind": "127.0.0.1:0"}})
    try:
        base = admin_url(daemon)
        worker = json.loads(ask(f"{base}/api/v1/status")[2])["workers"][0]
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        with contextlib.ExitStack() as open_:
            host, port = base.removeprefix("http://").split(":")
            clients = [open_.enter_context(socket.create_connection((host, int(port)))) for _ in range(200)]
            ended = select.poll()
            for client in clients:
                ended.register(client, select.POLLIN)
            eventually(lambda: len(ended.poll(0)) >= 130, "those above 64 are refused")
            os.kill(worker["pid"], signal.SIGKILL)
            eventually(lambda: "died: signal SIGKILL" in daemon.log, "it is missed")
        status = eventually(
            lambda: (d := json.loads(ask(f"{base}/api/v1/status")[2]))["workers"][0]["state"] == "running" and d,
            "another",
        )
        assert status["workers"][0]["restarts"] == 1
        assert "cannot start" not in daemon.log
    finally:
        daemon.stop()


def test_a_pool_that_needs_endpoints_to_be_ready(tmp_path: Path) -> None:
    pool = {"protocol": "http", "endpoints": ["127.0.0.1:9", "127.0.0.1:10"], "ready_endpoints": 2}
    daemon = Daemon(tmp_path, {**HTTP, "pools": {"web": pool}, "admin": {"bind": "127.0.0.1:0"}})
    try:
        base = admin_url(daemon)
        eventually(lambda: ask(f"{base}/readyz")[0] == 200, "readiness")
        drain = json.dumps({"pool": "web", "address": "127.0.0.1:10", "admin": "drain"}).encode()
        with urllib.request.urlopen(f"{base}/api/v1/endpoint", drain, timeout=20) as answer:
            assert answer.status == 200
        assert ask(f"{base}/readyz")[::2] == (503, b"pool web has 1 of the 2 endpoints that it needs\n")
        with urllib.request.urlopen(
            f"{base}/api/v1/endpoint", drain.replace(b"drain", b"enabled"), timeout=20
        ) as answer:
            assert answer.status == 200
        assert ask(f"{base}/readyz")[0] == 200
    finally:
        daemon.stop()


def test_the_access_log_is_opened_anew_by_command(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    daemon = Daemon(tmp_path, {**HTTP, "log": {"access": str(log)}})
    try:
        daemon.wait_ready()
        log.rename(tmp_path / "access.log.1")
        done = daemon.command("reopen-logs")
        assert (done.returncode, done.stdout) == (0, "the access log was opened anew\n"), done.stderr
        assert log.exists()
        log.unlink()
        log.mkdir()
        done = daemon.command("reopen-logs")
        assert (done.returncode, done.stdout) == (1, "")
        assert str(log) in done.stderr
    finally:
        daemon.stop()
