"""Names of compiled functions, for people and for comparing: without the numbers that move when code is added."""

from __future__ import annotations

import re

_KIND = re.compile(r"__pyx_(f|pf|pw)_")
_COUNTER = re.compile(r"^\d+(?=[A-Za-z_])")
_CLONE = re.compile(r"(\.(isra|constprop|part|cold|lto_priv)(\.\d+)?)+$")
_ADDRESS = re.compile(r"0x[0-9a-f]+$")


def readable(obj: str, function: str) -> str:
    """`lb.net.poller.Poller.dispatch` for Cython's mangled name of it; else `library:function`.

    A library's functions that have no symbol are one: `libnghttp2:?`.
    """
    library = _library(obj)
    function = re.sub(r"'\d+$|@.*$", "", function)  # callgrind's mark of a recursion; a symbol's version
    if _ADDRESS.match(function) or function == "???":
        return f"{library}:?"
    plain = _CLONE.sub("", function)
    match = _KIND.match(plain)
    parts = _parts(plain[match.end() :]) if match else None
    if parts is None:
        return f"{_module(obj) or library}:{plain}"
    return ".".join(parts)


def _parts(mangled: str) -> list[str] | None:
    """`2lb_3net_6poller_6Poller_11_run` as its parts: each but the last begins with its length."""
    parts = []
    while match := re.match(r"(\d+)", mangled):
        size, start = int(match[1]), match.end()
        if mangled[start + size : start + size + 1] != "_" or not mangled[start : start + size].isidentifier():
            break
        parts.append(mangled[start : start + size])
        mangled = mangled[start + size + 1 :]
    if not parts or not mangled:
        return None
    return [*parts, _COUNTER.sub("", mangled)]


def _library(obj: str) -> str:
    name = obj.rpartition("/")[2]
    return re.sub(r"(\.(cpython|abi3)[\w-]*)?\.so[.\d]*$", "", name) or "?"


def _module(obj: str) -> str | None:
    """The module of an extension's file: `lb.http.http1` for …/lb/http/http1.cpython-311-x86_64-linux-gnu.so."""
    match = re.search(r"(?:^|/)((?:lb|bench)/[\w/]+)\.[\w-]*\.?so$", obj)
    return match[1].replace("/", ".") if match else None
