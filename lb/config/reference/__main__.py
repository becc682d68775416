"""`python -m lb.config.reference [--check]`."""

import sys

from lb.config.reference.page import main

sys.exit(main(sys.argv[1:]))
