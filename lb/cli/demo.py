"""`make run`: the daemon in the foreground, with a tour of a few predictions once it is ready."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from lb.cli.run import SERVICES, run
from lb.cli.tour import Tour
from lb.errors import TidegateError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lb.cli.demo",
        description="Serve a configuration and show a few predictions of samples; Ctrl-C drains and stops.",
    )
    parser.add_argument("--config", "-c", metavar="FILE", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--samples", metavar="FILE", type=Path, default=Path("examples/digits/samples.json"))
    options = parser.parse_args()
    try:
        return run(options.config, services=(*SERVICES, functools.partial(Tour, samples=options.samples)))
    except TidegateError as error:
        sys.exit(f"tidegate: {error}")


if __name__ == "__main__":
    sys.exit(main())
