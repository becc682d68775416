"""Datagram sockets: one for each worker, on one address that nobody else gets."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys

import pytest
from ports import free_port

from lb.config.address import Bind, HostPort
from lb.control.datagrams import kernel_drops, open_group, receive_buffer, set_receive_buffer
from lb.control.sockets import SocketTable, listen, listen_datagrams
from lb.errors import StartError


@pytest.fixture
def descriptors():
    """Fails the test that leaves a descriptor open."""
    gc.collect()  # what earlier tests left to the collector
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_have_one_port(host: str, count: int, descriptors: None) -> None:
    group = open_group(Bind(HostPort(host, 0, True)), count)
    assert len({sock.getsockname()[:2] for sock in group}) == 1
    assert [sock.type for sock in group] == [socket.SOCK_DGRAM] * count
    assert not any(sock.getblocking() or sock.get_inheritable() for sock in group)
    close(group)


def test_flows_are_spread_and_stay(descriptors: None) -> None:
    group = open_group(Bind(HostPort("127.0.0.1", 0, True)), 4)
    clients = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(200)]
    for client in clients:
        client.connect(group[0].getsockname())
    owners: dict[int, set[int]] = {}
    for _ in range(3):
        for client in clients:
            client.send(b"x")
        for index, sock in enumerate(group):
            while True:
                try:
                    _, sender = sock.recvfrom(16)
                except BlockingIOError:
                    break
                owners.setdefault(sender[1], set()).add(index)
    assert len(owners) == 200
    assert all(len(indices) == 1 for indices in owners.values())
    assert {index for indices in owners.values() for index in indices} == {0, 1, 2, 3}
    close(group + clients)


@pytest.mark.parametrize("count", [1, 3])
def test_nobody_else_gets_the_address(count: int, descriptors: None) -> None:
    group = open_group(Bind(HostPort("127.0.0.1", 0, True)), count)
    port = group[0].getsockname()[1]
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(OSError, match="in use"):
            open_group(Bind(HostPort(host, port, True)), count)
    close(group)
    close(open_group(Bind(HostPort("127.0.0.1", port, True)), count))


def test_why_it_failed(descriptors: None) -> None:
    with pytest.raises(StartError) as raised:
        listen_datagrams("192.0.2.1:53", 2)
    assert str(raised.value) == "cannot listen on 192.0.2.1:53 (udp): no interface has this address"
    with pytest.raises(StartError, match="datagrams need an IP address"):
        listen_datagrams("unix:/run/x", 2)


def test_what_the_kernel_dropped_is_counted(descriptors: None) -> None:
    group = open_group(Bind(HostPort("127.0.0.1", 0, True)), 2)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(group[0].getsockname())
        assert kernel_drops(group) == 0
        for sock in group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(100):
            client.send(b"x" * 1000)
        assert 50 < kernel_drops(group) < 100
    close(group)


def test_a_table_keeps_groups_as_it_keeps_sockets(descriptors: None) -> None:
    table = SocketTable()
    port = free_port()
    bind = f"127.0.0.1:{port}"
    table.commit(table.stage({"web": "127.0.0.1:0", "dns": bind}, {"dns": 3}))
    web, dns = table["web"], table["dns"]
    assert (web.datagram, dns.datagram) == (False, True)
    assert len({dns.of(worker).id for worker in range(3)}) == 3
    assert {web.of(worker).id for worker in range(3)} == {web.id}
    # One address for streams and for datagrams is two different things.
    both = {"web": bind, "dns": bind}
    table.commit(table.stage(both, {"dns": 3}))
    assert table["dns"] is dns
    assert table["web"].address == dns.address
    with pytest.raises(StartError):
        table.stage({**both, "new": "127.0.0.1:0", "bad": "192.0.2.1:53"}, {"dns": 3, "new": 3, "bad": 3})
    table.discard(table.stage({**both, "new": "127.0.0.1:0"}, {"dns": 3, "new": 3}))
    table.commit(table.stage({"dns": bind}))  # now for streams
    assert not table["dns"].datagram
    close(open_group(Bind(HostPort("127.0.0.1", port, True)), 1))
    table.close()


def test_a_stream_socket_passed_to_us_is_not_taken_for_datagrams(descriptors: None) -> None:
    passed = socket.create_server(("127.0.0.1", 0))
    bind = f"127.0.0.1:{passed.getsockname()[1]}"
    table = SocketTable([passed])
    table.commit(table.stage({"dns": bind}, {"dns": 1}))
    assert table.unclaimed == [bind]
    table.close()


def test_streams_and_datagrams_share_no_port_space(descriptors: None) -> None:
    stream = listen("127.0.0.1:0")
    datagrams = listen_datagrams(stream.address, 2)
    assert datagrams.address == stream.address
    stream.close()
    datagrams.close()


def test_buffers_are_as_large_as_asked_for_and_the_default_comes_back(descriptors: None) -> None:
    group = open_group(Bind(HostPort("127.0.0.1", 0, True)), 3)
    before = receive_buffer(group)
    assert set_receive_buffer(group, 64 << 10) == 64 << 10
    assert {sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in group} == {128 << 10}
    assert set_receive_buffer(group, 0) == before
    close(group)


def test_a_buffer_that_the_kernel_does_not_give_is_said() -> None:
    code = """
import logging, os, sys
from lb.control.sockets import SocketTable
if os.geteuid() == 0:
    os.setuid(65534)
logging.basicConfig(format="%(message)s", stream=sys.stdout)
with open("/proc/sys/net/core/rmem_max") as file:
    most = int(file.read())
table = SocketTable()
table.commit(table.stage({"games": "127.0.0.1:0"}, {"games": 2}))
for size in (most, most + 4096, most + 4096):
    table.set_receive_buffers({"games": size})
print(most)
table.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, most = done.stdout.splitlines()
    assert told.startswith(
        f"listener games: udp.receive_buffer: the kernel gives {most} bytes instead of {int(most) + 4096}"
    )
