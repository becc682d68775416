"""Whose requests the admin server takes: what a browser says about the page that sent them."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from lb.control.admin.origin import is_cross_site, is_local

HOST = "127.0.0.1:9900"
ALLOWED: list[tuple[str, dict[str, str]]] = [
    ("POST", {}),  # curl, the CLI
    ("POST", {"Sec-Fetch-Site": "none"}),
    ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"}),
    ("POST", {"Origin": f"http://{HOST}"}),
    ("GET", {"Origin": f"HTTP://{HOST}"}),
    ("POST", {"Host": "Gate.Example", "Origin": "http://gate.example"}),
    ("POST", {"Host": "gate.example", "Origin": "http://gate.example:80"}),
    # Behind a proxy that ends TLS.
    ("POST", {"Host": "gate.example:443", "Origin": "https://gate.example", "X-Forwarded-Proto": "https"}),
    ("POST", {"Host": "gate.example", "Origin": "https://gate.example:443", "X-Forwarded-Proto": "HTTPS"}),
    ("POST", {"Host": "[::1]:9900", "Origin": "http://[::1]:9900"}),
    # A link that somebody followed: the page with the link sees nothing of it.
    ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}),
]
REFUSED: list[tuple[str, dict[str, str]]] = [
    ("POST", {"Sec-Fetch-Site": "cross-site"}),
    ("POST", {"Sec-Fetch-Site": "same-site"}),
    ("GET", {"Sec-Fetch-Site": "cross-site"}),
    ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
    ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}),
    ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}),
    ("POST", {"Sec-Fetch-Site": "anything"}),
    ("POST", {"Origin": "https://evil.example"}),
    ("GET", {"Origin": "https://evil.example"}),
    ("POST", {"Origin": "null"}),
    ("POST", {"Origin": ""}),
    ("POST", {"Origin": "http://127.0.0.1:8080"}),  # another server of this machine
    ("POST", {"Origin": "http://127.0.0.1"}),
    ("POST", {"Origin": f"http://{HOST}.evil.example"}),
    ("POST", {"Origin": f"http://evil.example@{HOST}"}),
    ("POST", {"Origin": f"http://{HOST}/path"}),
    ("POST", {"Origin": f"file://{HOST}"}),
    ("POST", {"Origin": HOST}),
    # By https, where the listener is plain: another server at the same name.
    ("POST", {"Origin": f"https://{HOST}"}),
    ("GET", {"Origin": f"https://{HOST}"}),
    ("POST", {"Host": "gate.example:443", "Origin": "https://gate.example"}),
    ("POST", {"Host": "gate.example", "Origin": "https://gate.example:443", "X-Forwarded-Proto": "http"}),
    ("POST", {"Host": "gate.example", "Origin": "http://gate.example", "X-Forwarded-Proto": "https"}),
    ("POST", {"Host": "gate.example", "Origin": "https://gate.example", "X-Forwarded-Proto": "https, http"}),
    ("POST", {"Origin": "http://127.0.0.1:99999"}),
    ("POST", {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "cross-site"}),
    ("POST", {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}),
]


@pytest.mark.parametrize(("method", "fields"), ALLOWED)
def test_requests_of_our_own_pages_and_of_programs(method: str, fields: dict[str, str]) -> None:
    assert not is_cross_site(method, CIMultiDict({"Host": HOST, **fields}))


@pytest.mark.parametrize(("method", "fields"), REFUSED)
def test_requests_of_other_pages(method: str, fields: dict[str, str]) -> None:
    assert is_cross_site(method, CIMultiDict({"Host": HOST, **fields}))


def test_each_of_several_fields_counts() -> None:
    assert is_cross_site("POST", CIMultiDict([("Host", HOST), ("Origin", f"http://{HOST}"), ("Origin", "http://e")]))
    ours, theirs = ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")
    assert is_cross_site("POST", CIMultiDict([("Host", HOST), ours, theirs]))
    assert is_cross_site("POST", CIMultiDict([("Host", HOST), ("Host", "evil"), ("Origin", "http://evil")]))
    assert is_cross_site("POST", CIMultiDict([("Origin", "http://evil")]))


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1:9900", "[::1]:9900", "[::1]"]
)
def test_names_of_this_machine(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:9900", "xlocalhost", "[::1"]
)
def test_names_of_others(host: str) -> None:
    assert not is_local(host)
