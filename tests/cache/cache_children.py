"""Processes for test_cache_processes.py, run as a script: `cache_children.py MODE SEGMENT_FD ...`.

A script, so that children are forked from a process with a single thread. Modes:
  storm KILLS CHILDREN   children put and get without end; each is killed at a random moment and replaced
  hammer CHILDREN OPS    children put and get OPS times each
  steps STRIDE VICTIM    a child is killed after every STRIDE-th instruction of its time with the lock, in which it puts
                         (VICTIM `put`), or empties a dead child's shard and puts (`break`); or a tag of its value is
                         purged then, and it goes on (`purged`)
  purge                  what a reader finds after every single instruction of a purge
Prints a line of JSON. A child that reads a wrong value ends with status 3, and the script with 1.
"""

import ctypes
import hashlib
import json
import os
import random
import signal
import sys
import time

from compiled.result_cache import Fill, get_bytes, lock_owner, put_bytes

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

LIFE = 10**15
WRONG = 3
KEYS = 400
LENGTHS = [0, 10, 423, 424, 425, 3000, 9000, 30_000]
TAG = b"model m, version 1"
SKIP = 77  # automake's code for a test that cannot run here


def key_of(number):
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def make_value(key, rng):
    """A value that proves itself: what it says follows from the key and its first eight bytes."""
    nonce = rng.randbytes(8)
    return nonce + hashlib.shake_128(key + nonce).digest(rng.choice(LENGTHS))


def is_right(key, value):
    return value[8:] == hashlib.shake_128(key + value[:8]).digest(len(value) - 8)


def attach(fd, worker):
    return ResultCache(Segment.attach(os.dup(fd), worker), 1 << 20)


def work(fd, worker, seed, operations):
    """Put and get at random, verifying; `operations` < 0 = without end."""
    cache = attach(fd, worker)
    rng = random.Random(seed)
    keys = [key_of(number) for number in range(KEYS)]
    values = {}
    while operations:
        operations -= 1
        key = rng.choice(keys)
        if rng.random() < 0.7:
            if key not in values or rng.random() < 0.05:
                values[key] = make_value(key, rng)
            if put_bytes(cache, key, values[key], time.monotonic_ns(), LIFE) < 0:
                return WRONG
        else:
            value = get_bytes(cache, key, time.monotonic_ns())
            if value is not None and not is_right(key, value):
                return WRONG
    return 0


def store(cache, key, value, now):
    """Put until it is kept: others may be worth more at first. What the last attempt gave."""
    for _ in range(5000):
        if outcome := put_bytes(cache, key, value, now, LIFE):
            return outcome
    return 0


def fork(function, *arguments):
    pid = os.fork()
    if pid:
        return pid
    status = 4
    try:
        status = function(*arguments)
    finally:
        os._exit(status)


def hammer(fd, children, operations):
    pids = [fork(work, fd, worker, worker, operations) for worker in range(children)]
    return {"statuses": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]}


def storm(fd, kills, children):
    rng = random.Random(kills)
    running = {worker: fork(work, fd, worker, worker, -1) for worker in range(children)}
    statuses, held = set(), 0
    cache = attach(fd, -1)
    probe = [key_of(number) for number in range(KEYS)]
    for serial in range(kills):
        # The moment of the kill is what is random here, nothing waits for anything.
        time.sleep(rng.random() * 0.006)
        worker = rng.randrange(children)
        os.kill(running[worker], signal.SIGKILL)
        statuses.add(os.waitstatus_to_exitcode(os.waitpid(running[worker], 0)[1]))
        held += any(lock_owner(cache, key) == running[worker] for key in probe[:16])
        running[worker] = fork(work, fd, worker, 1000 + serial, -1)
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"statuses": sorted(statuses), "died_holding": held}


TRACEME, CONT, SINGLESTEP = 0, 7, 9


