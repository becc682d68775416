"""LDAP check: a directory answers an anonymous bind, and is told goodbye (RFC 4511 sections 4.2 and 4.3)."""

from __future__ import annotations

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, shown
from lb.health.checks.conversation import LARGEST, Conversation, conversation, waiting_for
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS

# LDAPMessage 1: BindRequest of version 3, without a name and a password; LDAPMessage 2: UnbindRequest.
_BIND = bytes.fromhex("300c020101600702010304008000")
_UNBIND = bytes.fromhex("30050201024200")
_SEQUENCE, _INTEGER, _BIND_RESPONSE, _ENUMERATED = 0x30, 0x02, 0x61, 0x0A
# success, and what a directory says that wants to know who asks, or TLS: strongerAuthRequired, confidentialityRequired,
# inappropriateAuthentication, invalidCredentials, insufficientAccessRights (section 4.1.9).
_WELL = (0, 8, 13, 48, 49, 50)


class LdapCheck:
    """Passes when the bind succeeds, or is refused to the anonymous. A server that is busy or unavailable fails."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._header = PROXY_HEADERS[config.send_proxy or "off"]

    async def run(self, address: str) -> None:
        async with conversation(address, self._tls, self._header) as talk:
            await talk.send(_BIND)
            with waiting_for("the bind has no answer", talk):
                message = await _element(talk, _SEQUENCE)
            number, rest = _first(message, _INTEGER)
            response, _ = _first(rest, _BIND_RESPONSE)
            code, rest = _first(response, _ENUMERATED)
            if number != b"\x01":
                raise CheckFailed("the answer is to another message")
            if int.from_bytes(code) not in _WELL:
                raise CheckFailed(f"the bind was refused with {int.from_bytes(code)}: {shown(_diagnostic(rest))!r}")
            await talk.send(_UNBIND)


async def _element(talk: Conversation, tag: int) -> bytes:
    """The content of the next element (BER, X.690 section 8.1). Raises CheckFailed for another tag."""
    if (await talk.exactly(1))[0] != tag:
        raise CheckFailed("the answer is not LDAP's")
    size = (await talk.exactly(1))[0]
    if size & 0x80:
        if not 1 <= (more := size & 0x7F) <= 4:
            raise CheckFailed("the answer is not LDAP's")
        size = int.from_bytes(await talk.exactly(more))
    if size > LARGEST:
        raise CheckFailed(f"an answer of {size} bytes")
    return await talk.exactly(size)


def _first(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the first element of `data`, and what stands behind it. Raises CheckFailed."""
    if len(data) < 2 or data[0] != tag:
        raise CheckFailed("the answer is not LDAP's")
    size, at = data[1], 2
    if size & 0x80:
        more = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + more]), 2 + more
    if at + size > len(data):
        raise CheckFailed("the answer is not LDAP's")
    return data[at : at + size], data[at + size :]


def _diagnostic(rest: bytes) -> str:
    """The server's words: they stand behind the matched name (section 4.1.9)."""
    octet_string = 0x04
    try:
        _, rest = _first(rest, octet_string)
        return _first(rest, octet_string)[0].decode("utf-8", "replace")
    except CheckFailed:
        return ""
