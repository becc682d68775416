"""Shared libraries that compiled modules need: which one is missing, and the Debian package that has it."""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import re
from collections.abc import Iterator
from pathlib import Path

import lb
from lb.errors import StartError

# One module for each library that is not part of the C library's package.
MODULES = (
    "config/yaml_values",
    "shared/hashing",
    "http/http1",
    "http/http2/message",
    "http/regex",
    "net/tls/context",
)
# Debian 13, and Debian 12 where that has another.
PACKAGES: dict[str, tuple[str, ...]] = {
    "libcrypto.so.3": ("libssl3t64", "libssl3"),
    "libssl.so.3": ("libssl3t64", "libssl3"),
    "libllhttp.so.9.2": ("libllhttp9.2",),
    "libnghttp2.so.14": ("libnghttp2-14",),
    "libre2.so.11": ("libre2-11",),
    "libre2.so.9": ("libre2-9",),
    "libsodium.so.23": ("libsodium23",),
    "libyaml-0.so.2": ("libyaml-0-2",),
    "libz.so.1": ("zlib1g",),
    "libzstd.so.1": ("libzstd1",),
    "libstdc++.so.6": ("libstdc++6",),
    "libgcc_s.so.1": ("libgcc-s1",),
    "libgomp.so.1": ("libgomp1",),
    "libc.so.6": ("libc6",),
    "libm.so.6": ("libc6",),
}
_ABSEIL = re.compile(r"libabsl_\w+\.so\.([0-9]+)")
_LIBRARY = re.compile(r"(?:^|[\s'`(/])(lib[\w.+-]+\.so[\w.]*)")
_SYMBOL = re.compile(r"undefined symbol: (\S+)")
_VERSION = re.compile(r"([^\s:]+): version [`'](\S+)' not found")


def require() -> None:
    """Raises StartError with a line for each library that a compiled module misses."""
    missing = list(dict.fromkeys(_missing()))
    if missing:
        raise StartError("\ntidegate: ".join(missing))


def told(error: ImportError) -> str:
    """What to do about a module that cannot be loaded; "" where that is not about its libraries, or its being there."""
    if isinstance(error, ModuleNotFoundError):
        name = error.name or ""
        if name.partition(".")[0] in ("lb", "backend"):
            return f"the compiled module {name} is missing: install Tidegate again, or run `make build` in its sources"
        return f"the Python package {name} is missing: install Tidegate again with pip" if name else ""
    return _told(str(error))


def _missing() -> Iterator[str]:
    folder = Path(lb.__file__).parent
    for module in MODULES:
        files = [Path(f"{folder / module}{suffix}") for suffix in importlib.machinery.EXTENSION_SUFFIXES]
        found = next((path for path in files if path.exists()), None)
        if found is None:
            yield told(ModuleNotFoundError(name="lb." + module.replace("/", ".")))
            continue
        try:
            ctypes.CDLL(str(found), os.RTLD_LAZY)
        except OSError as error:
            yield _told(str(error)) or str(error)


def _told(text: str) -> str:
    """About a message of the dynamic loader (dlerror(3))."""
    if (version := _VERSION.search(text)) is not None:
        library = Path(version[1]).name
        return f"the shared library {library} is too old, it has no {version[2]}: {_advice(library)}"
    if (symbol := _SYMBOL.search(text)) is not None:
        where = Path(text.partition(":")[0]).name
        return (
            f"{where} was built for other libraries than those here, which have no {symbol[1]}: install Tidegate again"
        )
    library = next((name for name in _LIBRARY.findall(text.partition(":")[0])), "")
    if not library:
        return ""
    if "cannot open shared object file: No such file" in text:
        return f"the shared library {library} is missing: {_advice(library)}"
    return f"the shared library {library} cannot be loaded ({text.partition(': ')[2]}): {_advice(library)}"


def _advice(library: str) -> str:
    abseil = _ABSEIL.fullmatch(library)
    packages = (f"libabsl{abseil[1]}",) if abseil is not None else PACKAGES.get(library, ())
    if not packages:
        return f"`apt-file search {library}` shows the Debian package that has it"
    other = f" (Debian 12: {packages[1]})" if len(packages) > 1 else ""
    return f"apt-get install {packages[0]}{other}"