class Tracer:
    def __init__(self):
        self.ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self.ptrace.restype = ctypes.c_long
        self.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def stopped_child(self, fd, worker, key, value):
        """A child that stops just before it puts, with this process as its tracer."""

        def put(cache):
            fill = Fill(cache, TAG, b"another")
            now = time.monotonic_ns()
            return lambda: put_bytes(cache, key, value, now + LIFE // 2, LIFE, fill)

        return self.stopped(fd, worker, put)

    def stopped(self, fd, worker, prepare):
        """A child that stops just before it does what `prepare` makes."""

        def body():
            act = prepare(attach(fd, worker))
            if self.ptrace(TRACEME, 0, None, None):
                return SKIP
            signal.raise_signal(signal.SIGSTOP)
            act()
            return 0

        pid = fork(body)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            sys.exit(SKIP if os.WEXITSTATUS(status) == SKIP else "the child could not start")
        return pid

    def step(self, pid):
        """One instruction; False when the child ended."""
        if self.ptrace(SINGLESTEP, pid, None, None):
            raise OSError(ctypes.get_errno(), "PTRACE_SINGLESTEP")
        _, status = os.waitpid(pid, 0)
        return os.WIFSTOPPED(status)

    def step_inside(self, cache, pid, key, steps):
        """Step the child until `steps` instructions after it took the lock: (it has the lock, it is alive)."""
        while lock_owner(cache, key) != pid:
            if not self.step(pid):
                sys.exit("the child ended without the lock")
        alive = True
        for _ in range(steps):
            alive = self.step(pid)
            if lock_owner(cache, key) != pid:
                break
        return lock_owner(cache, key) == pid, alive

    def kill_inside(self, cache, pid, key, steps):
        """Kill the child `steps` instructions after it took the lock; False when it had given it back by then."""
        inside, alive = self.step_inside(cache, pid, key, steps)
        if alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return inside

    def finish(self, pid):
        if self.ptrace(CONT, pid, None, None):
            raise OSError(ctypes.get_errno(), "PTRACE_CONT")
        os.waitpid(pid, 0)


def steps(fd, stride, victim):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # every step is two switches: cheaper on one CPU
    tracer, rng = Tracer(), random.Random(1)
    cache = attach(fd, -1)
    now = time.monotonic_ns()
    keys = [key_of(number) for number in range(60)]
    wrong, deaths, after = 0, 0, 0

    def check():
        """The number of wrong values, before and after the lock is broken."""
        return sum(
            value is not None and not is_right(key, value) for key in keys if [value := get_bytes(cache, key, now)]
        )

    while True:
        for key in keys:  # full, so that every put evicts
            put_bytes(cache, key, make_value(key, rng), now, LIFE)
        key = rng.choice(keys)
        nonce = rng.randbytes(8)
        value = nonce + hashlib.shake_128(key + nonce).digest(1500)
        if victim == "break":
            tracer.kill_inside(cache, tracer.stopped_child(fd, 0, key, value), key, 40)
        child = tracer.stopped_child(fd, 1, key, value)
        if victim == "purged":
            inside, alive = tracer.step_inside(cache, child, key, after)
            cache.purge(TAG)
            if alive:
                tracer.finish(child)
            wrong += get_bytes(cache, key, now) == value
        else:
            inside = tracer.kill_inside(cache, child, key, after)
        wrong += check()
        now += LIFE // 10**6  # past the time for which an owner is believed alive
        for other in keys[:5]:
            fresh = make_value(other, rng)
            if store(cache, other, fresh, now) != 1 or get_bytes(cache, other, now) != fresh:
                wrong += 1
        wrong += check() + (lock_owner(cache, key) != 0)
        if not inside:
            return {"deaths": deaths, "wrong": wrong}
        deaths += 1
        after += stride


def purge(fd):
    """A killed purge has happened or not: the entries of its tag are there all or not at all, others always."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tracer, rng = Tracer(), random.Random(1)
    cache = attach(fd, -1)
    keys = [key_of(number) for number in range(12)]
    values = [make_value(key, rng) for key in keys]
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        put_bytes(cache, key, value, 0, LIFE, Fill(cache, b"kept", TAG if number % 2 else b"other"))
    child = tracer.stopped(fd, 1, lambda cache: lambda: cache.purge(TAG))
    seen = []
    # Looked at by `has`, which leaves the entries alone.
    while tracer.step(child):
        found = [cache.has(key, 1) for key in keys]
        if not seen or seen[-1] != found:
            seen.append(found)
    return {"seen": seen}


def main():
    mode, fd, *arguments = sys.argv[1:]
    if mode == "hammer":
        result = hammer(int(fd), *map(int, arguments))
    elif mode == "storm":
        result = storm(int(fd), *map(int, arguments))
    elif mode == "purge":
        result = purge(int(fd))
    else:
        result = steps(int(fd), int(arguments[0]), arguments[1])
    print(json.dumps(result))
    return int(WRONG in result.get("statuses", ()))


if __name__ == "__main__":
    sys.exit(main())
