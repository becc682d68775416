"""An open-loop load generator: requests are sent when a schedule says so, never because an answer came.

A closed loop (wrk, most home-made scripts) waits for an answer before it sends the next request, so a server that
stalls also stops the load, and the requests that users would have sent meanwhile are never counted: coordinated
omission. Here a request's latency runs from the moment it was *meant* to be sent until its answer is whole, wherever
it had to wait. Sources: Gil Tene, "How NOT to Measure Latency" (2013); wrk2; HdrHistogram.

`python -m bench.load SPEC.json` runs a `Spec` and prints a `Report`; `python -m bench.load run …` is for people.
"""

from bench.load.arrivals import Arrivals, Constant, Poisson, Steps, Trace
from bench.load.invoke import command, parse
from bench.load.report import Report, Series
from bench.load.request import Request, frame
from bench.load.runner import run
from bench.load.spec import Spec, Tls

__all__ = [
    "Arrivals",
    "Constant",
    "Poisson",
    "Report",
    "Request",
    "Series",
    "Spec",
    "Steps",
    "Tls",
    "Trace",
    "command",
    "frame",
    "parse",
    "run",
]
