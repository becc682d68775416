"""Our open-loop generator (`bench.load`) as a generator of the bench: a fixed rate, whatever the answers do."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

from hdrh.histogram import HdrHistogram

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.load.arrivals import Arrivals, Constant, Poisson
from bench.load.report import Report
from bench.load.request import Request
from bench.load.spec import ProtocolName, Spec, Tls

_MARK = "bench-result "


@dataclass(frozen=True)
class Open:
    """`rate` requests per second; several requests are sent in turn, or by Zipf's law with the exponent `zipf`.

    `schedule` is used instead of `rate` where it is given. `close`: a new connection for each request. Requests of the
    first `warmup` seconds, and of the `cooldown` that follows at the end, are not counted. Answers within `deadline`
    seconds are counted over time. Of several proxies each gets its share from a generator of its own.
    """

    request: Request | tuple[Request, ...]
    rate: float
    arrivals: Literal["constant", "poisson"] = "constant"
    protocol: ProtocolName = "http"
    connections: int = 32
    close: bool = False
    zipf: float | None = None
    timeout: float = 10.0
    deadline: float | None = None
    schedule: Arrivals | None = None
    warmup: float = 0.3
    cooldown: float = 0.0
    name: str = "open-loop"

    def version(self) -> str | None:
        return version("tidegate")

    def spec(self, target: Target, seconds: float) -> Spec:
        kind = Poisson if self.arrivals == "poisson" else Constant
        return Spec(
            protocol=self.protocol,
            address=target.address,
            requests=self.request if isinstance(self.request, tuple) else (self.request,),
            arrivals=self.schedule or kind(self.rate),
            zipf=self.zipf,
            connections=self.connections,
            new_connections=self.close,
            timeout_s=self.timeout,
            deadline_s=self.deadline,
            warmup_s=self.warmup,
            cooldown_s=self.cooldown,
            duration_s=seconds,
            tls=Tls(str(target.authority), "localhost") if target.authority else None,
        )

    def command(self, target: Target, seconds: float) -> list[str]:
        paths = []
        for number, spec in enumerate(self.specs(target, seconds)):
            paths.append(target.directory / f"open-loop-{number}.json")
            paths[-1].write_text(spec.to_json())
        return [sys.executable, "-m", "bench.load", *map(str, paths)]

    def specs(self, target: Target, seconds: float) -> list[Spec]:
        """One for each proxy. Raises BenchError for a schedule that would have to be shared out."""
        ports = (target.port, *target.more_ports)
        if len(ports) == 1:
            return [self.spec(target, seconds)]
        if self.schedule is not None:
            raise BenchError("only a rate can be shared out among several proxies")
        share = replace(self, rate=self.rate / len(ports), connections=max(1, self.connections // len(ports)))
        return [
            replace(share.spec(replace(target, port=port, more_ports=()), seconds), seed=number)
            for number, port in enumerate(ports, 1)
        ]

    def parse(self, output: str) -> Counted:
        lines = [line for line in output.splitlines() if line.startswith(_MARK)]
        if len(lines) != 1:
            raise BenchError(f"the open-loop generator reported no result: {output.strip()[-200:]!r}")
        report = Report.from_json(lines[0].removeprefix(_MARK))
        # One that refuses all it is asked does its work, badly; one that does not answer has failed.
        if not report.completed and not any(kind.startswith("status_") for kind in report.failed):
            raise BenchError(f"no request at the fixed rate was answered: {report.failed or 'none was sent'}")
        return Counted(report.completed, report.duration_ns, report.failed, report.bytes_in, {"open_loop": report})


def report_of(counted: Counted) -> Report:
    """What the generator reported."""
    found = counted.raw["open_loop"]
    assert isinstance(found, Report)
    return found


def raw_of(report: Report) -> dict[str, Any]:
    """A report for a sample's raw data: `latency` and `series` as reports of the bench read them, then the rest."""
    rest = json.loads(report.to_json())
    series = rest.pop("series")
    bin_s = series.pop("bin_ns") / 1e9
    return {
        "rate": report.offered_rate,
        "latency": rest.pop("latency"),
        "series": {"bin_s": bin_s, **series},
        "open_loop": rest,
    }


def share_above(histogram: HdrHistogram, us: float) -> float:
    """The share of a histogram's values that are above `us`; 0 if it is empty."""
    total = histogram.get_total_count()
    counts = histogram.get_recorded_iterator()
    slow = sum(item.count_added_in_this_iter_step for item in counts if item.value_iterated_to > us)
    return slow / total if total else 0.0
