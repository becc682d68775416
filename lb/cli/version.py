"""`tidegate version`."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Iterator
from importlib import metadata

import lb


class _Nghttp2Info(ctypes.Structure):
    """nghttp2_info of nghttp2.h."""

    _fields_ = [
        ("age", ctypes.c_int),
        ("version_num", ctypes.c_int),
        ("version_str", ctypes.c_char_p),
        ("proto_str", ctypes.c_char_p),
    ]


def versions() -> Iterator[tuple[str, str]]:
    """(what, version) of Tidegate, the interpreter, the event loop and the C libraries that are loaded at run time."""
    yield "tidegate", lb.__version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    for name in ("uvloop", "cython"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            if name != "cython":  # needed to build only
                yield name, "not installed"
    yield "nghttp2", _nghttp2()
    yield "llhttp", _llhttp()


def _library(name: str) -> ctypes.CDLL | None:
    path = ctypes.util.find_library(name)
    try:
        return ctypes.CDLL(path) if path else None
    except OSError:
        return None


def _nghttp2() -> str:
    library = _library("nghttp2")
    if library is None:
        return "not found"
    library.nghttp2_version.restype = ctypes.POINTER(_Nghttp2Info)
    library.nghttp2_version.argtypes = [ctypes.c_int]
    return str(library.nghttp2_version(0).contents.version_str.decode())


def _llhttp() -> str:
    """llhttp tells no version at run time; its shared library's name does."""
    return ctypes.util.find_library("llhttp") or "not found"
