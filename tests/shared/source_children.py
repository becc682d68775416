"""Processes for test_shared_sources.py, run as a script: `source_children.py MODE SEGMENT_FD …`. Prints JSON.

hammer CHILDREN TIMES LIMIT     children come and go, all at once, under a few keys: the most that a key ever had, and
                                how many are left of each
storm CHILDREN KILLS LIMIT      the same, and children are killed at random moments, their columns cleared and others
                                started in their places
"""

import json
import os
import random
import signal
import sys
import time

from lb.shared.segment import Segment
from lb.shared.source_counts import SharedSources

KEYS = 12  # of a table with one set of seven


def come_and_go(segment, limit, times, report):
    """Adds and removes; `report(most)` of what was seen while it was itself one of them."""
    table = SharedSources(segment)
    keys = [table.key(1, n) for n in range(KEYS)]
    chance = random.Random(os.getpid())
    most = 0
    held = []
    for _ in range(times):
        key = chance.choice(keys)
        if held and chance.random() < 0.5:
            table.remove(held.pop(chance.randrange(len(held))))
        elif table.add(key, 1, limit) == 0:
            held.append(key)
            most = max(most, table.count(key))
    for key in held:
        table.remove(key)
    report(most)


def start(fd, worker, limit, times):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        segment = Segment.attach(os.dup(fd), worker)
        come_and_go(segment, limit, times, lambda most: os.write(writer, b"%d\n" % most))
        os._exit(0)
    os.close(writer)
    return pid, reader


def hammer(fd, children, times, limit):
    running = [start(fd, worker, limit, times) for worker in range(children)]
    most = []
    for pid, reader in running:
        with os.fdopen(reader) as stream:
            most.append(int(stream.read()))
        assert os.waitpid(pid, 0)[1] == 0
    return {"most": most}


def storm(fd, children, kills, limit):
    master = Segment.attach(os.dup(fd))
    forever = 1 << 40
    running = [start(fd, worker, limit, forever) for worker in range(children)]
    chance = random.Random(7)
    for _ in range(kills):
        time.sleep(chance.random() * 0.004)
        worker = chance.randrange(children)
        pid, reader = running[worker]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        master.clear_worker(worker)
        running[worker] = start(fd, worker, limit, forever)
    for worker, (pid, reader) in enumerate(running):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        master.clear_worker(worker)
    return {}


if __name__ == "__main__":
    mode, *numbers = sys.argv[1:]
    print(json.dumps({"hammer": hammer, "storm": storm}[mode](*map(int, numbers))))
