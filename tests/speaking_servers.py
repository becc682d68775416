"""Real servers that a check speaks to: PostgreSQL, MariaDB, a directory, a mail server. Each listens on 127.0.0.1, ::1
and a Unix socket, and writes a log that a test reads."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from aiosmtpd.controller import Controller, UnixSocketController
from ports import free_port, wait_for_port
from waiting import eventually

SPEAKING = ("postgres", "mysql", "smtp", "ldap")


class SpeakingServer:
    """A server, its addresses by family, and its log so far."""

    def __init__(self, kind: str, tls: tuple[Path, Path] | None = None) -> None:
        """`tls`: its certificate and key. PostgreSQL and MariaDB begin it within the connection, and serve without it
        as well; the others speak it from the first byte."""
        self.kind = kind
        self.port = free_port()
        # A short path, that also the account of the server may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="tg-"))
        self.folder.chmod(0o755)
        self._tls = tls
        self._closing = ExitStack()
        self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> SpeakingServer:
        starts: dict[str, Callable[[], None]] = {
            "postgres": self._postgres,
            "mysql": self._mysql,
            "smtp": self._smtp,
            "ldap": self._ldap,
        }
        try:
            starts[self.kind]()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.close()

    @property
    def unix(self) -> Path:
        return self.folder / (f".s.PGSQL.{self.port}" if self.kind == "postgres" else "s.sock")

    def address(self, family: socket.AddressFamily) -> str:
        if family == socket.AF_UNIX:
            return f"unix:{self.unix}"
        return f"127.0.0.1:{self.port}" if family == socket.AF_INET else f"[::1]:{self.port}"

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _run(self, *command: str, account: str | None = None) -> None:
        """Starts a server that does not outlive the tests, however they end."""
        guarded = ["setpriv", "--pdeathsig", "KILL", *_as(account), "--", *command]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(guarded, stdout=log, stderr=log, cwd=self.folder)
        self._closing.callback(process.wait)
        self._closing.callback(process.kill)
        wait_for_port(self.port)

    def _postgres(self) -> None:
        account = "postgres" if os.geteuid() == 0 else None
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        if account:
            shutil.chown(self.folder, account)
        data = self.folder / "data"
        made = [f"{programs}/initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256", "--no-sync"]
        (self.folder / "password").write_text("secret")
        (self.folder / "password").chmod(0o644)
        subprocess.run(
            ["setpriv", *_as(account), "--", *made, "--pwfile", str(self.folder / "password")],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )
        subprocess.run(
            ["setpriv", *_as(account), "--", f"{programs}/postgres", "--single", "-D", str(data), "postgres"],
            input=b"CREATE ROLE guest LOGIN;\n",
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        # `guest` is let in, `postgres` is asked for the password, and nobody else may come by IPv6.
        (data / "pg_hba.conf").write_text(
            "local all all scram-sha-256\nhost all guest all trust\nhost all postgres all scram-sha-256\n"
        )
        secure = []
        if self._tls is not None:
            for name, file in zip(("crt", "key"), self._tls, strict=True):
                there = shutil.copy(file, data / f"server.{name}")
                os.chmod(there, 0o600)
                if account:
                    shutil.chown(there, account)
            secure = ["-c", "ssl=on"]
        self._run(
            *(f"{programs}/postgres", "-D", str(data), "-p", str(self.port), "-k", str(self.folder)),
            *("-c", "listen_addresses=127.0.0.1,::1", "-c", "fsync=off", "-c", "max_connections=20"),
            *secure,
            account=account,
        )
        self._ready("ready to accept connections")

    def _mysql(self) -> None:
        data = f"--datadir={self.folder}/data"
        me = f"--user={'root' if os.geteuid() == 0 else os.environ['USER']}"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                data,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                me,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        boot = self.folder / "boot.sql"
        boot.write_text("CREATE USER tidegate@'%';\nCREATE USER tidegate@localhost;\n")
        secure = ["--skip-ssl"]
        if self._tls is not None:
            secure = [f"--ssl-cert={self._tls[0]}", f"--ssl-key={self._tls[1]}"]
        self._run(
            *("mariadbd", "--no-defaults", data, me, f"--port={self.port}", "--bind-address=127.0.0.1,::1"),
            *(f"--socket={self.unix}", f"--init-file={boot}", "--innodb-buffer-pool-size=8M", "--log-warnings=9"),
            *secure,
        )
        self._ready("ready for connections")

    def _ldap(self) -> None:
        (self.folder / "db").mkdir()
        secure = ""
        if self._tls is not None:
            secure = f"TLSCertificateFile {self._tls[0]}\nTLSCertificateKeyFile {self._tls[1]}\n"
        (self.folder / "slapd.conf").write_text(
            f"include /etc/ldap/schema/core.schema\npidfile {self.folder}/pid\n{secure}"
            f'database ldif\nsuffix "dc=example"\ndirectory {self.folder}/db\n'
        )
        scheme, unix = "ldap" if self._tls is None else "ldaps", str(self.unix).replace("/", "%2F")
        where = [f"{scheme}://127.0.0.1:{self.port}", f"{scheme}://[::1]:{self.port}", f"ldapi://{unix}"]
        self._run("slapd", "-f", f"{self.folder}/slapd.conf", "-h", " ".join(where), "-d", "stats")

    def _smtp(self) -> None:
        log = logging.FileHandler(self.folder / "log")
        logger = logging.getLogger("mail.log")
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        self._closing.callback(log.close)
        self._closing.callback(logger.removeHandler, log)
        nobody = object()
        context = None
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
        for controller in (
            Controller(nobody, "127.0.0.1", self.port, ssl_context=context),
            Controller(nobody, "::1", self.port, ssl_context=context),
            UnixSocketController(nobody, str(self.unix)),
        ):
            controller.start()
            self._closing.callback(controller.stop)

    def _ready(self, said: str) -> None:
        eventually(lambda: said in self.log(), f"{self.kind} says {said!r}")


def _as(account: str | None) -> list[str]:
    return [f"--reuid={account}", f"--regid={account}", "--clear-groups"] if account else []
