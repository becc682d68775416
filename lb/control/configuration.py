"""A configuration file with all its checks, those of the layers above lb.config included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from lb.balancing.policy_checks import check_policies
from lb.config.checks.file import Check
from lb.config.load import load
from lb.config.memory import FileMemory
from lb.config.plan.plan import EndpointSpec
from lb.config.problems import read
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import NOTHING, Material
from lb.control.certificates import CertificateFacts, TlsFiles
from lb.discovery.registry import check_discovery
from lb.discovery.static import StaticEndpoints
from lb.proxy.routing.checks import check_routes


class Loaded(Struct, frozen=True):
    """A checked configuration, what the endpoints it writes down resolved to, by pool, what its TLS files held, and the
    text of the file."""

    config: Config
    endpoints: Mapping[str, tuple[EndpointSpec, ...]]
    material: Material = NOTHING
    certificates: tuple[CertificateFacts, ...] = ()
    text: bytes = b""


def load_configuration(
    path: Path, memory: FileMemory | None = None, more: Sequence[Check] = (), text: bytes | None = None
) -> Loaded:
    """`memory` is what the load before left, as in lb.config.load; `more` are further checks. `text` stands for what
    the file holds now; files that it names are read all the same.

    Raises ConfigError with every problem. Blocks on the file system and on name lookups: call it in a thread.
    """
    static = StaticEndpoints()
    tls = TlsFiles()
    checks = (static.check, check_policies, check_discovery, check_routes, tls.check, *more)
    text = read(path) if text is None else text
    config = load(path, checks=checks, memory=memory, text=text)
    return Loaded(config, static.endpoints, tls.material, tls.facts, text)
