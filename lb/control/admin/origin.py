"""Which requests to the admin server may come from the pages of other sites: none.

A browser that an operator has open sends what any page tells it to, to this machine, too. It says for which page:
in `Sec-Fetch-Site` (to localhost and HTTPS; W3C Fetch Metadata) and in `Origin` (RFC 6454; to everybody, but not with
each GET). What is no browser sends neither.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

_OURS = frozenset({"none", "same-origin"})
_PORTS = {"http": 80, "https": 443}


class Headers(Protocol):
    """Those of a request, of which each may come more than once."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]: ...


def is_cross_site(method: str, headers: Headers) -> bool:
    """Whether a page of another origin sent the request.

    A link that is followed in a tab of its own is none of the page's any more: neither its answer nor any of its
    properties can be seen from there. That goes for GET alone, which changes nothing.
    """
    if not all(_same_origin(origin, headers) for origin in headers.getall("Origin", ())):
        return True
    sites = headers.getall("Sec-Fetch-Site", ())
    if all(site in _OURS for site in sites):
        return False
    followed = headers.getall("Sec-Fetch-Mode", ()), headers.getall("Sec-Fetch-Dest", ())
    return method != "GET" or [list(given) for given in followed] != [["navigate"], ["document"]]


def is_local(host: str) -> bool:
    """Whether a request's Host is one that a page cannot have as its own, by a name that resolves to this machine when
    asked again (DNS rebinding): an address, localhost, or none."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() in ("", "localhost") or name.lower().endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _same_origin(origin: str, headers: Headers) -> bool:
    """Whether `origin` is that of a page of this server, by the name that the request has for it. `null`, of pages in a
    sandbox and of files, is nobody's.

    The admin server speaks no TLS: a page by https is its own only behind a proxy that ends TLS and says so in
    `X-Forwarded-Proto`. A page of another origin cannot add that field without a preflight, which is refused.
    """
    hosts = headers.getall("Host", ())
    schemes = headers.getall("X-Forwarded-Proto", ("http",))
    if len(hosts) != 1 or len(schemes) != 1:
        return False
    try:
        ours, theirs = urlsplit(f"//{hosts[0]}"), urlsplit(origin)
        default = _PORTS.get(theirs.scheme)
        return (
            default is not None
            and theirs.scheme == schemes[0].strip().lower()
            and origin.lower() == f"{theirs.scheme}://{theirs.netloc.lower()}"
            and bool(theirs.hostname)
            and "@" not in theirs.netloc
            and (theirs.hostname, theirs.port or default) == (ours.hostname, ours.port or default)
        )
    except ValueError:  # of a port
        return False
