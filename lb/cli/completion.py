"""`tidegate completion`: the script by which a shell completes commands, options and names of files."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `shell`, one of SHELLS, of all commands that `parser` has. An option that takes a path completes
    names of files."""
    _complete_paths(parser)
    text: str = shtab.complete(parser, shell)
    return text


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # argparse has no public list of them; shtab reads the same one
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_paths(below)
