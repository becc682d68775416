"""Loading: examples are taken, mistakes are named with file, line and path, and nothing else ever comes out."""

import errno
import os
import re
import socket
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.balancing.policy_checks import check_policies
from lb.config.admin import load_admin
from lb.config.advice.advice import keys_of
from lb.config.checks.file import check_files
from lb.config.load import load
from lb.config.schema.admin import AdminConfig
from lb.config.schema.file import Config, ListenerConfig
from lb.config.units import KIB, MIB, SECOND
from lb.discovery.registry import check_discovery
from lb.discovery.static import StaticEndpoints
from lb.errors import ConfigError
from lb.proxy.routing.checks import check_routes

CONFIGS = Path(__file__).parents[2] / "configs"
INVALID = sorted((CONFIGS / "invalid").glob("*.yaml"))

MINIMAL = """\
listeners:
  web: {bind: "127.0.0.1:8080", protocol: http, routes: [{pool: app}]}
pools:
  app: {protocol: http, endpoints: ["127.0.0.1:8000"]}
"""


def no_dns(host: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def write(folder: Path, text: str) -> Path:
    path = folder / "t.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, **options: bool) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), **options)
    return [p.removeprefix(f"{folder}/t.yaml:") for p in caught.value.problems]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_valid(path: Path) -> None:
    assert load(path, files=False).listeners


def test_demo_works_out_of_the_box() -> None:
    demo = load(CONFIGS / "demo.yaml", files=False)
    assert {name: (li.protocol, *li.binds) for name, li in demo.listeners.items()} == {
        "web": ("http", "127.0.0.1:8080"),
        "raw": ("tcp", "127.0.0.1:8081"),
    }
    assert [r.match.grpc.service for r in demo.listeners["web"].routes if r.match.grpc] == [
        "inference.GRPCInferenceService"
    ]
    serve = demo.pools["digits"].serve
    assert serve is not None
    assert (serve.min, serve.max, serve.providers) == (2, 4, ["cpu"])
    assert os.path.normpath(serve.models) == str(CONFIGS.parent / "examples" / "digits" / "models")
    assert demo.pools["web"].endpoints[0].address == demo.listeners["web"].binds[0]
    assert demo.cache is not None
    assert demo.log.access == ""


def test_there_are_enough_invalid_examples() -> None:
    assert len(INVALID) >= 25


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid_examples_have_exactly_the_expected_problem(path: Path) -> None:
    expected = path.read_bytes().split(b"\n")[0].decode().removeprefix("# expect: ")
    assert re.match(rf"{re.escape(path.name)}:(\d+: )?", expected)
    with pytest.raises(ConfigError) as caught:
        load(path, checks=[StaticEndpoints(no_dns).check, check_policies, check_discovery, check_routes])
    (problem,) = caught.value.problems
    assert expected in problem.replace(f"{path.parent}/", "")


def test_every_problem_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
wrokers: 2
listeners:
  a: {bind: "127.0.0.1:8080", protocol: http, routes: [{pool: app}, {pool: nobody, match: {host: b}}], colour: red}
  b: {bind: "127.0.0.1:8080", protocol: htp, routes: []}
  c: {bind: "127.0.0.1:8080", protocol: tcp, pool: broken}
pools:
  app: {protocol: http, endpoints: ["127.0.0.1:1"], retries: 99}
  broken: {protocol: tcp, endpoints: []}
  other: {protocol: http, endpoints: ["127.0.0.1:1", "127.0.0.1:1"]}
log: {level: 3, access: ["x"]}
""",
    )
    assert found == [
        "1: wrokers: unknown key; did you mean workers?",
        f"3: listeners.a.colour: unknown key; the keys here are {', '.join(keys_of(ListenerConfig))}",
        "3: listeners.a.routes[1].pool: there is no pool 'nobody'",
        "4: listeners.b.protocol: 'htp' is not one of http, https, tcp, tls, udp; did you mean http?",
        "5: listeners.c.bind: 127.0.0.1:8080 is taken by listeners.a",
        "7: pools.app.retries: must be at most 10",
        "8: pools.broken: exactly one of endpoints, discover, serve is needed; none is given",
        "9: pools.other.endpoints[1]: 127.0.0.1:1 is endpoint 0 already",
        "10: log.access: must be text; write access: x",
        "10: log.level: 3 is not one of debug, info, warning, error",
    ]


def test_optional_durations_beyond_their_bounds(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
tables: {t: {key: "${header.x-key}", store: [gpt0]}}
listeners:
  web:
    bind: 127.0.0.1:8080
    protocol: http
    table_rules: [{when: {t: {gpt0: 1}}, tarpit: 0s}]
    routes:
      - pool: app
        compression: gzip
        http_cache: "on"
        retry: {attempts: 1, per_attempt_timeout: 0s, backoff: {max: 2h}}
pools:
  app: {protocol: http, endpoints: ["127.0.0.1:1"], health: {type: tcp, down_interval: 0s}}
""",
    )
    assert found == [
        "6: listeners.web.table_rules[0].tarpit: must be at least 100ms",
        "9: listeners.web.routes[0].compression: must be true or false, or a mapping such as {codings: [gzip]}",
        "10: listeners.web.routes[0].http_cache: must be true or false, or a mapping such as {ttl: 10m}",
        "11: listeners.web.routes[0].retry.backoff.max: must be at most 10m",
        "11: listeners.web.routes[0].retry.per_attempt_timeout: must be at least 1ms",
        "13: pools.app.health.down_interval: must be at least 10ms",
    ]


