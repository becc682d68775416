"""The admin server of a real daemon: who may ask what, and what it answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
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


def test_a_token_guards_all_but_the_probes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    daemon = Daemon(tmp_path, {**HTTP, "admin": {"bind": "127.0.0.1:0", "token_file": str(token)}})
    try:
        line = eventually(
            lambda: next((x for x in daemon.log.splitlines() if "admin on" in x), None), "the admin server"
        )
        base = f"http://{line.rpartition('admin on ')[2].strip()}"
        assert ask(f"{base}/healthz")[0] == 200
        eventually(lambda: ask(f"{base}/readyz")[0] == 200, "readiness")
        for path in ("/metrics", "/api/v1/status", "/", "/nothing"):
            assert ask(base + path)[0] == 401, path
            assert ask(base + path, "wrong")[0] == 401, path
        code, kind, body = ask(f"{base}/metrics", "s3cret")
        assert (code, kind.split(";")[0]) == (200, "text/plain")
        assert b"tidegate_build_info" in body
        code, kind, body = ask(f"{base}/", "s3cret")
        assert (code, kind.split(";")[0]) == (200, "text/html")
        assert b"<title>Tidegate</title>" in body
        assert json.loads(ask(f"{base}/nothing", "s3cret")[2]) == {"error": "Not Found"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(
                urllib.request.Request(f"{base}/api/v1/reload", headers={"Authorization": "Bearer s3cret"}), timeout=20
            )
        assert (refused.value.code, refused.value.headers["Allow"]) == (405, "POST")
        assert ask(f"{base}/api/v1/reload", "s3cret", "POST", Sec_Fetch_Site="cross-site")[0] == 403
        assert json.loads(ask(f"{base}/api/v1/reload", "s3cret", "POST")[2])["ok"] is True
        daemon.path.write_text("listeners: 7\n")
        code, _, body = ask(f"{base}/api/v1/reload", "s3cret", "POST")
        assert code == 409
        assert "listeners" in json.loads(body)["error"]
    finally:
        daemon.stop()
