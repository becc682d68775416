"""Makes the source distribution and the wheel. Run by `make wheel`; both are in dist/ afterwards.

The wheel is built from the unpacked source distribution, so that what is missing in that is noticed. Modules of the
checkout that are built from the same sources with the same flags are taken over (setup.py's keys), not compiled again.
auditwheel puts the C libraries into the wheel. OpenSSL stays the system's: its security updates, its certificates and
its configuration are, and Python's own `ssl` uses the same one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheel"
DIST = ROOT / "dist"
OF_THE_SYSTEM = ("libssl.so.3", "libcrypto.so.3")
# What a wheel has inside: the Debian packages' names are in docs/howto/install.md.
BUNDLED = ("libllhttp", "libnghttp2", "libre2", "libsodium", "libyaml")
NEEDED = (
    "lb/__init__.py",
    "lb/errors.py",
    "lb/cli/__init__.py",
    "backend/__init__.py",
    "lb/py.typed",
    "lb/balancing/policy.pyi",
    "lb/endpoints/set.pyi",
)
MOST_BYTES = 40_000_000  # installed


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def source_distribution() -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", DIST, ".")
    return max(DIST.glob("tidegate-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def unpacked(archive: Path) -> Path:
    """The folder with its files, and with what the checkout has built."""
    with tarfile.open(archive) as files:
        files.extractall(WORK, filter="data")
    folder = WORK / archive.name.removesuffix(".tar.gz")
    for path in ROOT.glob("lb/**/*.so"):
        if (folder / path.relative_to(ROOT)).parent.is_dir():
            shutil.copy2(path, folder / path.relative_to(ROOT))
    if (ROOT / "build" / "keys").exists():
        shutil.copytree(ROOT / "build" / "keys", folder / "build" / "keys")
    return folder


def wheel(folder: Path) -> Path:
    """The wheel of a source tree, with the C libraries inside."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", WORK / "plain", ".", cwd=folder)
    [plain] = (WORK / "plain").glob("*.whl")
    excluded = [word for library in OF_THE_SYSTEM for word in ("--exclude", library)]
    repair = [sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", WORK / "repaired", plain]
    run(*repair)
    [repaired] = (WORK / "repaired").glob("*.whl")
    return Path(shutil.copy2(repaired, DIST))


def compiled_modules() -> list[str]:
    """Paths of the checkout's compiled modules, without what follows the name."""
    sources = [*ROOT.glob("lb/**/*.pyx"), *(p for p in ROOT.glob("lb/**/*.pxd") if p.with_suffix(".py").exists())]
    return sorted(str(p.relative_to(ROOT).with_suffix("")) for p in sources if p.stem != "__init__")


def faults(path: Path, modules: Iterable[str]) -> Iterator[str]:
    """A line for each thing that is wrong with a wheel, which should have the compiled `modules`."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    size = sum(entry.file_size for entry in entries)
    if size > MOST_BYTES:
        yield f"{size} bytes installed, more than {MOST_BYTES}"
    expected = {"lb", "backend", "tidegate.libs"}
    for top in sorted({name.split("/")[0] for name in names} - expected):
        if not top.endswith(".dist-info"):
            yield f"{top} does not belong into it"
    for name in names:
        if Path(name).suffix in {".pyx", ".pxd", ".c", ".cpp", ".h"}:
            yield f"{name} is a source"
    for name in NEEDED:
        if name not in names:
            yield f"{name} is missing"
    built = {name.partition(".")[0] for name in names if name.endswith(".so") and name.startswith("lb/")}
    for module in modules:
        if module not in built:
            yield f"{module}.so is missing"
    libraries = [name.removeprefix("tidegate.libs/") for name in names if name.startswith("tidegate.libs/")]
    for library in BUNDLED:
        if not any(name.startswith(library) for name in libraries):
            yield f"{library} is missing"
    for library in libraries:
        if library.startswith(("libssl", "libcrypto")):
            yield f"{library} is the system's"


def main() -> int:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    DIST.mkdir(exist_ok=True)
    made = wheel(unpacked(source_distribution()))
    found = list(faults(made, compiled_modules()))
    for line in found:
        print(f"{made.name}: {line}", file=sys.stderr)
    with zipfile.ZipFile(made) as archive:
        installed = sum(entry.file_size for entry in archive.infolist())
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB, {installed / 1e6:.1f} MB installed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
