"""What scaling rules have learned, kept over restarts in the service manager's state folder (STATE_DIRECTORY)."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path

from lb.scaling.scaler import Scaler

log = logging.getLogger("tidegate.scaling")

_FORMAT = b"tidegate scaling 1 "


def state_directory() -> Path | None:
    """The first folder of STATE_DIRECTORY; None where that is not set."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else None


class ScalingMemory:
    """The memory of one pool's rule, in a file of `folder`. Without a folder nothing is kept, which the log says once
    there is something to keep."""

    def __init__(self, pool: str, folder: Path | None) -> None:
        self.pool = pool
        self.path = None if folder is None else folder / f"scaling-{pool}"
        self._saved = b""
        self._told = False

    def restore(self, rule: Scaler) -> bool:
        """Have a rule take over what an earlier process has kept of it; whether there was something."""
        if self.path is None:
            return False
        try:
            kept = self.path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("pool %s: %s cannot be read: %s", self.pool, self.path, error.strerror)
            return False
        head, _, memory = kept.partition(b"\n")
        if head != _head(rule.name):
            log.info("pool %s: %s is of another rule and not used", self.pool, self.path)
            return False
        try:
            rule.restore(memory)
        except ValueError as error:
            log.warning("pool %s: %s is damaged and not used: %s", self.pool, self.path, error)
            return False
        self._saved = kept
        log.info("pool %s: what was learned is taken over from %s", self.pool, self.path)
        return True

    def save(self, rule: str, memory: bytes) -> None:
        """Keep the memory of the rule of that name; the file is the old one or the new one, whatever happens. Blocks on
        the file system."""
        if not memory:
            return
        if self.path is None:
            if not self._told:
                self._told = True
                log.info("pool %s: what scaling learns is lost by a restart: STATE_DIRECTORY is not set", self.pool)
            return
        whole = _head(rule) + b"\n" + memory
        if whole == self._saved:
            return
        try:
            replace_file(self.path, whole)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("pool %s: %s cannot be written: %s", self.pool, self.path, error.strerror)
            return
        self._saved, self._told = whole, False

    def describe(self) -> str | None:
        """The file's path; None where nothing is kept in it."""
        return str(self.path) if self._saved else None


def _head(rule: str) -> bytes:
    return _FORMAT + rule.encode()


def replace_file(path: Path, content: bytes) -> None:
    """The file has `content`, or what it had, whatever happens. Blocks; raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
