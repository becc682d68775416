"""`python -m lb.control.workers` is the fork server, which the master starts.

It loads with the collector at rest, which would look at all that is loaded again and again: a seventh of the time. The
server's `main` switches the collector on.
"""

import gc
import sys

if __name__ == "__main__":
    gc.disable()

    from lb.control.workers.worker import main

    sys.exit(main())
