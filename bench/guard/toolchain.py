"""What the figures depend on besides Tidegate's own code: compilers, libraries, the interpreter, the processor."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from bench.errors import BenchError
from bench.processes import require

_LIBRARIES = ("libllhttp", "libnghttp2", "libsodium")
_COMPILER = re.compile(rb"(GCC: \([^)\0]*\) [\d.]+|clang version [\d.]+)")
_FLAGS = re.compile(rb"GNU C\d+ [\d.]+ ([ -~]+)\0")  # section .GCC.command.line, of gcc only
_IRRELEVANT = ("-g", "-g0", "-frecord-gcc-switches")
_CYTHON = re.compile(rb"_cython_(\d+(?:_\d+)+)")


def toolchain() -> dict[str, str]:
    """Names and versions of what is loaded here.

    Raises BenchError when the compiled modules do not say how they were made, or something is missing.
    """
    for name in ("lb.http.http1", "lb.http.http2.session", "lb.shared.hashing"):
        import_module(name)  # each loads a library
    module = Path(str(import_module("lb.net.poller").__file__)).read_bytes()
    shared = Path(str(import_module("lb.shared.cython_shared").__file__)).read_bytes()
    return {
        "architecture": platform.machine(),
        "processor": _level(),
        "compiler": _search(_COMPILER, module),
        "flags": compiler_options(module),
        "cython": _search(_CYTHON, shared).replace("_", "."),
        "python": f"{platform.python_version()} ({platform.python_compiler()})",
        **_libraries(),
        "orjson": version("orjson"),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": _valgrind(),
    }


def _search(pattern: re.Pattern[bytes], module: bytes) -> str:
    found = pattern.search(module)
    if found is None:
        raise BenchError("the compiled core does not say what compiled it; build it with: make dev")
    return found[1].decode()


def compiler_options(module: bytes) -> str:
    """The compiler's options, stored by `-frecord-gcc-switches`; without paths and requests for records."""
    found = _FLAGS.search(module)
    if found is None:
        return "not recorded"
    return " ".join(flag for flag in found[1].decode().split() if "/" not in flag and flag not in _IRRELEVANT)


def _libraries() -> dict[str, str]:
    """The versions of the mapped libraries, from their files' names (libllhttp.so.9.2.1); libsodium's own word."""
    versions = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = os.path.realpath(line.rpartition(" ")[2]).rpartition("/")[2]
        library, found, number = name.partition(".so.")
        if found and library in _LIBRARIES:
            versions[library] = number
    if missing := [name for name in _LIBRARIES if name not in versions]:
        raise BenchError(f"{', '.join(missing)} is not loaded as a shared library: its version cannot be told")
    sodium = ctypes.CDLL(f"libsodium.so.{versions['libsodium'].partition('.')[0]}")
    sodium.sodium_version_string.restype = ctypes.c_char_p
    versions["libsodium"] = sodium.sodium_version_string().decode()
    return {name: versions[name] for name in _LIBRARIES}


def _level() -> str:
    """What valgrind's emulated processor can do, which follows the real one; libraries choose their code by it."""
    if platform.machine() != "x86_64":
        return "as emulated"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = line.split()
            return "AVX2" if "avx2" in flags else "AVX" if "avx" in flags else "SSE"
    raise BenchError("/proc/cpuinfo does not say what the processor can do")


def _valgrind() -> str:
    said = subprocess.run([require("valgrind", "valgrind"), "--version"], capture_output=True, text=True, check=False)
    if said.returncode:
        raise BenchError(f"valgrind does not run: {said.stderr.strip() or said.returncode}")
    return said.stdout.strip().removeprefix("valgrind-")


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in toolchain().items()))
