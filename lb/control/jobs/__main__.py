"""`python -m lb.control.jobs` is the jobs process, which the master starts."""

import sys

if __name__ == "__main__":
    from lb.control.jobs.agent import main

    sys.exit(main())
