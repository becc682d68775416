"""Jobs that are accepted: each is in the file, by fsync, before its client is answered, and runs beside the next."""

from __future__ import annotations

from bench.bed import Answer, Bed, warnings
from bench.load.request import Request
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios import proxy_http1
from bench.scenarios.base import Measure, Scenario
from bench.scenarios.measures import Expect
from bench.servers import FixedHttp
from bench.wrk import Wrk

SECONDS = 5.0  # at the least: the first second has jobs of the warm-up to run
REQUEST = Request("/", "POST", {"Prefer": "respond-async"}, b'{"inputs":[1,2,3,4,5,6,7,8]}', 202)


def accepted(answer: Answer) -> bool:
    return answer.status == 202 and b'"state":"queued"' in answer.body


def _measure(load: Wrk) -> Measure:
    check = Expect(REQUEST, accepted)

    def measure(bed: Bed) -> Sample:
        check(bed)
        bed.drive(load, bed.timing.warmup)
        counted, usage = bed.drive(load, max(SECONDS, bed.timing.duration))
        check(bed)
        return Sample(
            values={"cpu_us": (usage.proxy or 0) / 1e3 / counted.operations, "rps": counted.rate},
            warnings=warnings(bed.cores, usage, counted.errors),
            raw={"usage": vars(usage), **counted.raw},
        )

    return measure


def _scenario(clients: int) -> Scenario:
    load = Wrk(REQUEST, connections=clients)
    return Scenario(
        name=f"jobs-{clients}",
        title=f"requests that become jobs, durable before the answer, {clients} connections",
        task=Task("http", jobs=True),
        servers={"http": FixedHttp(proxy_http1.ANSWER, reads=True)},
        measure=_measure(load),
        metrics=(Metric("cpu_us", "CPU µs/job", "lower"), Metric("rps", "jobs/s", "higher")),
        generators=(load,),
        limits=(Limit(500),),  # 2,000 a second on one core
        note="Each job also runs, as far as there is time beside those that are accepted.",
        ours_only="has no jobs",
    )


FEW, SOME, MANY = (_scenario(clients) for clients in (16, 64, 256))
