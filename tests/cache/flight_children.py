"""Processes for test_flight_processes.py, run as a script: `flight_children.py MODE SEGMENT_FD ...`. Each is a worker.

  hammer CHILDREN ROUNDS  children ask for the same new key at once, ROUNDS times
  storm KILLS CHILDREN    children ask for few keys without end; each is killed at a random moment and replaced
  steps STRIDE            a child that leads is killed after every STRIDE-th instruction, while this process follows it
Prints a line of JSON. A child that reads a wrong value, or waits in vain, ends with status 3, and the script with 1.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time

from cache_children import LIFE, WRONG, Tracer, attach, fork, is_right, key_of, make_value, store
from compiled.result_cache import get_bytes, put_bytes
from compiled.shared_flights import claims, end, join, look, open_flights

from lb.cache.shared_flights import SharedFlights

PATIENCE = 20.0  # s


def ask(cache, flights, key, rng):
    """Get the answer as a worker does: (it is right, the backend was called)."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        value = get_bytes(cache, key, time.monotonic_ns())
        if value is not None:
            return is_right(key, value), False
        part = join(flights, key, time.monotonic_ns())
        if part == "leads":
            value = get_bytes(cache, key, time.monotonic_ns())
            called = value is None
            if called:
                value = make_value(key, rng)
                store(cache, key, value, time.monotonic_ns())
            end(flights, key)
            return is_right(key, value), called
        while part == "follows" and look(flights, key, time.monotonic_ns()) == "goes on":
            if time.monotonic() > until:
                return False, False
    return False, False


def calls_of(fd, worker, rounds, report):
    """Everybody asks for round N's key before anybody asks for that of N + 1."""
    cache = attach(fd, worker)
    flights, rng = SharedFlights(cache, None), random.Random(worker)
    calls = 0
    for number in range(rounds):
        right, called = ask(cache, flights, key_of(number), rng)
        if not right:
            return WRONG
        calls += called
    os.write(report, b"%d\n" % calls)
    return 0


def hammer(fd, children, rounds):
    reader, writer = os.pipe()
    pids = [fork(calls_of, fd, worker, rounds, writer) for worker in range(children)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(writer)
    with os.fdopen(reader) as lines:
        calls = [int(line) for line in lines]
    return {"statuses": statuses, "calls": calls, "open": open_flights(attach(fd, -1))}


def work(fd, worker, seed):
    """Ask without end. Answers are dropped now and then, so that there are flights."""
    cache = attach(fd, worker)
    flights, rng = SharedFlights(cache, None), random.Random(seed)
    while True:
        key = key_of(rng.randrange(4))
        if rng.random() < 0.3:
            cache.drop(key, time.monotonic_ns())
        if not ask(cache, flights, key, rng)[0]:
            return WRONG


def storm(fd, kills, children):
    rng = random.Random(kills)
    running = {worker: fork(work, fd, worker, worker) for worker in range(children)}
    statuses = set()
    for serial in range(kills):
        # The moment of the kill is what is random here, nothing waits for anything.
        time.sleep(rng.random() * 0.006)
        worker = rng.randrange(children)
        os.kill(running[worker], signal.SIGKILL)
        statuses.add(os.waitstatus_to_exitcode(os.waitpid(running[worker], 0)[1]))
        running[worker] = fork(work, fd, worker, 1000 + serial)
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"statuses": sorted(statuses)}


def steps(fd, stride):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # every step is two switches: cheaper on one CPU
    tracer, rng = Tracer(), random.Random(1)
    master, cache = attach(fd, -1), attach(fd, 1)
    flights = SharedFlights(cache, None)
    wrong, deaths, after = [], 0, 0
    found = {"answer": 0, "nothing": 0}
    while True:
        key = key_of(after)
        nonce = rng.randbytes(8)
        value = nonce + hashlib.shake_128(key + nonce).digest(1500)
        now = time.monotonic_ns()

        def lead(cache, key=key, value=value, now=now):
            own = SharedFlights(cache, None)

            def act():
                join(own, key, now)
                put_bytes(cache, key, value, now, LIFE)
                end(own, key)

            return act

        child = tracer.stopped(fd, 0, lead)
        alive, part = True, ""
        for _ in range(after):
            alive = tracer.step(child)
            if not alive:
                break
            if not part and any(claims(cache, key)):
                part = join(flights, key, now)
        if alive:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        master.release_flights(0)
        master.recover(now + LIFE // 10**6)
        if part and part != "follows":
            wrong.append(f"{after}: {part} beside the leader")
        if look(flights, key, now) == "goes on":
            wrong.append(f"{after}: it follows the dead")
        answer = get_bytes(cache, key, now)
        if answer not in (None, value):
            wrong.append(f"{after}: a wrong answer")
        if part:
            found["nothing" if answer is None else "answer"] += 1
        if join(flights, key, now) != "leads":
            wrong.append(f"{after}: it cannot take over")
        end(flights, key)
        if open_flights(cache):
            wrong.append(f"{after}: a flight is left")
        if not alive:
            return {"deaths": deaths, "wrong": wrong, "found": found}
        deaths += 1
        after += stride


def main():
    mode, fd, *arguments = sys.argv[1:]
    result = {"hammer": hammer, "storm": storm, "steps": steps}[mode](int(fd), *map(int, arguments))
    print(json.dumps(result))
    return int(WRONG in result.get("statuses", ()))


if __name__ == "__main__":
    sys.exit(main())
