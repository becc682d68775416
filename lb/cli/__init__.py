"""The `tidegate` command."""

from lb.cli.app import main

__all__ = ["main"]
