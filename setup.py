"""Build of the compiled core.

Every `lb/**/*.pyx`, and every `lb/**/*.py` with a sibling `.pxd`, becomes an extension module. There is no fallback to
interpreted code: a missing header or compiler stops the build and names the package to install.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent.resolve()

# library (pkg-config name) -> (Debian package, least version)
LIBRARIES = {
    "libllhttp": ("libllhttp-dev", "9.0"),
    "libnghttp2": ("libnghttp2-dev", "1.52"),
    "libsodium": ("libsodium-dev", "1.0.18"),
    "openssl": ("libssl-dev", "3.0"),
    "re2": ("libre2-dev", "0"),  # older ones give the number of their interface as version
    "yaml-0.1": ("libyaml-dev", "0.2.2"),
}
# module -> the C libraries it links
LINKS = {
    "lb.config.yaml_values": ["yaml-0.1"],
    "lb.core.head_text": ["libllhttp"],
    "lb.core.http1": ["libllhttp"],
    "lb.core.methods": ["libllhttp"],
    "lb.core.http2_blocks": ["libnghttp2"],
    "lb.core.http2_message": ["libnghttp2"],
    "lb.core.hashing": ["libsodium"],
    "lb.core.regex": ["re2"],
    "lb.core.certificate": ["openssl"],
    "lb.core.pem": ["openssl"],
    "lb.core.revocation": ["openssl"],
    "lb.core.tls": ["openssl"],
    "lb.core.tls_context": ["openssl"],
    "lb.core.tls_peer": ["openssl"],
    "lb.core.tls_version": ["openssl"],
    "bench._stub": ["libnghttp2"],
}


# modules that are C++, since what they link to is
CPLUSPLUS = {"lb.core.regex"}


def stop(message: str) -> None:
    sys.exit(f"tidegate: cannot build the compiled core: {message}")


def pkg_config(library: str) -> dict[str, list[str]]:
    package, version = LIBRARIES[library]
    if shutil.which("pkg-config") is None:
        stop("pkg-config is missing; install it with: apt-get install pkg-config")
    if subprocess.run(["pkg-config", f"--atleast-version={version}", library]).returncode:
        stop(f"{library} {version} or newer is missing; install it with: apt-get install {package}")

    def flags(option: str) -> list[str]:
        words = subprocess.run(["pkg-config", option, library], check=True, capture_output=True, text=True).stdout
        return list(dict.fromkeys(words.split()))  # RE2 names Abseil's libraries hundreds of times

    return {
        "include_dirs": [f[2:] for f in flags("--cflags-only-I")],
        "library_dirs": [f[2:] for f in flags("--libs-only-L")],
        "libraries": [f[2:] for f in flags("--libs-only-l")],
    }


def sources() -> list[Path]:
    pyx = sorted([*ROOT.glob("lb/**/*.pyx"), *ROOT.glob("bench/**/*.pyx")])
    augmented = [p.with_suffix(".py") for p in sorted(ROOT.glob("lb/**/*.pxd")) if p.with_suffix(".py").exists()]
    return [p for p in pyx + augmented if p.name != "__init__.py"]


def extension(source: Path) -> Extension:
    relative = source.relative_to(ROOT)
    module = ".".join(relative.with_suffix("").parts)
    links: dict[str, list[str]] = {"include_dirs": [], "library_dirs": [], "libraries": []}
    for library in LINKS.get(module, []):
        for key, values in pkg_config(library).items():
            links[key] += values
    flags = [
        "-O2",
        "-g",
        "-std=gnu++17" if module in CPLUSPLUS else "-std=gnu11",
        "-fno-strict-aliasing",
        "-Wno-unused-function",
        "-fno-plt",
        "-fvisibility=hidden",
    ]
    flags += os.environ.get("TIDEGATE_CFLAGS", "").split()
    return Extension(
        module,
        [str(relative)],
        include_dirs=[str(ROOT / "lb" / "core"), str(ROOT / "lb" / "cache"), *links["include_dirs"]],
        library_dirs=links["library_dirs"],
        libraries=[*links["libraries"], "m"],  # left out again where nothing needs it
        extra_compile_args=flags,
        extra_link_args=["-Wl,--as-needed", *os.environ.get("TIDEGATE_LDFLAGS", "").split()],
        language="c++" if module in CPLUSPLUS else "c",
        depends=[str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("lb/**/*.h"))],
    )


def extensions() -> list[Extension]:
    # The Makefile installs the package first and builds in place afterwards, with its own list of what changed.
    if os.environ.get("TIDEGATE_NO_EXTENSIONS"):
        return []
    if not any(
        command in sys.argv for command in ("build_ext", "build", "bdist_wheel", "editable_wheel", "install", "develop")
    ):
        return []
    if shutil.which(os.environ.get("CC", "gcc")) is None and shutil.which("cc") is None:
        stop("a C compiler is missing; install it with: apt-get install gcc")
    from Cython.Build import cythonize

    only = os.environ.get("TIDEGATE_ONLY", "").split()
    chosen = [e for e in map(extension, sources()) if not only or e.name in only]
    if not chosen:
        return []
    return cythonize(
        chosen,
        nthreads=0,
        include_path=["."],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "annotation_typing": False,
            "embedsignature": True,
        },
    )


setup(ext_modules=extensions())
