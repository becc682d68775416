"""`python -m lb.cli` is `tidegate`."""

import sys

from lb.cli import main

sys.exit(main())
