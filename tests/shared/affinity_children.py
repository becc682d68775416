"""Processes for test_affinity_table.py, run as a script: `affinity_children.py MODE SEGMENT_FD CHILDREN NUMBER`. Prints
JSON.

same CHILDREN TIMES      children pin, find and drop one key, all at once, each to its own slot: how often something was
                         found that is none of their slots
storm CHILDREN KILLS     children pin and drop keys of one set without end and are killed at random moments
"""

import contextlib
import json
import os
import random
import signal
import sys
import time

from bucket_children import together
from compiled.shared_segment import drop_entry, find_entry, put_entry, put_find_drop

from lb.shared.affinity_table import AffinityTable
from lb.shared.segment import Segment

NOW = 10**12
IDLE = 10**9


def attach(fd, worker):
    return AffinityTable(Segment.attach(os.dup(fd), worker))


def same(fd, children, times):
    def work(number, wait):
        table = attach(fd, number)
        key = table.key(b"one")
        wait()
        wrong = 0
        for _ in range(times):
            put_entry(table, key, number, NOW, IDLE)
            wrong += find_entry(table, key, NOW, IDLE) not in (-1, *range(children))
            drop_entry(table, key)
        return wrong

    return together(children, work)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -signal.SIGKILL, code


def storm(fd, children, kills):
    def start(number):
        pid = os.fork()
        if pid == 0:
            table = attach(fd, number)
            # A place tells whose it is by twelve bits of the key: two keys that share them cannot be told apart.
            keys = list({key >> 52: key for key in (table.key(b"key-%d" % i) for i in range(24))}.values())
            while True:
                key = random.choice(keys)
                if put_find_drop(table, key, key % 16, NOW, IDLE, 3):
                    os._exit(3)  # it found a place that is not this key's
        return pid

    pids = [start(number) for number in range(children)]
    try:
        for _ in range(kills):
            time.sleep(random.random() * 0.01)
            victim = random.randrange(children)
            end(pids[victim])
            pids[victim] = start(victim)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the one that has failed
                os.kill(pid, signal.SIGKILL)
    return kills


if __name__ == "__main__":
    mode, arguments = sys.argv[1], [int(argument) for argument in sys.argv[2:]]
    print(json.dumps({"same": same, "storm": storm}[mode](*arguments)))
