"""What the next hop is told of a request's way: the types of a listener's fields, and what they compile to."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from lb.config.network import canonical
from lb.config.schema.base import problem


def _network(value: str) -> str:
    try:
        return str(canonical(ipaddress.ip_network(value)))
    except ValueError as error:
        hint = f": {error}" if "; write" in str(error) else ""
        if "host bits" in str(error):
            hint = f"; did you mean {ipaddress.ip_network(value, strict=False)}?"
        raise problem("network", f"{value!r} is not a network such as 10.0.0.0/8 or 2001:db8::/32{hint}") from None


def _off(value: Any) -> Any:
    if value is False or (isinstance(value, str) and value.lower() in ("off", "none", "no", "false")):
        raise problem("via", f'{value!r} would be the name; write "" for none')
    return value


def _pseudonym(value: str) -> str:
    if not value.isascii() or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~:[]" for c in value) or len(value) > 128:
        raise problem("via", f"{value!r} is not a name for Via: a token or a host with an optional port")
    return value


Network = Annotated[str, AfterValidator(_network)]
"""A network in CIDR notation, or one address."""

Pseudonym = Annotated[str, BeforeValidator(_off), AfterValidator(_pseudonym)]
"""A name for Via (RFC 9110 section 7.6.3), or nothing."""
