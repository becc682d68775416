"""Processes for test_buckets.py, run as a script: `bucket_children.py MODE SEGMENT_FD ...`. Prints a line of JSON.

hammer CHILDREN TIMES BURST        children take from one bucket, all at once: how many each got
fresh CHILDREN KEYS BURST          children take twice from each of KEYS buckets that nobody has used: admitted by key
storm CHILDREN KILLS BURST         children take without end and are killed at random moments: how many were admitted
"""

import json
import mmap
import os
import random
import signal
import sys
import time

from compiled.shared_segment import take_tokens

from lb.shared.buckets import Buckets
from lb.shared.segment import Segment

NOW = 10**12
INTERVAL = 1_000_000


def attach(fd, worker):
    return Buckets(Segment.attach(os.dup(fd), worker))


def together(children, work):
    """Runs `work(number, wait)` in processes that begin at once when they call `wait`; what each returned."""
    gate_out, gate_in = os.pipe()
    readers = []
    for number in range(children):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_in)
            result = work(number, lambda: os.read(gate_out, 1))
            os.write(writer, json.dumps(result).encode())
            os._exit(0)
        os.close(writer)
        readers.append((pid, reader))
    os.close(gate_out)
    time.sleep(0.2)  # until all of them wait
    os.close(gate_in)
    results = []
    for pid, reader in readers:
        with os.fdopen(reader, "rb") as stream:
            results.append(json.loads(stream.read()))
        assert os.waitpid(pid, 0)[1] == 0
    return results


def hammer(fd, children, times, burst):
    def work(number, wait):
        buckets = attach(fd, number)
        key = buckets.key(b"one")
        wait()
        return take_tokens(buckets, key, INTERVAL, burst, NOW, times)

    return together(children, work)


def fresh(fd, children, keys, burst):
    def work(number, wait):
        buckets = attach(fd, number)
        names = [buckets.key(b"fresh-%d" % i) for i in range(keys)]
        wait()
        return [take_tokens(buckets, key, INTERVAL, burst, NOW, 2) for key in names]

    return [sum(column) for column in zip(*together(children, work), strict=True)]


def storm(fd, children, kills, burst):
    """The children's time stands still, so that the whole storm may not get more than the burst."""
    counters = memoryview(mmap.mmap(-1, 4096)).cast("Q")  # what each was admitted, and said so

    def start(number):
        pid = os.fork()
        if pid == 0:
            buckets = attach(fd, number)
            key = buckets.key(b"storm")
            count = counters[number]
            while True:
                count += take_tokens(buckets, key, INTERVAL, burst, NOW, 1)
                counters[number] = count  # one store, unlike struct.pack_into
                take_tokens(buckets, buckets.key(b"other-%d" % random.randrange(10_000)), INTERVAL, burst, NOW, 1)
        return pid

    pids = [start(number) for number in range(children)]
    for _ in range(kills):
        time.sleep(random.random() * 0.01)
        victim = random.randrange(children)
        os.kill(pids[victim], signal.SIGKILL)
        os.waitpid(pids[victim], 0)
        pids[victim] = start(victim)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return sum(counters[:children])


if __name__ == "__main__":
    mode, arguments = sys.argv[1], [int(argument) for argument in sys.argv[2:]]
    print(json.dumps({"hammer": hammer, "fresh": fresh, "storm": storm}[mode](*arguments)))
