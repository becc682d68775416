"""Reading files that a configuration names. A named pipe or a device among them would hold the daemon."""

from __future__ import annotations

import errno
import os
import stat
from codecs import BOM_UTF8
from pathlib import Path


def read_regular(path: Path, limit: int = -1) -> bytes:
    """What the regular file `path` holds, of more than `limit` bytes only so many. Raises OSError."""
    # Without O_NONBLOCK the opening of a named pipe waits for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, os.strerror(code) if code == errno.EISDIR else "is not a regular file", str(path))
        return stream.read(limit)


def without_bom(content: bytes) -> bytes:
    """The content of a text file without the byte order mark of UTF-8, which some editors write in front of it."""
    return content.removeprefix(BOM_UTF8)