def test_nothing_is_said_about_what_hangs_on_a_broken_section(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
admin: {bind: 8}
listeners:
  a: {bind: "127.0.0.1:9900", protocol: http, routes: [{pool: m, cache: {ttl: 5s}}]}
pools: {m: {protocol: oip, endpoints: ["127.0.0.1:1"]}}
cache: {size: big}
""",
    )
    assert [p.split(":")[0:2] for p in found] == [["1", " admin.bind"], ["5", " cache.size"]]


def test_checks_of_other_parts_get_lines(tmp_path: Path) -> None:
    def check(config: Config) -> list[tuple[str, str]]:
        return [("pools.app.policy.type", "no such policy"), ("pools.app.policy.table", "unknown option")]

    path = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load(path, checks=[check])
    assert caught.value.problems == [
        f"{path}:4: pools.app.policy.table: unknown option",
        f"{path}:4: pools.app.policy.type: no such policy",
    ]


def test_defaults_and_units(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL))
    web, app = config.listeners["web"], config.pools["app"]
    assert config.workers == "auto"
    assert config.admin.bind == "127.0.0.1:9900"
    assert config.cache is None
    assert (web.idle_timeout, web.max_header_bytes, web.forwarded) == (75 * SECOND, 16 * KIB, "append")
    assert (app.policy.type, app.retries, app.response_timeout, app.idle_timeout) == (
        "auto", 1, 60 * SECOND, 60 * SECOND,
    )  # fmt: skip
    assert web.routes[0].max_body == 64 * MIB


def test_defaults_that_depend_on_the_protocol(tmp_path: Path) -> None:
    text = MINIMAL.replace("protocol: http, routes: [{pool: app}]", "protocol: tcp, pool: app").replace("http", "tcp")
    config = load(write(tmp_path, text))
    assert config.listeners["web"].idle_timeout == 3600 * SECOND
    assert (config.pools["app"].response_timeout, config.pools["app"].idle_timeout) == (0, 3600 * SECOND)


def test_scaling_down_keeps_its_own_defaults(tmp_path: Path) -> None:
    text = """\
listeners: {web: {bind: "127.0.0.1:8080", protocol: http, routes: [{pool: m}]}}
pools:
  m:
    protocol: oip
    serve: {models: ., min: 1, max: 3}
    scaling:
      metrics: [{type: in_flight, target: 2}]
      down: {select: min}
"""
    scaling = load(write(tmp_path, text)).pools["m"].scaling
    assert scaling is not None
    assert (scaling.down.window, scaling.down.select) == (300 * SECOND, "min")
    assert [(p.type, p.value, p.period) for p in scaling.down.policies] == [("percent", 100, 15 * SECOND)]
    assert scaling.up.window == 0
    assert [(p.type, p.value) for p in scaling.up.policies] == [("percent", 100), ("replicas", 4)]


def test_off_is_text(tmp_path: Path) -> None:
    text = MINIMAL.replace("protocol: http, routes", "protocol: http, forwarded: off, routes")
    assert load(write(tmp_path, text)).listeners["web"].forwarded == "off"


def test_short_spellings_become_the_full_form(tmp_path: Path) -> None:
    text = MINIMAL.replace("{pool: app}", "{pool: app, match: {method: get, host: A.Example.ORG}}").replace(
        "protocol: http, endpoints", "protocol: http, policy: {type: maglev, key: {source: true}, size: 7}, endpoints"
    )
    config = load(write(tmp_path, text))
    match = config.listeners["web"].routes[0].match
    assert (match.method, match.host) == (["GET"], "a.example.org")
    policy = config.pools["app"].policy
    assert policy.key is not None
    assert policy.key.source is not None
    assert (policy.key.source.ipv4_prefix, policy.key.source.ipv6_prefix) == (32, 128)
    assert (policy.type, policy.options) == ("maglev", {"size": 7})
    assert config.pools["app"].endpoints[0].weight == 1


def test_any_token_is_a_method_but_a_slip_is_told(tmp_path: Path) -> None:
    text = MINIMAL.replace("{pool: app}", "{pool: app, match: {method: [query, version-control, Brew]}}")
    assert load(write(tmp_path, text)).listeners["web"].routes[0].match.method == ["QUERY", "VERSION-CONTROL", "Brew"]
    for method, said in (("DELET", "did you mean DELETE?"), ("PRI", "is not a method"), ("A B", "is not a token")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load(write(tmp_path, text.replace("Brew", method)))


def test_relative_paths_start_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "token").write_text("secret\n")
    write(tmp_path / "etc", "admin: {token_file: token}\nlog: {access: a.log}\n" + MINIMAL)
    monkeypatch.chdir(tmp_path)
    config = load(Path("etc/t.yaml"))
    monkeypatch.chdir("/")
    assert config.admin.token_file == tmp_path / "etc" / "token"
    assert config.log.access == str(tmp_path / "etc" / "a.log")


@pytest.mark.parametrize("access", ["", "-"])
def test_access_log_off_and_standard_output_are_no_paths(tmp_path: Path, access: str) -> None:
    assert load(write(tmp_path, f'log: {{access: "{access}"}}\n' + MINIMAL)).log.access == access


def test_named_files_have_to_be_there_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    text = "admin: {token_file: empty}\nlog: {access: none/a.log}\n" + MINIMAL
    assert problems(tmp_path, text) == [
        f"1: admin.token_file: {tmp_path}/empty: is empty",
        f"2: log.access: {tmp_path}/none: there is no such folder",
    ]
    assert load(write(tmp_path, text), files=False)


def test_a_path_cannot_hold_a_nul(tmp_path: Path) -> None:
    text = 'admin: {bind: "unix:/run/a\\0b"}\nlog: {access: "a\\0b"}\n' + MINIMAL
    assert problems(tmp_path, text) == [
        "1: admin.bind: 'unix:/run/a\\x00b' is not a socket path: no path has a NUL",
        "2: log.access: must be a path",
    ]


def test_files_that_may_not_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    text = "log: {access: a.log}\n" + MINIMAL
    config = load(write(tmp_path, text), files=False)
    monkeypatch.setattr(os, "stat", refuse)  # the superuser may look at everything
    assert check_files(config) == [("log.access", f"{tmp_path}: Permission denied")]


@pytest.mark.parametrize("kind", ["missing", "folder", "nul"])
def test_unreadable_file(tmp_path: Path, kind: str) -> None:
    path = {"missing": tmp_path / "no.yaml", "folder": tmp_path, "nul": tmp_path / "a\0b"}[kind]
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(path)
    assert len(caught.value.problems) == 1


def test_a_problem_is_one_line_whatever_the_file_says(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL + '"a\\nb\\e[31m": 1\n')
    assert found == ["5: a\\nb\\x1b[31m: unknown key; the keys here are " + ", ".join(Config.model_fields)]


def test_ports_that_the_kernel_chooses_do_not_clash(tmp_path: Path) -> None:
    web = '  web: {bind: "127.0.0.1:0", protocol: http, routes: [{pool: app}]}\n'
    text = "admin: {bind: 127.0.0.1:0}\nlisteners:\n" + web + web.replace("web", "w2") + MINIMAL.split("\n", 2)[2]
    assert len(load(write(tmp_path, text)).listeners) == 2


def test_config_is_immutable(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        config.workers = 3  # type: ignore[misc]


def test_failing_disk_is_a_config_error() -> None:
    # Nothing is mapped at address 0, so that reading there fails with EIO, for root too.
    with pytest.raises(ConfigError, match=os.strerror(errno.EIO)):
        load(Path("/proc/self/mem"))


@settings(max_examples=200)
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_a_config_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        load(path)


SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=6)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3))


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in items for p in places(v, (*path, k)))]


PRODUCTION = yaml.safe_load((CONFIGS / "production.yaml").read_text())


@pytest.mark.slow
@settings(max_examples=300)
@given(place=st.sampled_from(places(PRODUCTION)[1:]), value=VALUES)
def test_any_value_anywhere_is_taken_or_named(tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    data = yaml.safe_load((CONFIGS / "production.yaml").read_text())
    parent = data
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    path = write(tmp_path, yaml.safe_dump(data, sort_keys=False))
    try:
        load(path, files=False)
    except ConfigError as error:
        for problem in error.problems:
            assert re.match(rf"{re.escape(str(path))}:\d+: \S.*", problem)
            assert "\n" not in problem


@pytest.mark.parametrize("text", ["{{{ broken", "listeners: {web: [}\n", "", "pools: {}\n\tx: 1\n"])
def test_a_broken_file_without_admin_has_its_defaults(tmp_path: Path, text: str) -> None:
    """As the daemon has them that runs what the file was."""
    path = tmp_path / "tidegate.yaml"
    path.write_text(text)
    admin, problems, bind = load_admin(path)
    assert (admin, bind) == (AdminConfig(), "")
    assert problems[0].startswith(f"{path}")


def test_a_broken_file_has_its_admin(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("listeners: {\nadmin:\n  bind: unix:/run/a.sock\npools: [\n")
    admin, problems, bind = load_admin(path)
    assert (admin.bind, bind) == ("unix:/run/a.sock", f"{path}:3")
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}:")
    path.write_text("listeners: {\nadmin: [\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_admin(path)
