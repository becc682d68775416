"""Each generated configuration is one that the program itself accepts."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.errors import Cannot
from bench.machine import free_ports
from bench.peers import PROXIES, Setup
from bench.scenarios import SCENARIOS
from bench.scenarios.inference import binary_request, json_answer, json_request
from bench.servers import FixedHttp

JOBS = sorted({scenario.job for scenario in SCENARIOS.values()})


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", PROXIES)
def test_configuration_is_valid(name: str, job: str, tmp_path: Path) -> None:
    proxy = PROXIES[name]
    if proxy.version() is None:
        pytest.skip(f"{name} is not installed")
    port, server_port, admin_port = free_ports(3)
    try:
        text = proxy.config(Setup(job, port, server_port, admin_port, tmp_path, 1000))  # type: ignore[arg-type]
    except Cannot as reason:
        if (name, job) not in {("haproxy", "cache"), ("nginx", "tcp")}:
            pytest.fail(f"{name} should be able to do {job}: {reason}")
        return
    path = tmp_path / f"{name}.conf"
    path.write_text(text)
    done = subprocess.run(proxy.check_command(path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[warn]" not in done.stderr.lower()
    assert "[warning]" not in done.stderr.lower()


def test_checks_do_find_mistakes(tmp_path: Path) -> None:
    for name, proxy in PROXIES.items():
        if proxy.version() is not None:
            path = tmp_path / f"{name}.conf"
            path.write_text("nonsense here\n")
            done = subprocess.run(proxy.check_command(path), capture_output=True, timeout=60, check=False)
            assert done.returncode != 0, name


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda s: s.name)
def test_http_server_configuration_is_valid(scenario: object, tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
        pytest.skip("nginx is not installed")
    server = scenario.servers["http"]  # type: ignore[attr-defined]
    command = server.command(tmp_path, free_ports(1)[0], 1, 1000)
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_fixed_answers_refuse_what_nginx_would_interpret() -> None:
    for body in ("a$b", "it's", "a\\b", "a\nb", "é"):
        with pytest.raises(ValueError, match="printable ASCII"):
            FixedHttp(body)


def test_requests_are_of_the_size_they_are_said_to_be() -> None:
    assert len(json_request(700).body) == 700
    load = binary_request(4096)
    assert len(load.body) == int(load.headers["Inference-Header-Content-Length"]) + 4096
    assert json_answer(64).count("0.5") == 16
