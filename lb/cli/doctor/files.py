"""The configuration and the files it names: errors, permissions, certificates; the program's libraries."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from lb.cli import libraries
from lb.cli.doctor.finding import Finding, fail, ok, warn
from lb.config.schema.file import Config
from lb.control.certificates import CertificateFacts
from lb.control.configuration import Loaded, load_configuration
from lb.control.preflight import Preflight
from lb.errors import ConfigError, StartError


def program() -> Iterator[Finding]:
    """The libraries of the compiled modules."""
    try:
        libraries.require()
    except StartError as error:
        for line in str(error).split("\ntidegate: "):
            text, _, advice = line.partition(": ")
            yield fail("program", text, advice)
    else:
        yield ok("program", "all libraries of the compiled modules are there")


def configuration(path: Path) -> tuple[Loaded | None, list[Finding]]:
    """What `path` holds, None if it cannot be used."""
    preflight = Preflight()
    try:
        loaded = load_configuration(path, more=[preflight.check])
    except ConfigError as error:
        return None, [
            fail("configuration", problem, "Correct the file; docs/configuration.md has all keys.")
            for problem in error.problems
        ]
    found = [ok("configuration", f"{path} is valid")]
    ports = ("admin.bind", *(f"listeners.{name}.bind" for name in loaded.config.listeners))
    found += [
        warn("configuration", f"{place}: {text}", "See `tidegate check`.")
        for place, text in preflight.warnings
        if place not in ports
    ]
    return loaded, found


def findings(path: Path, loaded: Loaded) -> Iterator[Finding]:
    """Permissions and certificates."""
    config = loaded.config
    for owner, file, secret in ((f"configuration {path}", path, False), *_named(config)):
        yield from _permissions(owner, file, secret)
    yield from _log(config)
    now = time.time()
    for fact in loaded.certificates:
        yield certificate(fact, now)


def _named(config: Config) -> Iterator[tuple[str, Path, bool]]:
    if config.admin.token_file is not None:
        yield f"admin token {config.admin.token_file}", Path(config.admin.token_file), True
    for name, listener in config.listeners.items():
        for one in listener.tls.certificates if listener.tls is not None else ():
            yield f"key of listeners.{name} {one.key}", Path(one.key), True


def _permissions(owner: str, file: Path, secret: bool) -> Iterator[Finding]:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        yield fail("permissions", f"{owner}: {error.strerror}", "Create the file, or let the daemon's user read it.")
        return
    if mode & stat.S_IWOTH:
        yield fail("permissions", f"{owner}: everyone may write it", f"chmod o-w {file}")
    elif secret and mode & (stat.S_IROTH | stat.S_IWGRP):
        yield warn(
            "permissions",
            f"{owner}: others may read or change the secret",
            f"chmod 640 {file}, with the daemon's group",
        )
    else:
        yield ok("permissions", f"{owner}: mode {stat.S_IMODE(mode):o}")


def _log(config: Config) -> Iterator[Finding]:
    if config.log.access in ("", "-"):
        return
    file = Path(config.log.access)
    place = file if file.exists() else file.parent
    if os.access(place, os.W_OK):
        yield ok("permissions", f"access log {file} may be written")
    else:
        yield fail(
            "permissions",
            f"access log {file}: this user may not write {place}",
            "Run as the daemon's user, or change the owner; LogsDirectory= in the unit makes /var/log/tidegate.",
        )


def certificate(fact: CertificateFacts, now: float) -> Finding:
    days = (fact.not_after - now) / 86400
    text = f"{fact.file} ({fact.owner})"
    state = fact.state(now)
    if state == "expired":
        return fail(
            "certificates",
            f"{text} expired {-days:.0f} days ago",
            "Put a new one in its place; the daemon reads it without a reload.",
        )
    if state == "future":
        return fail("certificates", f"{text} is not valid yet", "Look at the clock, and at the certificate's dates.")
    if state == "expiring":
        return warn(
            "certificates",
            f"{text} expires in {days:.0f} days",
            "Renew it; the daemon reads a new one without a reload.",
        )
    return ok("certificates", f"{text} is valid for {days:.0f} days more")
