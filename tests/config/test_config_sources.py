"""Lists of who may connect: the most exact network decides, whichever list it is in."""

from __future__ import annotations

import ipaddress
import random
from itertools import pairwise
from pathlib import Path

import pytest

from lb.config.load import load
from lb.config.network import Network, parse_network
from lb.config.sources import Ranges, networks_in, refused_ranges
from lb.control.certificates import TlsFiles

WORD = {4: 4, 6: 8}


def bounds(ranges: Ranges, version: int) -> list[tuple[int, int]]:
    data, words = ranges[version == 6], WORD[version]
    numbers = [int.from_bytes(data[i : i + words], "little") for i in range(0, len(data), words)]
    if version == 6:
        numbers = [high << 64 | low for high, low in zip(numbers[::2], numbers[1::2], strict=True)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def refused(ranges: Ranges, address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(first <= int(ip) <= last for first, last in bounds(ranges, ip.version))


def networks(*texts: str) -> list[Network]:
    return [parse_network(text) for text in texts]


@pytest.mark.parametrize(
    ("allow", "deny", "may", "may_not"),
    [
        (None, [], ["10.0.0.1", "::1"], []),
        (None, ["10.0.0.0/8"], ["11.0.0.1", "::1"], ["10.255.255.255"]),
        ([], [], [], ["0.0.0.0", "255.255.255.255", "::1"]),
        (["10.0.0.0/8"], [], ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::1"]),
        (["10.0.0.0/8", "10.1.2.3"], ["10.1.0.0/16"], ["10.1.2.3", "10.2.0.0"], ["10.1.2.2", "10.1.2.4"]),
        (["2001:db8::/32"], ["2001:db8:1::/48"], ["2001:db8::1"], ["2001:db8:1::1", "2001:db9::", "10.0.0.1"]),
        (["0.0.0.0/0"], ["::ffff:10.0.0.0/104"], ["11.0.0.1"], ["10.0.0.1", "::1"]),  # mapped: the IPv4 network
    ],
)
def test_lists(allow: list[str] | None, deny: list[str], may: list[str], may_not: list[str]) -> None:
    ranges = refused_ranges(None if allow is None else networks(*allow), networks(*deny))
    assert [address for address in may if refused(ranges, address)] == []
    assert [address for address in may_not if not refused(ranges, address)] == []


def test_random_lists_decide_as_the_longest_prefix_does() -> None:
    rng = random.Random(1)

    def some(version: int) -> Network:
        bits, prefix = (32, rng.randrange(20, 33)) if version == 4 else (128, rng.randrange(110, 129))
        number = (rng.randrange(1 << 12) | 10 << (bits - 8)) >> (bits - prefix) << (bits - prefix)
        return ipaddress.ip_network((number, prefix))

    for _ in range(60):
        verdicts = {some(rng.choice((4, 6))): rng.random() < 0.5 for _ in range(rng.randrange(1, 25))}
        limited = rng.random() < 0.5
        allow, deny = ([n for n, v in verdicts.items() if v is denied] for denied in (False, True))
        ranges = refused_ranges(allow if limited or allow else None, deny)
        for version in (4, 6):
            found = bounds(ranges, version)
            assert all(a[1] + 1 < b[0] for a, b in pairwise(found))  # sorted, and apart
        for _ in range(300):
            bits = rng.choice((32, 128))
            number = rng.randrange(1 << 12) | 10 << bits - 8
            ip = ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number)
            inside = [n for n in verdicts if n.version == ip.version and ip in n]
            expected = verdicts[max(inside, key=lambda n: n.prefixlen)] if inside else bool(limited or allow)
            assert refused(ranges, str(ip)) == expected


def test_a_file_has_comments_and_names_the_line_that_is_wrong() -> None:
    assert list(networks_in(b"# all of ours\n10.0.0.0/8\r\n\n 2001:db8::/32 # and these\n")) == networks(
        "10.0.0.0/8", "2001:db8::/32"
    )
    with pytest.raises(ValueError, match=r"line 3: '10\.0\.0\.1/8' has bits set behind its prefix"):
        list(networks_in(b"10.0.0.0/8\n\n10.0.0.1/8\n"))


@pytest.mark.parametrize(
    ("content", "listener", "problem"),
    [
        ("10.0.0.0/8\nhost\n", "deny_file: FILE", "deny_file: FILE: line 2: 'host' is not a network"),
        ("10.0.0.0/8\n", "allow: [10.0.0.0/8], deny_file: FILE", "deny_file: 10.0.0.0/8 is allowed and denied"),
        ("", "allow: [10.0.0.0/8], deny: [10.0.0.0/8]", "deny: 10.0.0.0/8 is allowed and denied"),
        (None, "allow_file: FILE", "allow_file: FILE: No such file or directory"),
    ],
)
def test_files_are_checked(tmp_path: Path, content: str | None, listener: str, problem: str) -> None:
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_text(content)
    lists = listener.replace("FILE", str(file))
    text = (
        f"listeners: {{raw: {{bind: '127.0.0.1:1', protocol: tcp, pool: app, {lists}}}}}\n"
        "pools: {app: {protocol: tcp, endpoints: ['127.0.0.1:2']}}\n"
    )
    path = tmp_path / "tidegate.yaml"
    path.write_text(text)
    (found,) = TlsFiles().check(load(path))
    assert ": ".join(found).removeprefix("listeners.raw.").replace(str(file), "FILE").startswith(problem)
