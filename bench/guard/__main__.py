"""`python -m bench.guard`."""

import sys

from bench.guard.cli import main

sys.exit(main())
