"""`make run`: the daemon in the foreground, with a tour of a few predictions once it is ready."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from lb.cli.run import SERVICES, run
from lb.cli.tour import Tour
from lb.errors import TidegateError


def demo(
    config: Annotated[Path, typer.Option("--config", "-c")] = Path("configs/demo.yaml"),
    samples: Annotated[Path, typer.Option("--samples")] = Path("examples/digits/samples.json"),
) -> None:
    """Serve CONFIG and show a few predictions of SAMPLES; Ctrl-C drains and stops."""
    try:
        status = run(config, services=(*SERVICES, functools.partial(Tour, samples=samples)))
    except TidegateError as error:
        sys.exit(f"tidegate: {error}")
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(demo)
