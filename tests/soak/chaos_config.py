"""Random configurations, all of them valid, of everything that a reload may change under traffic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Section = dict[str, Any]

RETRY_ON = ("connect", "reset", "5xx", "timeout", "unavailable", "internal")
HASHES = ("maglev", "ring_hash", "rendezvous")


@dataclass(frozen=True, slots=True)
class Ports:
    """Of one endpoint's process: what speaks HTTP/1.1 (and is what TCP pools have), gRPC, and UDP; and the gRPC by way
    of a proxy that ends its connections every so many requests, if there is one."""

    http: int
    grpc: int
    udp: int
    going: int | None = None


class Roll:
    """One configuration after another by `dice`, over the endpoints `ports`."""

    def __init__(self, dice: random.Random, ports: Sequence[Ports], access_log: str) -> None:
        self.dice = dice
        self.ports = ports
        self.access_log = access_log

    def __call__(self) -> Section:
        """A whole configuration but for its `admin` section."""
        pools = {
            "h0": self.pool("http"),
            "h1": self.pool("http"),
            "g0": self.pool("oip" if self.often(0.6) else self.dice.choice(["grpc", "http2"])),
            "g1": self.pool("oip"),
            "t0": self.pool("tcp"),
            "u0": self.pool("udp"),
        }
        for name in ("h1", "g1"):
            if self.often(0.3):
                del pools[name]
        listeners: Section = {
            "web": {
                "bind": "127.0.0.1:0",
                "protocol": "http",
                "routes": self.routes(pools),
                "retry_buffer": self.dice.choice(["0B", "1KiB", "64KiB"]),
            },
            "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "t0", "idle_timeout": "2s"},
            "dgram": {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "u0", "idle_timeout": "1s"},
        }
        if self.often(0.3):
            listeners["web"]["explain"] = {"sample": 0.2, "trusted": ["127.0.0.1"]}
        if self.often(0.5):
            listeners["extra"] = {
                "bind": "127.0.0.1:0",
                "protocol": "http",
                "routes": [self.route("extra", "/", ["h0"])],
            }
        return {
            "workers": 2,
            "zone": "a",
            "listeners": listeners,
            "pools": pools,
            "cache": {"size": "4MiB", "max_object": "256KiB", "ttl": "1s"},
            "log": {"access": self.access_log},
        }

    def often(self, share: float) -> bool:
        return self.dice.random() < share

    # Listeners.

    def routes(self, pools: Section) -> list[Section]:
        web = [name for name in ("h0", "h1") if name in pools]
        models = ["g0"]
        if "g1" in pools and pools["g0"]["protocol"] == "oip" and self.often(0.5):
            models.append("g1")
        found = [
            self.route("web", "/h", self.dice.sample(web, self.dice.randint(1, len(web)))),
            self.route("rest", "/v2/", models),
            self.route("calls", "/inference.", models),
        ]
        if found[0].get("pool") == "h0" and "h1" in pools and self.often(0.3):
            found[0]["mirror"] = {"pool": "h1", "percent": 50}
        if found[1].get("pool") == "g0" and "g1" in pools and pools["g0"]["protocol"] == "oip" and self.often(0.5):
            found[1]["mirror"] = {"pool": "g1", "percent": 50}
        return found

    def route(self, name: str, prefix: str, pools: Sequence[str]) -> Section:
        dice = self.dice
        made: Section = {"name": name, "match": {"path": {"prefix": prefix}}}
        if len(pools) == 1:
            made["pool"] = pools[0]
        else:
            made["pools"] = [{"pool": pool, "weight": dice.randint(1, 3)} for pool in pools]
            if self.often(0.3):
                made["sticky"] = {"header": "x-key"}
        if self.often(0.6):
            made["timeout"] = dice.choice(["150ms", "1s", "3s"])
        if self.often(0.6):
            made["retry"] = {
                "attempts": dice.randint(0, 4),
                "on": dice.sample(RETRY_ON, dice.randint(1, 4)),
                "budget": dice.choice([5, 100]),
                "backoff": {"base": dice.choice(["0s", "20ms", "600ms"])},
                "per_attempt_timeout": dice.choice(["60ms", "500ms"]),
            }
        if self.often(0.5):
            after = dice.choice(["p50", "p95", "5ms", "30ms"])
            made["hedge"] = {"after": after, "samples": 10, "budget": dice.choice([10, 100])}
        if self.often(0.2):
            made["rate_limit"] = {"rate": "200/s", "burst": 50}
        if self.often(0.2):
            made["response_headers"] = {"set": {"x-a": "1"}}
        for key, values in {
            "idempotent": [True],
            "priority": ["high", "low"],
            "max_in_flight": [1, 5, 30],
            "expose_endpoint": [True],
            "cache": [False],
        }.items():
            if self.often(0.25):
                made[key] = dice.choice(values)
        return made

    # Pools.

    def pool(self, protocol: str) -> Section:
        dice = self.dice
        policy = self.policy(protocol)
        endpoints = self.endpoints(protocol)
        made: Section = {"protocol": protocol, "endpoints": endpoints, "policy": policy}
        if self.often(0.5):
            made["max_in_flight"] = dice.randint(1, 6)
        capped = "max_in_flight" in made or any("max_in_flight" in endpoint for endpoint in endpoints)
        if capped and protocol != "udp" and self.often(0.7):
            made["queue"] = {"max": dice.choice([0, 2, 50, 1000]), "timeout": dice.choice(["200ms", "2s"])}
            if self.often(0.5):
                made["queue"] |= {"overload_after": "50ms", "overload_share": 0.2}
        if self.often(0.5):
            made["health"] = self.health(protocol)
        if protocol != "udp" and self.often(0.5):
            made["outlier"] = {"interval": "200ms", "base_ejection_time": "300ms", "max_ejection_time": "1s"}
        if self.often(0.3):
            made["panic_threshold"] = dice.choice([0, 50, 100])
        if len({endpoint.get("priority", 0) for endpoint in endpoints}) > 1 and self.often(0.5):
            made["priorities"] = {"spill": dice.choice(["share", "none"])}
        if any("zone" in endpoint for endpoint in endpoints) and self.often(0.5):
            made["zones"] = {}
        if policy["type"] not in HASHES and self.often(0.3):
            made["slow_start"] = "500ms"
        if self.often(0.3):
            made["retries"] = dice.randint(0, 3)
        if protocol not in ("tcp", "udp"):
            if self.often(0.4):
                made["response_timeout"] = dice.choice(["100ms", "2s"])
            made |= self.affinity(protocol)
        if protocol in ("oip", "http", "grpc") and self.often(0.4):
            made["cost"] = dice.choice(["batch", "bytes", "requests"] if protocol == "oip" else ["bytes", "requests"])
        return made

    def endpoints(self, protocol: str) -> list[Section]:
        dice = self.dice
        side = {"http": "http", "tcp": "http", "udp": "udp"}.get(protocol, "grpc")
        made: list[Section] = []
        for ports in dice.sample(self.ports, dice.randint(1, len(self.ports))):
            port = getattr(ports, side)
            if side == "grpc" and ports.going is not None and self.often(0.3):
                port = ports.going
            made.append({"address": f"127.0.0.1:{port}", "weight": dice.choice([0, 1, 1, 1, 2, 5])})
            for key, values in {"priority": [0, 1, 2], "zone": ["a", "b"], "max_in_flight": [1, 2, 4]}.items():
                if self.often(0.2):
                    made[-1][key] = dice.choice(values)
        if self.often(0.1):
            made.append({"address": "127.0.0.1:1", "weight": 1})  # nobody is there
        return made

    def policy(self, protocol: str) -> Section:
        dice = self.dice
        names = ["least_request", "round_robin", "power_of_two", "random", "peak_ewma", "least_time"]
        names += ["shortest_expected_delay", "first", *HASHES]
        if protocol not in ("tcp", "udp"):
            names.append("client_side_weighted_round_robin")
        if protocol == "oip":
            names.append("prequal")
        name = dice.choice(names)
        if name == "first":
            return {"type": name, "fill": dice.randint(1, 8)}
        if name not in HASHES:
            return {"type": name}
        keys: list[Section] = [{"source": True}]
        if protocol not in ("tcp", "udp"):
            keys += [{"header": "x-key"}, {"cookie": "SID"}, {"query": "q"}]
        if protocol == "oip":
            keys.append({"model": True})
        bounded = {"bounded_load": 1.25} if self.often(0.5) else {}
        return {"type": name, "key": dice.choice(keys), **bounded}

    def health(self, protocol: str) -> Section:
        dice = self.dice
        kinds: dict[str, list[Section]] = {
            "http": [{"type": "http", "path": "/probe"}, {"type": "tcp"}],
            "tcp": [{"type": "tcp"}],
            "udp": [{"type": "udp", "send": "?"}],
            "oip": [{"type": "grpc"}, {"type": "oip"}, {"type": "oip", "models": ["m"]}],
        }
        made = dict(dice.choice(kinds.get(protocol, [{"type": "grpc"}, {"type": "tcp"}])))
        made |= {"interval": dice.choice(["50ms", "200ms", "1s"]), "timeout": "500ms"}
        return {**made, "fall": dice.randint(1, 3), "rise": dice.randint(1, 2)}

    def affinity(self, protocol: str) -> Section:
        made: Section = {}
        if self.often(0.3):
            made["cookie"] = {"name": "tg"}
        elif self.often(0.3):
            made["learn"] = {"cookie": "SID"}
        if protocol == "oip" and self.often(0.4):
            made["sequence"] = self.dice.choice(
                [{"enabled": False}, {"idle_timeout": "300ms"}, {"drain_timeout": "1s"}]
            )
        return {"affinity": made} if made else {}
