"""`python -m backend serve --models DIR --listen ADDR`, and `python -m backend cache` for the model cache.

Standard output gets one line `listening on ADDR` for each address, and the line `ready` once the models are loaded; the
log goes to standard error. Exit status: 0 after
an orderly stop, 1 with one line `error: …` when the server cannot start or become ready, 2 for a wrong command line.
"""

from __future__ import annotations

import logging
import os
import sys

from backend.errors import StartError
from backend.options import parse
from backend.parent import die_with_parent, ignore_signals_of_the_parent

log = logging.getLogger("tidegate.backend")


def main() -> int:
    if sys.argv[1:2] == ["cache"]:
        from backend.cache.commands import main as cache

        return cache(sys.argv[2:])
    options = parse()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        if options.die_with_parent is not None:
            ignore_signals_of_the_parent()
            die_with_parent(options.die_with_parent)
        # Imported late: these take a second, in which the parent's death must already count.
        import uvloop

        from backend.server import Outcome, serve
        from lb.net.heap import keep_large_blocks

        try:
            keep_large_blocks()
        except OSError as error:
            log.warning("%s: with another allocator, large tensors may cost more", error)
        outcome: Outcome = uvloop.run(serve(options))
    except StartError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if outcome.stuck:
        log.warning("a run or a load did not finish in time; leaving it behind")
        sys.stdout.flush()
        os._exit(outcome.status)  # a normal exit would wait for the thread
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
