"""What runs under callgrind: `python -m bench.guard.driver PATH --warmup N --requests N`.

Between the two marks lie exactly the requests that are counted. Prints `done` when all went well.
"""

from __future__ import annotations

import argparse
import gc
import sys

from bench.errors import BenchError
from bench.guard._mark import mark
from bench.guard.paths import PATHS
from lb.errors import TidegateError

DONE = "done"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guard.driver", description=__doc__)
    parser.add_argument("path", choices=PATHS)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    # The collector would run at moments that the driver's own objects decide.
    gc.disable()
    try:
        run = PATHS[options.path].start()
        try:
            run.repeat(options.warmup)
            mark()
            run.repeat(options.requests)
            mark()
        finally:
            run.close()
    except (BenchError, TidegateError) as error:
        print(f"{options.path}: {error}", file=sys.stderr)
        return 1
    print(DONE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
