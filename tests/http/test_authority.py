"""What is a host with its port, and what is not (RFC 3986 section 3.2, RFC 9110 section 4.2.1)."""

from __future__ import annotations

import pytest
from compiled.bytes_to_values import host_of

HOSTS = [
    (b"", b""),
    (b"example.org", b"example.org"),
    (b"example.org:", b"example.org"),
    (b"example.org:80", b"example.org"),
    (b"example.org:0", b"example.org"),
    (b"example.org:00080", b"example.org"),
    (b"example.org:65535", b"example.org"),
    (b"example.org.", b"example.org."),
    (b"EXAMPLE.org:8080", b"EXAMPLE.org"),
    (b"a_b-c~d!$&'()*+,;=e", b"a_b-c~d!$&'()*+,;=e"),
    (b"127.0.0.1:80", b"127.0.0.1"),
    (b"[::1]", b"[::1]"),
    (b"[::1]:80", b"[::1]"),
    (b"[::1]:", b"[::1]"),
    (b"[::ffff:192.0.2.1]:443", b"[::ffff:192.0.2.1]"),
    (b"[v1.fe:80]:1", b"[v1.fe:80]"),
]
NONE = [
    b"example.org:80x", b"example.org:x", b"example.org:80:90", b"example.org:+80", b"example.org:-1",
    b"example.org: 80", b"example.org:65536", b"example.org:99999999999999999999", b"example.org:0x50",
    b"example.org:80 ", b":80", b":", b"::1", b"[::1", b"[]", b"[::1]x", b"[::1]80", b"[::1]:x", b"[::g]",
    b"[1.2.3.4]", b"[fe80::1%25eth0]", b"[fe80::1%eth0]", b"[v.x]", b"[v1.]", b"[vg.x]", b"[v1]", b"[::1\0]",
    b"user@example.org", b"user:pw@example.org", b"a/b", b"a?b", b"a#b", b"a\\b", b"a b", b"a\tb", b"a\0", b"a\x7f",
    b"a\xc3\xa9", b"a%2eb", b"a%41", b"a%", b"a|b", b'a"b', b"a<b>", b"a^b", b"a`b", b"{a}", b"a[b]",
]  # fmt: skip


@pytest.mark.parametrize(("text", "host"), HOSTS)
def test_a_host_is_what_stands_before_the_port(text: bytes, host: bytes) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize("text", NONE)
def test_anything_else_is_none(text: bytes) -> None:
    assert host_of(text) is None
