"""`tidegate check`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lb.cli.own_daemon import OwnDaemon
from lb.config.schema.file import Config
from lb.control.configuration import load_configuration
from lb.control.preflight import Preflight, certificate_warnings, lined


def check(path: Path, own: OwnDaemon | None = None) -> Config:
    """The configuration in the file `path`, once its warnings are on standard error. Raises ConfigError.

    The addresses of the daemon `own` are not warned of; by default it is the one that runs the file.
    """
    preflight = Preflight((own or OwnDaemon(path)).has)
    warnings = preflight.warnings
    try:
        loaded = load_configuration(path, more=[preflight.check])
        warnings += certificate_warnings(loaded.certificates, time.time())
    finally:
        for line in lined(path, warnings):
            print(line, file=sys.stderr)
    return loaded.config
