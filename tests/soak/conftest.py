"""The daemon of tests/e2e and the attackers of tests/hostile, for the soak."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.append(str(Path(__file__).parents[1] / "hostile"))
