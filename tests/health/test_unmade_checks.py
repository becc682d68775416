"""Which failures of a check are this machine's own."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lb.health import check
from lb.health.check import CheckFailed, is_ours

IPV4, IPV6 = "10.0.0.1:80", "[2001:db8::1]:80"


def failed(number: int) -> CheckFailed:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise CheckFailed("cannot connect") from error
    except CheckFailed as failure:
        return failure


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_what_the_endpoint_or_its_network_says_is_a_failure(number: int) -> None:
    assert is_ours(failed(number), IPV4) is None
    assert is_ours(CheckFailed("answered 500"), IPV4) is None


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_what_this_machine_lacks_is_none(number: int) -> None:
    assert is_ours(failed(number), IPV4) == os.strerror(number)


def test_a_machine_without_ipv6_cannot_reach_an_endpoint_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = tmp_path / "if_inet6"
    monkeypatch.setattr(check, "_IPV6_ADDRESSES", addresses)
    no_address = failed(errno.EADDRNOTAVAIL)
    assert is_ours(no_address, IPV6) is None
    addresses.touch()
    assert is_ours(no_address, IPV6) is None
    assert is_ours(no_address, IPV4) == os.strerror(errno.EADDRNOTAVAIL)
    assert is_ours(failed(errno.EMFILE), IPV6) == os.strerror(errno.EMFILE)
    addresses.write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert is_ours(no_address, IPV6) == os.strerror(errno.EADDRNOTAVAIL)
