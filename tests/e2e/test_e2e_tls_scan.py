"""What a scanner of TLS (sslyze) finds at listeners with the default configuration: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from authority import Authority
from daemon import ROOT, Daemon, route

Start = Callable[..., Daemon]
# In a folder of its own, by `make dev`: it needs an older release of cryptography than we do.
SSLYZE = ROOT / "build" / "sslyze"
CHECKS = ("--early_data", "--resum", "--mozilla_config=intermediate")  # the latter has all but the first two
CIPHERS = ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
GROUPS = {"X25519", "secp256r1", "secp384r1"}  # of those that it looks for


def scanned(folder: Path, targets: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What sslyze finds at each HOST:PORT, by the name of its check, and what it says of Mozilla's rules."""
    report = folder / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sslyze",
            "--sni=example.org",
            *CHECKS,
            f"--certinfo_ca_file={folder}/ca.pem",
            f"--json_out={report}",
            *targets,
        ],
        env={**os.environ, "PYTHONPATH": str(SSLYZE)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert report.exists(), done
    found = json.loads(report.read_text())["server_scan_results"]
    by_port = {f"127.0.0.1:{row['server_location']['port']}": row["scan_result"] for row in found}
    results = [{name: check["result"] for name, check in by_port[target].items()} for target in targets]
    return results, done.stdout


def suites(found: dict[str, Any], version: str) -> set[str]:
    return {row["cipher_suite"]["name"] for row in found[f"{version}_cipher_suites"]["accepted_cipher_suites"]}


def agreed(target: str, groups: str) -> str:
    """The group that a client of TLS 1.3 gets which knows only `groups`; "" for none."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", target, "-servername", "example.org", "-tls1_3", "-groups", groups],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    found = re.search(r"(?:Negotiated TLS1.3 group: |Temp Key: (?:ECDH, )?)(\w+)", done.stdout)
    return found[1] if done.returncode == 0 and found else ""


def https(authority: Authority, folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    cert, key = authority.issue("example.org", use_rsa=name == "RSA").write(folder, name)
    return {"bind": "127.0.0.1:0", "tls": {"certificates": [{"cert": cert, "key": key}]}, **settings}


async def test_a_scanner_finds_nothing(start: Start, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    daemon = start(
        {
            "listeners": {
                "ECDSA": https(authority, tmp_path, "ECDSA", protocol="https", routes=[route("/", "app")]),
                "RSA": https(authority, tmp_path, "RSA", protocol="tcp", pool="raw"),
            },
            "pools": {
                "app": {"protocol": "http", "endpoints": ["127.0.0.1:9"]},
                "raw": {"protocol": "tcp", "endpoints": ["127.0.0.1:9"]},
            },
        }
    )
    targets = {name: f"127.0.0.1:{daemon.port(name)}" for name in ("ECDSA", "RSA")}
    results, text = await asyncio.to_thread(scanned, tmp_path, list(targets.values()))
    assert text.count("OK - Compliant") == 2, text
    for name, found in zip(targets, results, strict=True):
        for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
            assert not suites(found, version), version
        assert suites(found, "tls_1_2") == {f"TLS_ECDHE_{name}_WITH_{cipher}" for cipher in CIPHERS}
        assert suites(found, "tls_1_3") == {f"TLS_{cipher}" for cipher in CIPHERS}
        assert {curve["name"] for curve in found["elliptic_curves"]["supported_curves"]} == GROUPS
        assert found["tls_compression"] == {"supports_compression": False}
        assert found["openssl_ccs_injection"] == {"is_vulnerable_to_ccs_injection": False}
        assert found["heartbleed"] == {"is_vulnerable_to_heartbleed": False}
        assert found["robot"] == {"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"}
        assert found["tls_fallback_scsv"] == {"supports_fallback_scsv": True}
        assert found["tls_extended_master_secret"] == {"supports_ems_extension": True}
        assert found["session_renegotiation"]["supports_secure_renegotiation"]
        assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
        assert found["session_resumption"]["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"
    assert results[0]["tls_1_3_early_data"] == {"supports_early_data": False}  # which it tries by HTTP alone
    for groups, expected in (("P-521:X448:ffdhe3072", ""), ("P-521:P-256", "prime256v1"), ("X25519", "X25519")):
        assert agreed(targets["ECDSA"], groups).replace("secp256r1", "prime256v1") == expected, groups
    if ssl.OPENSSL_VERSION_INFO >= (3, 5):  # a key share of X25519 alone costs such a client a round trip more
        assert agreed(targets["ECDSA"], "*X25519:X25519MLKEM768") == "X25519MLKEM768"
