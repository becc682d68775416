"""Each generated configuration is one that the program itself accepts, without a warning."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import BenchError, Cannot
from bench.machine import free_ports
from bench.peers import OURS, PROXIES
from bench.peers.base import Class, Proxy, Setup, Task, show_files, write_files
from bench.peers.certificates import make_certificate
from bench.scenarios import SCENARIOS, Scenario
from bench.scenarios.inference import binary_request, json_answer, json_request
from bench.servers import FixedHttp, Place

OPTIONS = {
    "plain": {},
    "tls": {"tls": True},
    "routes": {"routes": 1000},
    "least_request": {"balance": "least_request"},
    "endpoint_limit": {"endpoint_limit": 8},
    "hedge": {"hedge": "p95"},
    "checks": {"checks": True},
    "untuned": {"untuned": True, "deadline": 0.25},
    "failover": {"balance": "round_robin", "checks": True, "failover": True},
    "classes": {"endpoint_limit": 1, "classes": (Class("a", 0.1, "high"), Class("b", 1, "low"))},
}
JOBS = ("http", "http2", "grpc", "tcp", "udp", "cache", "http_cache")
# What a peer cannot do: jobs, and (job, option) pairs beyond those.
EVERYWHERE = {
    ("tcp", "routes"),
    ("udp", "routes"),
    ("udp", "tls"),
    ("udp", "endpoint_limit"),
    ("tcp", "classes"),
    ("udp", "classes"),
    *((job, option) for job in JOBS if job != "http" for option in ("untuned", "failover")),
}
NO_CLASSES = {(job, "classes") for job in JOBS}
CANNOT: dict[str, tuple[set[str], set[tuple[str, str]]]] = {
    "tidegate": (set(), EVERYWHERE),
    "haproxy": ({"udp", "cache", "http_cache"}, EVERYWHERE),
    "nginx": (set(), EVERYWHERE | NO_CLASSES),
    "envoy": ({"cache", "http_cache"}, EVERYWHERE | NO_CLASSES | {("udp", "checks"), ("udp", "least_request")}),
    "varnish": (
        {"http2", "grpc", "tcp", "udp"},
        {("cache", "untuned"), ("http_cache", "untuned")}
        | {
            (job, option)
            for job in ("http", "cache", "http_cache")
            for option in ("tls", "least_request", "classes", "failover")
        },
    ),
}
CASES = [(name, job, option) for name in CANNOT for job in JOBS for option in OPTIONS]
# Envoy's only way to forward datagrams that is not deprecated.
TOLERATED = "UdpProxyConfig.matcher' is marked as work-in-progress"


def proxy_of(name: str) -> Proxy:
    proxy = PROXIES[name]
    if proxy.version() is None:
        pytest.skip(f"{name} is not installed")
    return proxy


def setup_of(task: Task, directory: Path, servers: int = 2) -> Setup:
    port, admin_port, *server_ports = free_ports(2 + servers)
    certificate = make_certificate(directory) if task.tls else None
    return Setup(task, port, tuple(server_ports), admin_port, directory, 1000, certificate)


def check(proxy: Proxy, setup: Setup) -> subprocess.CompletedProcess[str]:
    return subprocess.run(proxy.check_command(setup), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("name", "job", "option"), CASES)
def test_configuration_is_valid(name: str, job: str, option: str, tmp_path: Path) -> None:
    proxy = proxy_of(name)
    jobs, pairs = CANNOT[name]
    task = Task(job, **OPTIONS[option])  # type: ignore[arg-type]
    if name == "varnish" and option == "routes":
        # As many as a test has time for: each takes the C compiler some milliseconds.
        task = replace(task, routes=60)
    setup = setup_of(task, tmp_path)
    if job in jobs or (job, option) in pairs:
        with pytest.raises(Cannot) as reason:
            proxy.files(setup)
        assert 10 < len(str(reason.value)) < 80
        return
    shown = write_files(proxy, setup)
    done = check(proxy, setup)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if TOLERATED not in line]
    assert not [line for line in lines if re.search(r"\[warn|^\s*warning\b", line, re.IGNORECASE)]
    assert all(str(port) in shown for port in setup.server_ports)
    if task.routes > 1:
        assert shown.count("/route-") == task.routes


@pytest.mark.parametrize(
    ("name", "said"),
    [("tidegate", "workers: 4\n"), ("haproxy", "nbthread 4\n"), ("nginx", "worker_processes 4;")],
)
def test_several_workers_are_what_the_program_gets(name: str, said: str, tmp_path: Path) -> None:
    proxy = proxy_of(name)
    setup = setup_of(SCENARIOS["tcp-new-connections-4"].task, tmp_path)
    assert said in write_files(proxy, setup)
    assert check(proxy, setup).returncode == 0
    assert said not in "".join(proxy.files(replace(setup, task=SCENARIOS["tcp-new-connections"].task)).values())


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", [name for name in CANNOT if name != OURS])
def test_inference_by_rest_is_http_to_a_peer(name: str, option: str, tmp_path: Path) -> None:
    setup = setup_of(Task("http", **OPTIONS[option]), tmp_path)  # type: ignore[arg-type]
    if ("http", option) not in CANNOT[name][1]:
        inference = replace(setup, task=replace(setup.task, job="oip"))
        assert PROXIES[name].files(inference) == PROXIES[name].files(setup)
        assert PROXIES[name].upstream(inference.task) == "http"


@pytest.mark.parametrize("name", CANNOT)
def test_checks_do_find_mistakes(name: str, tmp_path: Path) -> None:
    proxy = proxy_of(name)
    setup = setup_of(Task("http"), tmp_path)
    write_files(proxy, setup)
    assert check(proxy, setup).returncode == 0
    for file in proxy.files(setup):
        if file != "parameters.cli":  # Varnish reads these when it starts, and then ends if one is wrong
            text = (tmp_path / file).read_text()
            (tmp_path / file).write_text(text.replace("127.0.0.1", "nonsense!") + "\nnonsense here {\n")
            assert check(proxy, setup).returncode != 0, file
            (tmp_path / file).write_text(text)


@pytest.mark.parametrize("name", ["haproxy", "nginx", "envoy"])
def test_tls_without_a_certificate_is_refused(name: str, tmp_path: Path) -> None:
    setup = replace(setup_of(Task("http", tls=True), tmp_path), certificate=None)
    with pytest.raises(BenchError, match="needs a certificate"):
        PROXIES[name].files(setup)


def test_a_configuration_of_several_files_is_shown_with_their_names(tmp_path: Path) -> None:
    files = PROXIES["haproxy"].files(setup_of(Task("http", routes=3), tmp_path))
    assert list(files) == ["haproxy.cfg", "routes.map"]
    assert "# ---- routes.map\n/route-0000/ servers\n" in show_files(files)


def test_the_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path), make_certificate(tmp_path)
    assert first == second
    for path in (second.key, second.both):
        assert path.stat().st_mode & 0o077 == 0
    assert second.both.read_bytes() == second.chain.read_bytes() + second.key.read_bytes()


@pytest.mark.parametrize(
    "scenario", [s for s in SCENARIOS.values() if isinstance(s.servers.get("http"), FixedHttp)], ids=lambda s: s.name
)
def test_http_server_configuration_is_valid(scenario: Scenario, tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
        pytest.skip("nginx is not installed")
    server = scenario.servers["http"]
    command = server.command(Place(tmp_path, tuple(free_ports(server.ports)), 1, 1000))
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_requests_are_of_the_size_they_are_said_to_be() -> None:
    assert len(json_request(700).body) == 700
    load = binary_request(4096)
    assert len(load.body) == int(load.headers["Inference-Header-Content-Length"]) + 4096
    assert json_answer(64).count("0.5") == 16


def test_the_page_lists_every_scenario() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text().partition("## Results")[0]
    starred = set(re.findall(r"`([a-z0-9-]+)` \*", page))
    assert {name for name in SCENARIOS if f"`{name}`" in page} == set(SCENARIOS)
    assert starred == {scenario.name for scenario in SCENARIOS.values() if scenario.default}


@pytest.mark.parametrize("name", [*CANNOT, "tidegate-prequal", "haproxy-tuned"])
def test_without_tuning_a_file_names_servers_and_the_time_limit(name: str, tmp_path: Path) -> None:
    row = SCENARIOS["untuned-concurrent"].row(name)
    setup = replace(setup_of(row.task, tmp_path), server_ports=(9001, 9002))
    text = show_files(proxy_of(row.proxy).files(setup))
    assert "9001" in text
    assert "9002" in text
    tuning = r"least|policy|balance|max_?conn[s ]|max_fails|thresholds|keepalive|prequal"
    found = set(re.findall(tuning, text.replace(f"maxconn {setup.max_connections}", "")))
    assert found == {"tidegate-prequal": {"policy", "prequal"}, "haproxy-tuned": {"balance", "least", "maxconn "}}.get(
        name, set()
    )
    limits = {"tidegate": "timeout: 10000ms", "haproxy": "timeout server 10000ms", "envoy": "timeout: 10s"}
    limits |= {"nginx": "proxy_read_timeout 10000ms", "varnish": "first_byte_timeout = 10000ms"}
    assert (limits[row.proxy] in text) == (name != "haproxy-tuned")


def test_without_tuning_classes_have_time_limits_and_no_priorities(tmp_path: Path) -> None:
    scenario = SCENARIOS["untuned-classes"]
    ours, haproxy = (
        show_files(PROXIES[name].files(setup_of(scenario.row(name).task, tmp_path))) for name in (OURS, "haproxy")
    )
    assert "timeout: 100ms}" in ours
    assert "timeout: 1000ms}" in ours
    assert "priority" not in ours
    assert "set-timeout server 100ms if" in haproxy
    assert "priority" not in haproxy


def test_a_row_of_its_own_has_its_own_task() -> None:
    scenario = SCENARIOS["untuned-two-daemons"]
    assert scenario.names(["tidegate", "nginx"]) == ["tidegate", "nginx", "tidegate-one", "nginx-tuned"]
    assert (scenario.row("tidegate").task.proxies, scenario.row("tidegate-one").task.proxies) == (2, 1)
    assert (scenario.row("nginx-tuned").proxy, scenario.row("nginx-tuned").task.untuned) == ("nginx", False)
    assert list(scenario.outcome(["tidegate"]).subjects) == ["tidegate", "tidegate-one"]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda s: s.name)
def test_less_of_a_headline_is_better(scenario: Scenario) -> None:
    assert scenario.metrics[0].better == "lower"


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS.values() if s.limits], ids=lambda s: s.name)
def test_limits_name_peers_and_a_metric_that_has_ratios(scenario: Scenario) -> None:
    for limit in scenario.limits:
        assert set(limit.peers) <= set(scenario.names(PROXIES)) - {OURS}
        assert scenario.outcome(()).metric_of(limit).ratio or not limit.peers
