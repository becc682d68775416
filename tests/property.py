"""How many examples a property test tries."""

from __future__ import annotations

import os

from hypothesis import settings

SHARE = 4 if os.environ.get("TIDEGATE_FAST_TESTS") else 1  # `make test-fast` tries a quarter


def examples(most: int) -> settings:
    return settings(max_examples=-(-most // SHARE))
