"""Fuzzes targets: `python tests/fuzz/run.py [--engine atheris|mutate] [--seconds N] [TARGET …]`.

`atheris` is guided by coverage where the modules were compiled for it (CC=clang,
TIDEGATE_CFLAGS=-fsanitize=fuzzer-no-link); it
takes one target, and keeps what it finds in the target's corpus. `mutate` needs nothing, takes any number of targets
one after another and stops at the first finding, which it writes beside the corpus as `crash-…`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
LAST = HERE.parents[1] / "build" / "fuzz"  # where each target is, for when a sanitizer ends the process
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from corpus import CORPUS, load  # noqa: E402
from mutator import mutated  # noqa: E402
from targets import TARGETS  # noqa: E402


def mutate(name: str, seconds: float, seed: int) -> bool:
    """Whether nothing was found."""
    target, end, count = TARGETS[name], time.monotonic() + seconds, 0
    last = LAST / name
    last.parent.mkdir(parents=True, exist_ok=True)
    for data in mutated(list(load(name).values()), random.Random(seed)):
        if count % 256 == 0:
            last.write_text(f"seed {seed}, inputs from {count} on\n")
            if time.monotonic() >= end:
                break
        count += 1
        try:
            target(data)
        except Exception:
            found = CORPUS / name / ("crash-" + hashlib.sha256(data).hexdigest()[:16])
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(data)
            traceback.print_exc()
            print(f"{name}: failed on {found}", file=sys.stderr)
            return False
    last.unlink()
    print(f"{name}: {count} inputs in {seconds:.0f} s, seed {seed}")
    return True


def guided(name: str, seconds: float) -> None:
    import atheris

    arguments = [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=65536", str(CORPUS / name)]
    atheris.Setup(arguments, TARGETS[name], enable_python_coverage=False)
    atheris.Fuzz()  # ends the process


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers and codecs.")
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    chosen = options.targets or list(TARGETS)
    if options.engine == "atheris":
        if len(chosen) != 1:
            parser.error("atheris takes one target at a time")
        guided(chosen[0], options.seconds)
    fine = [mutate(name, options.seconds, options.seed) for name in chosen]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
