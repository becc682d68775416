"""`python -m bench.model_servers.others FOLDER` installs the other model servers, each into an environment below it."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.errors import BenchError
from bench.model_servers.others.environments import make
from bench.model_servers.others.servers import OTHERS


def main() -> int:
    for other in OTHERS:
        try:
            make(Path(sys.argv[1]), other.environment)
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
