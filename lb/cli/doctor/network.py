"""The network as this machine has it: addresses of listeners, and names."""

from __future__ import annotations

import concurrent.futures
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Iterator, Sequence

import psutil

from lb.cli.doctor.finding import Finding, fail, ok, warn
from lb.config.address import Bind, HostPort, UnixPath, parse_address, parse_socket, socket_name
from lb.config.schema.file import Config
from lb.control.datagrams import set_options

_SECONDS = 5.0  # for all names together
_SLOW = 0.5  # s
_ADMIN = "127.0.0.1:9900"
_PROGRAM = "tidegate"  # the title of its processes begins with it


def findings(config: Config | None) -> Iterator[Finding]:
    """Ports of `config`, or of the admin server alone, and the names in it."""
    binds = [("admin", config.admin.bind if config is not None else _ADMIN, False)]
    if config is not None:
        binds += [
            (f"listeners.{name}", bind, one.protocol == "udp")
            for name, one in config.listeners.items()
            for bind in one.binds
        ]
    for owner, text, datagrams in binds:
        bind = parse_socket(text)
        if isinstance(bind.address, HostPort) and bind.address.port:
            yield port(owner, bind, datagrams)
        elif isinstance(bind.address, UnixPath) and not bind.address.abstract:
            yield _unix(owner, bind.address.path)
    yield from _names(names_of(config) if config is not None else [])


def port(owner: str, bind: Bind, datagrams: bool = False) -> Finding:
    """Whether `bind`, of an IP address, can be listened on, and who does."""
    address = bind.address
    assert isinstance(address, HostPort)
    what = f"{bind} ({owner})"
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM) as probe:
            if not datagrams:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_options(probe, bind)
            probe.bind(socket_name(address))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(address, datagrams)
            if holder.startswith(_PROGRAM):
                return ok("ports", f"{what} is held by {holder}")
            return fail(
                "ports",
                f"{what} is held by {holder or 'a process that this user may not see'}",
                "Stop that, or choose another bind.",
            )
        if error.errno == errno.EACCES:
            return fail(
                "ports",
                f"{what}: this user may not listen there",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or net.ipv4.ip_unprivileged_port_start.",
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return fail(
                "ports",
                f"{what}: no interface of this machine has this address",
                "Choose an address that `ip address` shows, 0.0.0.0 or [::].",
            )
        return fail("ports", f"{what}: {error.strerror or error}", "Choose another bind.")
    return ok("ports", f"{what} is free")


def _holder(address: HostPort, datagrams: bool) -> str:
    """`name (pid 12)`; "" if that is not to be seen."""
    wild = ("0.0.0.0", "::")  # noqa: S104
    try:
        there = psutil.net_connections("udp" if datagrams else "tcp")
    except (psutil.Error, OSError):
        return ""
    for one in there:
        if not one.laddr or one.pid is None or not (datagrams or one.status == psutil.CONN_LISTEN):
            continue
        ip, number = one.laddr
        if number == address.port and (ip == address.host or ip in wild or address.host in wild):
            try:
                process = psutil.Process(one.pid)
                title = " ".join(" ".join(process.cmdline()).split()) or process.name()  # a title is padded
            except psutil.Error:
                return f"pid {one.pid}"
            return f"{title[:60]} (pid {one.pid})"
    return ""


def _unix(owner: str, path: str) -> Finding:
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(
            "ports",
            f"{path} ({owner}): {folder} may not be written by this user",
            "RuntimeDirectory= in the unit, or another folder.",
        )
    return ok("ports", f"{path} ({owner}): {folder} may be written")


def names_of(config: Config) -> list[str]:
    """Host names that a start looks up, in their order in the file."""
    found: dict[str, None] = {}
    for pool in config.pools.values():
        for endpoint in pool.endpoints or ():
            address = parse_address(endpoint.address)
            if isinstance(address, HostPort) and not _literal(address.host):
                found[address.host] = None
        if pool.discover is not None and pool.discover.dns is not None and pool.discover.dns.type != "SRV":
            found[pool.discover.dns.name] = None
    return list(found)


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _names(names: Sequence[str]) -> Iterator[Finding]:
    asked = ["localhost", *names]
    runner = concurrent.futures.ThreadPoolExecutor(max_workers=16)
    try:
        looked = [(name, runner.submit(_look_up, name)) for name in asked]
        end = time.monotonic() + _SECONDS
        for name, future in looked:
            try:
                addresses, took = future.result(max(end - time.monotonic(), 0))
            except TimeoutError:
                yield fail(
                    "names", f"{name}: no answer in {_SECONDS:g} s", "Look at the nameserver lines of /etc/resolv.conf."
                )
            except OSError as error:
                yield fail("names", f"{name}: {error.strerror}", "Correct the name, /etc/hosts or /etc/resolv.conf.")
            else:
                text = f"{name} is {', '.join(addresses)}"
                if took > _SLOW:
                    yield warn(
                        "names",
                        f"{text}, after {took:.1f} s: the first nameserver may be dead",
                        "Look at the order in /etc/resolv.conf.",
                    )
                else:
                    yield ok("names", text)
    finally:
        runner.shutdown(wait=False, cancel_futures=True)


def _look_up(name: str) -> tuple[list[str], float]:
    begin = time.monotonic()
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(one[4][0]) for one in found}), time.monotonic() - begin
