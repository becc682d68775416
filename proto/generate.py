"""Regenerates `lb/wire` from the `.proto` files beside this script: `python proto/generate.py [--check | --out DIR]`.

The generated modules are checked in, so that neither a build nor an installation needs the protobuf compiler. The
`.proto` files import each other by bare name, as every user of them expects; the generated modules live in the package
`lb.wire`, so their imports of each other are rewritten to it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.resolve()
TARGET = HERE.parent / "lb" / "wire"
PACKAGE = "lb.wire"
# The files that declare a service: only these need the module of the gRPC plug-in.
SERVICES = {"grpc_service", "orca_service"}


def rewrite_imports(source: str, modules: set[str]) -> str:
    """`import x_pb2` becomes `from lb.wire import x_pb2` for the modules generated here, in code and stubs."""
    names = "|".join(sorted(modules))
    return re.sub(rf"^import ({names})( as \w+)?$", rf"from {PACKAGE} import \1\2", source, flags=re.MULTILINE)


def generate(out: Path) -> list[Path]:
    """Writes the modules and stubs of every `.proto` file into `out` and returns their paths, sorted.

    Raises RuntimeError when the protobuf compiler refuses a file; it has said why on stderr.
    """
    from grpc_tools import protoc

    protos = sorted(HERE.glob("*.proto"))
    include = str(Path(protoc.__file__).parent / "_proto")
    written = []
    for proto in protos:
        arguments = ["protoc", f"-I{HERE}", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}"]
        written += [out / f"{proto.stem}_pb2.py", out / f"{proto.stem}_pb2.pyi"]
        if proto.stem in SERVICES:
            arguments.append(f"--grpc_python_out={out}")
            written.append(out / f"{proto.stem}_pb2_grpc.py")
        if protoc.main([*arguments, str(proto)]):
            raise RuntimeError(f"protoc failed on {proto.name}")
    modules = {f"{proto.stem}_pb2" for proto in protos}
    for path in written:
        path.write_text(rewrite_imports(path.read_text(), modules))
    return sorted(written)


def differences() -> list[str]:
    """Names of the checked-in files that differ from a fresh generation, are missing, or are no longer generated."""
    with tempfile.TemporaryDirectory() as name:
        fresh = {path.name: path.read_text() for path in generate(Path(name))}
    checked_in = {path.name: path.read_text() for path in TARGET.glob("*_pb2*.py*")}
    return sorted(name for name in fresh.keys() | checked_in.keys() if fresh.get(name) != checked_in.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Regenerate lb/wire from proto/*.proto.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="write nothing; exit 1 when lb/wire is out of date")
    group.add_argument("--out", type=Path, default=TARGET, help="directory to write to (default: lb/wire)")
    arguments = parser.parse_args()
    if arguments.check:
        stale = differences()
        for name in stale:
            print(f"lb/wire/{name} is out of date; run: python proto/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for path in generate(arguments.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
