"""The proxies that can be measured, by name; the first is ours."""

from bench.peers.base import Proxy, Setup, Task
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.nginx import Nginx
from bench.peers.tidegate import Tidegate
from bench.peers.varnish import Varnish

OURS = "tidegate"
PROXIES: dict[str, Proxy] = {proxy.name: proxy for proxy in (Tidegate(), HAProxy(), Nginx(), Envoy(), Varnish())}
PEERS = tuple(name for name in PROXIES if name != OURS)

__all__ = ["OURS", "PEERS", "PROXIES", "Proxy", "Setup", "Task"]
