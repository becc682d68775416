"""The PROXY protocol's header: what the specification says, and every way to get it wrong."""

from __future__ import annotations

import contextlib
import random
import socket
import struct

import pytest
from compiled.bytes_to_values import parse_proxy_header, proxy_header
from hypothesis import given
from hypothesis import strategies as st

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7") + struct.pack("!HH", 56324, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1") + b"\1\2\3\4"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def binary(block: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 4960 appendix B has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_checksum_used_here_is_the_standard_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_version_1() -> None:
    size, said = parse_proxy_header(LINE + b"GET / HTTP/1.1\r\n")
    assert size == len(LINE)
    assert said["version"] == 1
    assert said["source"] == ("192.0.2.1", 56324)
    assert said["target"] == ("198.51.100.7", 443)
    size, said = parse_proxy_header(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n")
    assert said["source"] == ("2001:db8::1", 0)
    assert said["target"] == ("::1", 65535)


@pytest.mark.parametrize("line", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff:f...f:ffff 65535 whatever\r\n"])
def test_version_1_unknown(line: bytes) -> None:
    size, said = parse_proxy_header(line)
    assert size == len(line)
    assert said["source"] is None


def test_the_longest_line_of_version_1() -> None:
    address = b":".join([b"ffff"] * 8)
    longest = b"PROXY UNKNOWN %s %s 65535 65535\r\n" % (address, address)
    assert len(longest) == 107
    assert parse_proxy_header(longest)[0] == 107
    assert parse_proxy_header(longest[:-2]) is None
    with pytest.raises(ValueError, match="malformed"):
        parse_proxy_header(longest[:-2] + b"5\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 999999\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP6 2001:db8::1%lo ::1 1 2\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY tcp4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY " + b"x" * 200,
    ],
)
def test_version_1_malformed(line: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_proxy_header(line)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"PROXYTCP4", b"PROPFIND", b"P ", b"\x16\x03\x01", b"\r\n\r\n\1"]
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError, match="no header"):
        parse_proxy_header(data)


def test_version_2() -> None:
    size, said = parse_proxy_header(binary(V4) + b"data")
    assert size == 28
    assert said == {
        "version": 2, "local": False, "source": ("192.0.2.1", 56324), "target": ("198.51.100.7", 443),
        "alpn": b"", "authority": b"", "unique_id": b"", "ssl": b"", "tlvs": b"",
    }  # fmt: skip
    size, said = parse_proxy_header(binary(V6, family=0x21))
    assert size == 52
    assert said["source"] == ("2001:db8::1", 0x0102)
    assert said["target"] == ("::1", 0x0304)


def test_version_2_fields() -> None:
    ssl = b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3")
    block = V4 + tlv(1, b"h2") + tlv(4, b"padding") + tlv(2, b"example.org") + tlv(5, b"id") + tlv(0x20, ssl)
    block += tlv(0xEA, b"vpce") + tlv(4, b"")
    size, said = parse_proxy_header(binary(block))
    assert size == 16 + len(block)
    assert (said["alpn"], said["authority"], said["unique_id"], said["ssl"]) == (b"h2", b"example.org", b"id", ssl)


@pytest.mark.parametrize(
    ("command", "family", "block"),
    [
        (0x20, 0x00, b""),  # LOCAL
        (0x20, 0x11, V4),  # LOCAL: the family is ignored
        (0x20, 0x77, b"anything"),
        (0x21, 0x00, b"anything"),  # UNSPEC
        (0x21, 0x12, V4),  # UDP: valid, and of no use here
        (0x21, 0x31, bytes(216)),  # Unix
    ],
)
def test_version_2_without_an_address(command: int, family: int, block: bytes) -> None:
    size, said = parse_proxy_header(binary(block, command, family))
    assert size == 16 + len(block)
    assert said["source"] is None
    assert said["local"] == (command == 0x20)


@pytest.mark.parametrize(
    "data",
    [
        binary(V4, 0x31),  # version 3
        binary(V4, 0x11),
        binary(V4, 0x22),  # neither LOCAL nor PROXY
        binary(V4, 0x21, 0x13),
        binary(V4, 0x21, 0x41),
        binary(V4, 0x21, 0x10),
        binary(V4, 0x21, 0x01),
        binary(V4[:-1]),
        binary(V6[:-1], 0x21, 0x21),
        binary(bytes(215), 0x21, 0x31),
        binary(V4 + b"\1"),
        binary(V4 + b"\1\0"),
        binary(V4 + b"\1\0\5abcd"),
        binary(V4 + tlv(5, bytes(129))),
        binary(V4 + tlv(3, b"abc")),
    ],
)
def test_version_2_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_proxy_header(data)


def test_version_2_too_long_is_known_from_its_beginning() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_proxy_header(SIGNATURE + b"\x21\x11\xff\xff")
    block = V4 + tlv(4, bytes(16384 - 16 - 12 - 3))
    assert parse_proxy_header(binary(block))[0] == 16384
    with pytest.raises(ValueError, match="too long"):
        parse_proxy_header(binary(block + b"\0"))


@pytest.mark.parametrize(
    "header", [LINE, binary(V4), binary(V6 + tlv(2, b"a.example"), family=0x21), binary(b"", 0x20, 0)]
)
def test_every_beginning_needs_more(header: bytes) -> None:
    for n in range(len(header)):
        assert parse_proxy_header(header[:n]) is None
    assert parse_proxy_header(header)[0] == len(header)


def test_checksum() -> None:
    block = V4 + tlv(2, b"example.org") + tlv(3, bytes(4)) + tlv(4, b"more")
    blank = binary(block)
    at = blank.index(tlv(3, bytes(4))) + 3
    good = blank[:at] + struct.pack("!I", crc32c(blank)) + blank[at + 4 :]
    assert parse_proxy_header(good)[1]["authority"] == b"example.org"
    for i in set(range(16, len(good))) - {at - 3}:  # without its type it is no checksum
        damaged = good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]
        with pytest.raises(ValueError, match=r"checksum|malformed"):
            parse_proxy_header(damaged)
    with pytest.raises(ValueError, match="malformed"):
        parse_proxy_header(binary(V4 + tlv(3, bytes(4)) * 2))


