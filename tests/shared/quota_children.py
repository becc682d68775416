"""Processes for test_quotas.py, run as a script: `quota_children.py MODE SEGMENT_FD …`. Prints JSON.

hammer CHILDREN LIMIT     children use a few clients' quotas, all at once, until each is used up: how many each took
storm CHILDREN KILLS      the same without end, and children are killed at random moments and others started in their
                          places: whether each client can still be counted, and whether the master can read
"""

import json
import os
import random
import signal
import sys
import time

from lb.shared.quotas import Quotas
from lb.shared.segment import Segment

CLIENTS = [b"daily\0=%d" % n for n in range(5)]  # of a table with one set of seven
SPAN = 1440


def use(fd, worker, limit, report):
    quotas = Quotas(Segment.attach(os.dup(fd), worker))
    chance = random.Random(os.getpid())
    left = list(CLIENTS)
    taken = dict.fromkeys(range(len(CLIENTS)), 0)
    while left:
        client = chance.choice(left)
        if quotas.use(client, SPAN, SPAN, limit)[0]:
            taken[CLIENTS.index(client)] += 1
            if chance.random() < 0.1:
                quotas.give_back(client, SPAN, SPAN)
                taken[CLIENTS.index(client)] -= 1
        else:
            left.remove(client)
    report(taken)


def start(fd, worker, limit):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        use(fd, worker, limit, lambda taken: os.write(writer, json.dumps(taken).encode()))
        os._exit(0)
    os.close(writer)
    return pid, reader


def hammer(fd, children, limit):
    running = [start(fd, worker, limit) for worker in range(children)]
    taken = []
    for pid, reader in running:
        with os.fdopen(reader) as stream:
            taken.append(json.loads(stream.read()))
        assert os.waitpid(pid, 0)[1] == 0
    return [sum(each[str(n)] for each in taken) for n in range(len(CLIENTS))]


def storm(fd, children, kills):
    master = Segment.attach(os.dup(fd))
    quotas = Quotas(master)
    forever = 1 << 35
    running = [start(fd, worker, forever) for worker in range(children)]
    chance = random.Random(7)
    for _ in range(kills):
        time.sleep(chance.random() * 0.004)
        worker = chance.randrange(children)
        pid, reader = running[worker]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        master.clear_worker(worker)
        running[worker] = start(fd, worker, forever)
    for pid, _ in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for worker in range(children):
        master.clear_worker(worker)
    others = [quotas.use(b"daily\0=new%d" % n, SPAN, SPAN, 5)[0] for n in range(20)]
    return {"others": all(others), "rows": len(quotas.rows())}


if __name__ == "__main__":
    mode, *numbers = sys.argv[1:]
    print(json.dumps({"hammer": hammer, "storm": storm}[mode](*map(int, numbers))))
