"""Listening sockets: opened, kept, closed, taken over."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import pytest
from ports import free_port

from lb.control.sockets import SocketTable, listen
from lb.errors import StartError


def connects(address: str) -> bool:
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(address.removeprefix("unix:")) == 0
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as client:
        return client.connect_ex((host.strip("[]"), int(port))) == 0


@pytest.fixture
def descriptors():
    """Fails the test that leaves a descriptor open."""
    gc.collect()  # what earlier tests left to the collector
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_a_port_of_the_kernels_choice(bind: str, descriptors: None) -> None:
    listening = listen(bind)
    assert not listening.address.endswith(":0")
    assert connects(listening.address)
    assert not listening.socket.getblocking()
    address = listening.address
    listening.close()
    assert not connects(address)


def test_ipv6_any_leaves_ipv4_to_others(descriptors: None) -> None:
    port = free_port()
    six, four = listen(f"[::]:{port}"), listen(f"0.0.0.0:{port}")
    four.close()
    six.close()


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("192.0.2.1:80", "cannot listen on 192.0.2.1:80: no interface has this address"),
        (
            "unix:/nonexistent/folder/socket",
            "cannot listen on unix:/nonexistent/folder/socket: no such file or directory",
        ),
    ],
)
def test_why_it_failed(bind: str, message: str, descriptors: None) -> None:
    with pytest.raises(StartError) as raised:
        listen(bind)
    assert str(raised.value) == message


def test_a_unix_path_in_use_or_no_socket(tmp_path: Path, descriptors: None) -> None:
    used = listen(f"unix:{tmp_path}/used")
    with pytest.raises(StartError, match=r"in use \(ss -lxp shows by whom\)"):
        listen(f"unix:{tmp_path}/used")
    assert connects(f"unix:{tmp_path}/used")
    used.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StartError, match="exists and is not a socket"):
        listen(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_stale_unix_socket_is_replaced_and_removed(tmp_path: Path, descriptors: None) -> None:
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listening = listen(f"unix:{path}")
    assert connects(f"unix:{path}")
    listening.close()
    assert not path.exists()


def test_a_path_that_became_another_ones_is_not_removed(tmp_path: Path, descriptors: None) -> None:
    path = tmp_path / "socket"
    listening = listen(f"unix:{path}")
    path.unlink()
    other = listen(f"unix:{path}")
    listening.close()
    assert connects(f"unix:{path}")
    other.close()


def test_a_change_keeps_what_stays_and_closes_what_goes(tmp_path: Path, descriptors: None) -> None:
    table = SocketTable()
    table.commit(table.stage({"a": "127.0.0.1:0", "b": f"unix:{tmp_path}/b"}))
    first = table["a"], table["b"]
    table.commit(table.stage({"a": "127.0.0.1:0", "renamed": f"unix:{tmp_path}/b", "c": "127.0.0.1:0"}))
    assert (table["a"], table["renamed"]) == first
    assert table["c"].address != table["a"].address
    gone = table["c"].address
    table.commit(table.stage({"renamed": f"unix:{tmp_path}/b"}))
    assert not connects(gone)
    table.close()
    assert not connects(f"unix:{tmp_path}/b")


def test_a_failed_stage_and_a_discarded_one_leave_the_old(tmp_path: Path, descriptors: None) -> None:
    table = SocketTable()
    table.commit(table.stage({"a": "127.0.0.1:0"}))
    with pytest.raises(StartError):
        table.stage({"a": "127.0.0.1:0", "new": f"unix:{tmp_path}/new", "bad": "192.0.2.1:80"})
    assert not (tmp_path / "new").exists()
    table.discard(table.stage({"new": f"unix:{tmp_path}/new"}))
    assert not (tmp_path / "new").exists()
    assert connects(table["a"].address)
    table.close()


def test_sockets_passed_to_us_are_claimed_by_address_and_kept_aside(tmp_path: Path, descriptors: None) -> None:
    passed = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    passed[1].bind(f"{tmp_path}/passed")
    passed[1].listen()
    bind = f"127.0.0.1:{passed[0].getsockname()[1]}"
    table = SocketTable(passed)
    assert table.unclaimed == [bind, f"unix:{tmp_path}/passed"]
    table.commit(table.stage({"web": bind}))
    assert table["web"].socket is passed[0]
    assert table["web"].inherited
    assert not passed[0].getblocking()
    assert table.unclaimed == [f"unix:{tmp_path}/passed"]
    table.commit(table.stage({"local": f"unix:{tmp_path}/passed"}))
    assert table.unclaimed == [bind]
    table.commit(table.stage({"web": bind}))
    assert table["web"].socket is passed[0]
    table.close()
    assert (tmp_path / "passed").exists()


def test_a_dual_stack_socket_serves_an_ipv4_listener(descriptors: None) -> None:
    passed = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    bind = f"0.0.0.0:{passed.getsockname()[1]}"
    table = SocketTable([passed])
    table.commit(table.stage({"web": bind}))
    assert table["web"].inherited
    table.close()


def passed_at(host: str, *, dual: bool = False, interface: str = "") -> tuple[socket.socket, int]:
    """As a service manager makes it, and its port."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
    if interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.bind((host, 0))
    sock.listen()
    return sock, sock.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "dual", "interface", "options", "reason"),
    [
        ("::", False, "", " ipv6only=off", "takes IPv6 only: set BindIPv6Only=both in its unit"),
        ("::", True, "", "", "takes IPv4, too: set BindIPv6Only=ipv6-only in its unit, or ipv6only: false here"),
        ("127.0.0.1", False, "", " interface=lo", "is for every interface: set BindToDevice=lo in its unit"),
    ],
)
def test_a_socket_passed_to_us_that_serves_other_clients_is_refused(
    host: str, dual: bool, interface: str, options: str, reason: str, descriptors: None
) -> None:
    passed, port = passed_at(host, dual=dual, interface=interface)
    bind = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") + options
    table = SocketTable([passed])
    with pytest.raises(StartError) as failure:
        table.stage({"web": bind})
    assert str(failure.value) == f"cannot listen on {bind}: the socket passed by the service manager {reason}"
    assert len(table.unclaimed) == 1
    table.close()


def test_sockets_passed_to_us_go_to_the_bind_with_their_options(descriptors: None) -> None:
    six, port = passed_at("::")
    table = SocketTable([six])
    table.commit(table.stage({"four": f"0.0.0.0:{port}"}))  # not the IPv6 socket, which serves no IPv4
    assert not table["four"].inherited
    assert connects(f"127.0.0.1:{port}")
    table.close()
    on_lo, port = passed_at("127.0.0.1", interface="lo")
    dual, other = passed_at("::", dual=True)
    table = SocketTable([on_lo, dual])
    table.commit(table.stage({"lo": f"127.0.0.1:{port} interface=lo", "both": f"[::]:{other} ipv6only=off"}))
    assert table["lo"].socket is on_lo
    assert table["both"].socket is dual
    table.close()
