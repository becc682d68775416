"""An independent suite for HTTP caches, http-cache-tests of cache-tests.fyi, against Tidegate, nginx and Varnish in one
run: Tidegate passes at least as many of the required and of the optimal tests as either.

`make test-http-cache` runs this file. It fetches the suite (a package of npm, 39 MB with what it needs) into
`build/http-cache-tests`, and needs node, nginx and Varnish. Each cache has its documented defaults and its cache
switched on. A test passes, fails, or cannot be judged: its setup or a test that it depends on failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from daemon import ROOT, Daemon, http_listener
from ports import free_port

Start = Callable[..., Daemon]
VERSION = "0.4.5"
HOME = ROOT / "build" / "http-cache-tests"
SUITE = HOME / "node_modules" / "http-cache-tests"
KINDS = ("required", "optimal", "check")
SAID = ("pass", "fail", "not judged")

NGINX = """{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=answers:8m max_size=100m inactive=600m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_cache answers;
            proxy_cache_revalidate on;
        }}
    }}
}}
"""
VCL = 'vcl 4.1;\nbackend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}\n'
LIST = """
import tests from './tests/index.mjs'
import surrogate from './tests/surrogate-control.mjs'
const found = {}
for (const suite of [...tests, surrogate]) {
  for (const test of suite.tests) found[test.id] = {kind: test.kind || 'required', needs: test.depends_on || []}
}
console.log(JSON.stringify(found))
"""


@pytest.fixture(scope="session")
def suite() -> Path:
    """The folder of the suite, fetched if it is not there."""
    for program in ("node", "npm", "nginx", "varnishd"):
        assert shutil.which(program), f"{program} is not installed"
    if not SUITE.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*install, f"http-cache-tests@{VERSION}"], cwd=HOME, check=True, timeout=600)
    return SUITE


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, **options: Any) -> Iterator[None]:
    """A program that listens on `port` while the block runs."""
    with open(log, "ab") as out, subprocess.Popen(command, stdout=out, stderr=out, **options) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                    break
                except (URLError, OSError):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, f"{command[0]} does not answer: {log.read_text()}"
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(20)


def results(suite: Path, port: int) -> dict[str, Any]:
    """Of each test `True`, or why it failed."""
    told = {
        **os.environ,
        "npm_config_base": f"http://127.0.0.1:{port}",
        "npm_config_id": "",
        "npm_package_config_id": "",
    }
    command = ["node", "--no-warnings", "cli.mjs"]
    done = subprocess.run(command, cwd=suite, env=told, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judged(found: dict[str, Any], tests: dict[str, Any]) -> Counter[tuple[str, str]]:
    """Numbers of tests by kind and outcome."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, outcome in found.items():
        if outcome is True:
            said = "pass"
        elif outcome[0] == "Setup" or any(found.get(need) is not True for need in tests[name]["needs"]):
            said = "not judged"
        else:
            said = "fail"
        counts[tests[name]["kind"], said] += 1
    return counts


@pytest.mark.timeout(1800)
def test_at_least_as_good_as_nginx_and_varnish(suite: Path, start: Start, tmp_path: Path) -> None:
    listed = subprocess.run(
        ["node", "--no-warnings", "--input-type=module", "-e", LIST],
        cwd=suite,
        capture_output=True,
        text=True,
        check=True,
    )
    tests = json.loads(listed.stdout)
    origin, nginx, varnish = free_port(), free_port(), free_port()
    told = {**os.environ, "npm_config_protocol": "http", "npm_config_port": str(origin)}
    told["npm_config_pidfile"] = str(tmp_path / "origin.pid")
    user = "user root;\n" if os.geteuid() == 0 else ""  # another one could not reach the test's folder
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=nginx, origin=origin, user=user))
    (tmp_path / "default.vcl").write_text(VCL.format(origin=origin))
    home = ["-j", "none", "-n", str(tmp_path / "varnish"), "-s", "malloc,64m"]
    counts: dict[str, Counter[tuple[str, str]]] = {}
    found: dict[str, dict[str, Any]] = {}
    with running(["node", "server/server.mjs"], origin, tmp_path / "origin.log", cwd=suite, env=told):
        daemon = start(
            {
                "cache": {"size": "64MiB"},
                "listeners": {"web": http_listener({"pool": "origin", "http_cache": {}})},
                "pools": {"origin": {"protocol": "http", "endpoints": [f"127.0.0.1:{origin}"]}},
            }
        )
        found["Tidegate"] = results(suite, daemon.port())
        with running(["nginx", "-c", str(tmp_path / "nginx.conf")], nginx, tmp_path / "nginx.out"):
            found["nginx"] = results(suite, nginx)
        vcl = ["-f", str(tmp_path / "default.vcl")]
        with running(["varnishd", "-F", *home, "-a", f"127.0.0.1:{varnish}", *vcl], varnish, tmp_path / "varnish.out"):
            found["Varnish"] = results(suite, varnish)
    (HOME / "results.json").write_text(json.dumps(found, indent=1))
    for name, outcomes in found.items():
        counts[name] = judged(outcomes, tests)
        for kind in KINDS:
            of_kind = counts[name]
            print(f"{name:9}{kind:9}", *(f"{said} {of_kind[kind, said]:3}" for said in SAID))
    print("Tidegate does not pass:")
    for name, outcome in found["Tidegate"].items():
        if outcome is not True:
            print(f"  {tests[name]['kind']:9}{name}: {outcome}")
    for kind in ("required", "optimal"):
        for peer in ("nginx", "Varnish"):
            assert counts["Tidegate"][kind, "pass"] >= counts[peer][kind, "pass"], (kind, peer)
