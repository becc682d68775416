"""`cache.tier`: what a file says, what is refused and where, and what it compiles to."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
import trustme
from test_config_compile import Numbers

from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.plan.tier import TierPlan, TierTlsPlan
from lb.control.certificates import TlsFiles
from lb.errors import ConfigError

FILE = """\
listeners: {web: {bind: 127.0.0.1:8080, protocol: http, routes: [{pool: app}]}}
pools: {app: {protocol: oip, endpoints: ["127.0.0.1:8000"]}}
cache:
  tier: {%s}
"""
SECRET = b"0123456789abcdef0123456789abcdef"


def plan_of(folder: Path, tier: str) -> TierPlan | None:
    path = folder / "t.yaml"
    path.write_text(FILE % tier)
    files = TlsFiles()
    config = load(path, checks=[files.check])
    plan = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={}, material=files.material)
    assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire()))) == plan
    assert plan.cache is not None
    return plan.cache.tier


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    (tmp_path / "password").write_bytes(b" opensesame\n")
    (tmp_path / "empty").write_bytes(b"\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("tidegate.example.org")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path


def test_defaults(folder: Path) -> None:
    assert plan_of(folder, 'type: redis, servers: ["cache:6379"], secret_file: secret') == TierPlan(
        "redis", ("cache:6379",), SECRET, "tidegate:", 10_000_000, 200_000_000, 86_400_000_000_000
    )


def test_everything_reaches_the_plan(folder: Path) -> None:
    plan = plan_of(
        folder,
        'type: redis, servers: ["a:1", "b:2"], secret_file: secret, username: us, password_file: password, database: 3,'
        " sentinel: main, prefix: 'x/', timeout: 5ms, connect_timeout: 1s, ttl_max: 1h,"
        " tls: {ca_file: ca.pem, cert: cert.pem, key: key.pem}",
    )
    tls = TierTlsPlan(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))
    assert plan == TierPlan(
        "redis", ("a:1", "b:2"), SECRET, "x/", 5_000_000, 10**9, 3600 * 10**9, "us", b"opensesame", 3,
        False, "main", tls,
    )  # fmt: skip
    assert "opensesame" not in repr(plan)
    assert SECRET.decode() not in repr(plan)


@pytest.mark.parametrize(
    ("tier", "where", "what"),
    [
        ("type: redis, servers: [], secret_file: secret", "servers", ""),
        ('type: redis, servers: ["a:1"]', "secret_file", "required"),
        ('type: hazelcast, servers: ["a:1"], secret_file: secret', "type", "redis"),
        ('type: redis, servers: ["a:1", "b:1"], secret_file: secret', "tier", "cluster: true"),
        ('type: redis, servers: ["a:1", "a:1"], cluster: true, secret_file: secret', "tier", "twice"),
        ('type: redis, servers: ["a:1"], cluster: true, database: 1, secret_file: secret', "tier", "database"),
        ('type: redis, servers: ["a:1"], cluster: true, sentinel: m, secret_file: secret', "tier", "sentinel"),
        ('type: redis, servers: ["unix:/a"], cluster: true, secret_file: secret', "tier", "Unix"),
        ('type: redis, servers: ["unix:/a"], tls: {}, secret_file: secret', "tier", "Unix"),
        ('type: redis, servers: ["a:1"], username: us, secret_file: secret', "tier", "password_file"),
        ('type: memcached, servers: ["a:1"], username: us, secret_file: secret', "tier", "belong together"),
        (
            'type: memcached, servers: ["a:1"], cluster: true, secret_file: secret',
            "tier",
            "only for types redis and valkey",
        ),
        ('type: redis, servers: ["a:1"], secret_file: secret, prefix: "a b"', "prefix", ""),
        ('type: redis, servers: ["a:1"], secret_file: secret, ttl_max: 31d', "ttl_max", ""),
        ('type: redis, servers: ["redis://a:1"], secret_file: secret', "servers", "URL"),
        ('type: redis, servers: ["a:1"], secret_file: secret, tls: {cert: cert.pem}', "tls", "belong together"),
        ('type: redis, servers: ["a:1"], secret_file: missing', "secret_file", "No such file"),
        ('type: redis, servers: ["a:1"], secret_file: password', "secret_file", "shorter than 32"),
        ('type: redis, servers: ["a:1"], secret_file: secret, password_file: empty', "password_file", "empty"),
        ('type: redis, servers: ["a:1"], secret_file: secret, tls: {ca_file: secret}', "ca_file", ""),
    ],
)
def test_refused(folder: Path, tier: str, where: str, what: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(folder, tier)
    (line,) = refused.value.problems
    assert ": cache.tier" in line
    assert where in line
    assert what in line
