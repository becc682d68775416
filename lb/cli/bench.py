"""`tidegate bench`: the bench suite, which is a package of its own that the load balancer does not import."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from lb.errors import TidegateError

# Libraries of the `bench` extra without which its command line does not start.
_NEEDED = ("hdrh", "httptools", "matplotlib", "ngh2", "trustme", "typer")


def bench(arguments: Sequence[str]) -> None:
    """Replaces this process by the bench. Raises TidegateError if it is not installed."""
    missing = [name for name in ("bench", *_NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        raise TidegateError(
            f"the bench suite is not installed ({', '.join(missing)} missing): it is part of the source tree, "
            "where `make dev` prepares it and `make bench` runs it"
        )
    os.execv(sys.executable, [sys.executable, "-m", "bench", *arguments])  # noqa: S606
