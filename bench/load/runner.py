"""Running a spec in this process, on an event loop of its own."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import threading
from array import array
from collections.abc import Callable

import uvloop

from bench.errors import BenchError
from bench.load import arrivals
from bench.load.engine import Engine
from bench.load.report import Report
from bench.load.spec import Spec

_OTHER_DESCRIPTORS = 64
_ENDING = (signal.SIGINT, signal.SIGTERM)


def run(spec: Spec, measuring: Callable[[], None] = lambda: None) -> Report:
    """Does the run and returns its report; `measuring` is called at the end of the warm-up.

    In the main thread, SIGINT or SIGTERM ends it early, still with a report: the first lets outstanding requests end,
    the second does not. Raises BenchError if it cannot begin.
    """
    sending = None if spec.duration_s is None else spec.duration_s + spec.cooldown_s
    schedule = arrivals.schedule(spec.arrivals, spec.seed, spec.warmup_s, sending)
    seconds = arrivals.length(spec.arrivals) if spec.duration_s is None else spec.duration_s
    if isinstance(spec.arrivals, (arrivals.Steps, arrivals.Trace)):
        seconds = min(seconds, arrivals.length(spec.arrivals))
    allow_descriptors(spec.connections + _OTHER_DESCRIPTORS)
    # What was made so far lives to the end: the collector need not look at it during the run.
    gc.collect()
    gc.freeze()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _ENDING} if main else {}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(spec, schedule, round(seconds * 1e9), measuring))
    finally:
        gc.unfreeze()
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run(spec: Spec, schedule: array[int], length_ns: int, measuring: Callable[[], None]) -> Report:
    engine = Engine(spec, schedule, length_ns, measuring)
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            loop.add_signal_handler(number, engine.stop)
    return await engine.run()


def allow_descriptors(number: int) -> None:
    """Raises the limit of open files to what the system allows. Raises BenchError if that is less than `number`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise BenchError(f"{number} open files are needed and {hard} allowed: raise the limit (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
