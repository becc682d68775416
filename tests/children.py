"""Python processes that tests start: scripts beside them, or code in a string."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
# With it, a child imports what tests import: this tree, and the helpers in this folder.
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