@given(st.binary(max_size=200))
def test_anything_at_all(data: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x20"):
        try:
            found = parse_proxy_header(start + data)
        except ValueError:
            continue
        assert found is None or found[0] <= len(start + data)


@given(
    st.sampled_from([("10.1.2.3", "10.3.2.1"), ("2001:db8::9", "fe80::1")]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.binary(max_size=300),
    st.binary(max_size=128),
    st.binary(max_size=2000),
    st.booleans(),
)
def test_what_is_written_is_read(
    ends: tuple[str, str], a: int, b: int, authority: bytes, unique_id: bytes, ssl: bytes, checksum: bool
) -> None:
    source, target = (ends[0], a), (ends[1], b)
    header = proxy_header(
        2, source, target, authority=authority, unique_id=unique_id, ssl=ssl, alpn=b"h2", checksum=checksum
    )
    size, said = parse_proxy_header(header)
    assert size == len(header)
    assert (said["source"], said["target"]) == (source, target)
    assert (said["authority"], said["unique_id"], said["ssl"], said["alpn"]) == (authority, unique_id, ssl, b"h2")
    assert (tlv(3, b"\0\0\0\0")[:3] in header[-7:]) >= checksum
    size, said = parse_proxy_header(proxy_header(1, source, target))
    assert (said["source"], said["target"]) == (source, target)


def test_fields_of_other_types_are_passed_on_as_they_are() -> None:
    """Custom ones, those of clouds, and those that later versions define, in their order and as often as they come."""
    others = tlv(0xE0, b"one") + tlv(0xEA, b"\1vpce-1") + tlv(0xE0, b"") + tlv(0x30, b"ns") + tlv(0xF0, b"x" * 3000)
    known = tlv(0x01, b"h2") + tlv(0x02, b"a.example") + tlv(0x05, b"id") + tlv(0x20, b"\1\0\0\0\0")
    padding = tlv(0x04, b"\0\0")
    for block in (others, known + others, others + padding + known, padding + others):
        header = proxy_header(2, ("192.0.2.1", 1), ("192.0.2.2", 2), authority=b"b.example", tlvs=block, checksum=True)
        size, said = parse_proxy_header(header)
        assert size == len(header)
        assert (said["authority"], said["alpn"], said["unique_id"], said["ssl"]) == (b"b.example", b"", b"", b"")
        assert said["tlvs"].startswith(tlv(0x02, b"b.example") + others + b"\3\0\4")
        assert len(said["tlvs"]) == len(tlv(0x02, b"b.example")) + len(others) + 7


def test_an_unknown_client() -> None:
    assert proxy_header(1, None, None) == b"PROXY UNKNOWN\r\n"
    assert proxy_header(2, None, None, authority=b"x") == SIGNATURE + b"\x20\0\0\0"


def test_a_header_is_never_longer_than_what_is_read() -> None:
    with pytest.raises(ValueError, match="too long"):
        proxy_header(2, ("10.0.0.1", 1), ("10.0.0.2", 2), ssl=bytes(16384))
    fits, does_not = tlv(0xE1, b"small"), tlv(0xE0, bytes(1000))
    header = proxy_header(2, ("10.0.0.1", 1), ("10.0.0.2", 2), ssl=bytes(15500), tlvs=does_not + fits, checksum=True)
    assert parse_proxy_header(header)[1]["tlvs"].endswith(fits + header[-7:])


def test_random_damage_never_crashes() -> None:
    rng = random.Random(5)
    good = proxy_header(2, ("10.0.0.1", 1), ("10.0.0.2", 2), authority=b"a.example", ssl=bytes(50), checksum=True)
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError):
            parse_proxy_header(bytes(data[: rng.randrange(len(data) + 1)]))
