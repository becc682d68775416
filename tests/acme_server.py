"""An ACME server (RFC 8555): Let's Encrypt's Pebble, with the name server of its tests. Both are packages of Debian."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

from authority import Authority
from ports import free_port

PEBBLE = shutil.which("pebble") or "/usr/bin/pebble"
NAMES = shutil.which("pebble-challtestsrv") or "/usr/bin/pebble-challtestsrv"


class AcmeServer:
    """Asks for HTTP-01 challenges at `http_port` of this machine, whatever the name. `ca` is the file of the authority
    that signed its own certificate."""

    def __init__(self, folder: Path, http_port: int) -> None:
        folder.mkdir()
        authority = Authority("ACME server")
        certificate, key = authority.issue("localhost").write(folder)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority.pem)
        self._port, self._management, names = free_port(), free_port(), free_port()
        config = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http_port,
            "tlsPort": 1,
            "certificateValidityPeriod": 86400,
        }
        (folder / "config.json").write_text(json.dumps({"pebble": config}))
        self._log = folder / "log"
        none = ("-doh", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", "")
        with self._log.open("ab") as log:
            self._processes = [
                subprocess.Popen(command, stdout=log, stderr=log, env={"PEBBLE_VA_NOSLEEP": "1"})
                for command in (
                    [NAMES, "-defaultIPv6", "", "-dns01", f"127.0.0.1:{names}", *none],
                    [PEBBLE, "-config", str(folder / "config.json"), "-dnsserver", f"127.0.0.1:{names}"],
                )
            ]

    @property
    def directory(self) -> str:
        return f"https://localhost:{self._port}/dir"

    def wait_ready(self) -> AcmeServer:
        until = time.monotonic() + 30
        while True:
            try:
                self._get(self.directory)
            except OSError:
                assert time.monotonic() < until, self._log.read_text()
                assert self._processes[1].poll() is None, self._log.read_text()
                time.sleep(0.05)
            else:
                return self

    def root(self) -> str:
        """The certificate of the authority that it issues with, which is new at each start; PEM."""
        return self._get(f"https://localhost:{self._management}/roots/0").decode()

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _get(self, url: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.ca))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(url, timeout=10) as answer:
            body: bytes = answer.read()
            return body
