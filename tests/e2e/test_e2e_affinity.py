"""Maglev through the daemon: a key keeps its endpoint."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from daemon import Daemon, http_listener, route
from traffic import Client, request

Start = Callable[..., Daemon]
KEYS = [f"user-{i}" for i in range(300)]


async def endpoints_of(port: int) -> dict[str, str]:
    """key -> the endpoint that answered, over several connections, so over all workers."""
    clients = [await Client(port).connect() for _ in range(8)]

    async def ask(client: Client, keys: list[str]) -> dict[str, str]:
        return {key: (await client.ask(request("GET", "/", X_Session=key))).body.decode() for key in keys}

    parts = await asyncio.gather(*(ask(client, KEYS[i::8]) for i, client in enumerate(clients)))
    for client in clients:
        client.close()
    return {key: name for part in parts for key, name in part.items()}


async def test_removing_one_of_ten_endpoints_moves_only_its_keys(start: Start, endpoint: Callable[..., Any]) -> None:
    servers = [await endpoint(f"e{i}") for i in range(10)]

    def config(chosen: list[Any]) -> dict[str, Any]:
        pool = {
            "protocol": "http",
            "policy": {"type": "maglev", "key": {"header": "x-session"}},
            "endpoints": [server.address for server in chosen],
        }
        return {"workers": 2, "listeners": {"web": http_listener(route("/", "all"))}, "pools": {"all": pool}}

    daemon = start(config(servers))
    port = daemon.port()
    before = await endpoints_of(port)
    assert len(Counter(before.values())) == 10
    assert await endpoints_of(port) == before  # by other connections, perhaps other workers

    removed = servers[3]
    rest = [server for server in servers if server is not removed]
    assert (await asyncio.to_thread(daemon.reload, config(rest)))["ok"]
    after = await endpoints_of(port)
    assert {key for key in KEYS if after[key] != before[key]} == {key for key in KEYS if before[key] == removed.name}
    assert len({after[key] for key in KEYS if before[key] == removed.name}) > 1  # spread over the rest

    assert (await asyncio.to_thread(daemon.reload, config(servers[::-1])))["ok"]
    assert await endpoints_of(port) == before  # it gets its keys back, whatever the order in the file


def networks(count: int) -> list[list[str]]:
    """Addresses of loopback, five of each /24 network."""
    return [[f"127.0.{i}.{host}" for host in (1, 2, 77, 200, 254)] for i in range(10, 10 + count)]


async def test_clients_of_a_network_are_kept_together(start: Start, endpoint: Callable[..., Any]) -> None:
    """As they are, as a trusted proxy says, and as a PROXY header does; over HTTP, TCP and UDP."""
    servers = [await endpoint(f"e{i}") for i in range(4)]
    sockets = await asyncio.gather(*(udp_endpoint(f"u{i}") for i in range(4)))
    policy = {"type": "maglev", "key": {"source": {"ipv4_prefix": 24, "ipv6_prefix": 64}}}
    addresses = [server.address for server in servers]
    trust = {"trusted_proxies": ["127.0.0.0/8"]}
    proxied = {"proxy_protocol": {"from": ["127.0.0.0/8"]}}
    split = {"name": "split", "match": {"host": "split.test"}, "sticky": {"source": policy["key"]["source"]},
             "pools": [{"pool": f"only{i}", "weight": 1} for i in range(4)]}  # fmt: skip
    pools: dict[str, Any] = {f"only{i}": {"protocol": "http", "endpoints": [addresses[i]]} for i in range(4)}
    pools |= {
        "web": {"protocol": "http", "policy": policy, "endpoints": addresses},
        "raw": {"protocol": "tcp", "policy": policy, "endpoints": addresses},
        "dns": {"protocol": "udp", "policy": policy, "endpoints": [address for _, address in sockets]},
    }
    listeners = {
        "web": http_listener(split, route("/", "web")),
        "behind": http_listener(route("/", "web", name="behind"), **trust),
        "proxied": http_listener(route("/", "web", name="proxied"), **proxied),
        "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw", **proxied},
        "dns": {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "dns", "idle_timeout": "60s"},
    }
    daemon = start({"workers": 2, "listeners": listeners, "pools": pools})
    ports = {name: daemon.port(name) for name in listeners}

    async def ask(listener: str, source: str = "127.0.0.1", head: bytes = b"", **fields: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[listener], local_addr=(source, 0))
        writer.write(head + request("GET", "/", **{"Connection": "close", **fields}))
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        writer.close()
        return body

    def header(source: str) -> bytes:
        family = "TCP6" if ":" in source else "TCP4"
        return f"PROXY {family} {source} {'::1' if ':' in source else '192.0.2.1'} 1000 80\r\n".encode()

    homes = {}
    for network in networks(12):
        seen = set()
        for source in network:
            seen.add(await ask("web", source))
            seen.add(await ask("behind", X_Forwarded_For=source))
            seen.add(await ask("behind", X_Forwarded_For=f"::ffff:{source}"))
            seen.add(await ask("proxied", head=header(source)))
            seen.add(await ask("raw", head=header(source)))
        assert len(seen) == 1, (network, seen)
        homes[network[0]] = seen.pop()
        assert len({await ask("web", source, Host="split.test") for source in network}) == 1
        assert len({await datagram(source, ports["dns"]) for source in network}) == 1
    assert len(set(homes.values())) > 1
    six = {
        i: {await ask("proxied", head=header(f"2001:db8:0:{i:x}::{host}")) for host in ("1", "ffff", "1:2:3")}
        for i in range(12)
    }
    assert all(len(seen) == 1 for seen in six.values())
    assert len({name for seen in six.values() for name in seen}) > 1
    for transport, _ in sockets:
        transport.close()


async def udp_endpoint(name: str) -> tuple[asyncio.DatagramTransport, str]:
    """Answers each datagram with its name."""

    class Named(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def datagram_received(self, data: bytes, sender: Any) -> None:
            self.transport.sendto(name.encode(), sender)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Named, local_addr=("127.0.0.1", 0))
    return transport, f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"


async def datagram(source: str, port: int) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.bind((source, 0))
        client.connect(("127.0.0.1", port))
        await loop.sock_sendall(client, b"?")
        return await asyncio.wait_for(loop.sock_recv(client, 100), 60)
