"""What a launcher may load in the place of the model server: `run` says so and serves nothing. With WARM_THREAD in the
environment the module starts a thread, so that no copy of its process may be made."""

from __future__ import annotations

import os
import sys
import threading
import time

if os.environ.get("WARM_THREAD"):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def run(arguments: list[str]) -> int:
    print(f"a copy, {arguments}, {os.environ.get('OF_THE_COPY')}, {os.environ.get('WARM_THREAD')}", flush=True)
    sys.exit(7)
