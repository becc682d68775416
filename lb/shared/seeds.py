"""Where generators of random numbers begin: at the kernel's randomness, or in a simulation at a repeatable sequence."""

from __future__ import annotations

import secrets
from random import Random

_repeated: Random | None = None


def draw() -> int:
    """64 bits to begin at, never 0: xorshift never leaves that state."""
    return (secrets.randbits(64) if _repeated is None else _repeated.getrandbits(64)) or 1


def repeat(seed: int | None) -> None:
    """From now on all seeds that this process draws follow from `seed`; None: they are the kernel's again."""
    global _repeated
    _repeated = None if seed is None else Random(seed)  # noqa: S311
