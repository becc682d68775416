"""`python -m bench.emulator SPEC.json`, or a fleet of equal servers from options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.emulator.process import serve
from bench.emulator.spec import Fleet
from bench.errors import BenchError

_TIMES = {
    "constant": ("ms",),
    "exponential": ("mean_ms",),
    "lognormal": ("median_ms", "sigma"),
    "normal": ("mean_ms", "cv"),
    "empirical": ("file",),
}
_BATCH = ("max_batch", "max_wait_ms", "fixed_ms", "per_item_ms")
_WHOLE = ("max_batch", "slots")


def main(arguments: list[str] | None = None) -> int:
    """Serves; the exit code. A mistake is one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="bench.emulator", description="Emulated model servers, each port HTTP/1.1 and gRPC."
    )
    parser.add_argument("spec", nargs="?", type=Path, metavar="SPEC.json", help="a fleet as JSON; then no options")
    parser.add_argument("--servers", type=int, help="how many (1)")
    parser.add_argument("--port", type=int, help="the first one's port, the others follow (0: free ones)")
    parser.add_argument("--control", type=int, metavar="PORT", help="control port (0: a free one)")
    parser.add_argument(
        "--time",
        metavar="TIME",
        help="constant:MS | exponential:MEAN_MS | lognormal:MEDIAN_MS:SIGMA | normal:MEAN_MS:CV | empirical:FILE; "
        "of serial and parallel",
    )
    parser.add_argument(
        "--execution",
        metavar="HOW",
        help="none | serial | parallel:SLOTS | batched:MAX:MAX_WAIT_MS:FIXED_MS:PER_ITEM_MS (none)",
    )
    parser.add_argument("--max-queue", type=int, help="refuse what would wait beyond it (no limit)")
    parser.add_argument("--answer-bytes", type=int, help="size of the answer's tensor (64)")
    parser.add_argument("--seed", type=int, help="of the service times (1)")
    parser.add_argument("--print", action="store_true", help="print the fleet as JSON instead of serving it")
    options = parser.parse_args(arguments)
    try:
        fleet = _fleet(options)
        if options.print:
            print(fleet.to_json())
            return 0
        serve(fleet, lambda line: print(line, flush=True))
    except BenchError as error:
        print(f"bench.emulator: {error}", file=sys.stderr)
        return 1
    return 0


def _fleet(options: argparse.Namespace) -> Fleet:
    given = [name for name, value in vars(options).items() if value is not None and name not in ("spec", "print")]
    if options.spec is None:
        return from_options(options)
    if given:
        raise BenchError(f"--{given[0].replace('_', '-')} does not go with a file; change the file")
    try:
        return Fleet.from_json(options.spec.read_bytes())
    except OSError as error:
        raise BenchError(f"cannot read {options.spec}: {error.strerror}") from None
    except BenchError as error:
        raise BenchError(f"{options.spec}: {error}") from None


def from_options(options: argparse.Namespace) -> Fleet:
    """Equal servers. Raises BenchError."""
    service: dict[str, Any] = {"execution": execution(options.execution or "none", options.time)}
    if options.max_queue is not None:
        service["max_queue"] = options.max_queue
    server: dict[str, Any] = {"service": service}
    if options.answer_bytes is not None:
        server["answer_bytes"] = options.answer_bytes
    first, count = options.port or 0, 1 if options.servers is None else options.servers
    servers = [{"port": first + i if first else 0} | server for i in range(count)]
    fleet: dict[str, Any] = {"servers": servers, "control_port": options.control or 0}
    if options.seed is not None:
        fleet["seed"] = options.seed
    return Fleet.from_json(json.dumps(fleet))


def execution(how: str, time: str | None) -> dict[str, Any]:
    """--execution and --time as the fields of an Execution, unchecked. Raises BenchError on a wrong shape."""
    kind, *values = how.split(":")
    fields = {"none": (), "serial": (), "parallel": ("slots",), "batched": _BATCH}.get(kind)
    if fields is None or len(values) != len(fields):
        raise BenchError(f"--execution {how}: it is none, serial, parallel:SLOTS or batched:{':'.join(_BATCH).upper()}")
    result: dict[str, Any] = {"kind": kind} | {f: _number(f, v) for f, v in zip(fields, values, strict=True)}
    if kind not in ("serial", "parallel"):
        if time is not None:
            raise BenchError(f"--time does not go with --execution {kind}")
        return result
    name, *rest = (time or "").split(":")
    if name not in _TIMES or len(rest) != len(_TIMES[name]):
        shapes = ", ".join(":".join([n, *map(str.upper, f)]) for n, f in _TIMES.items())
        raise BenchError(f"--execution {kind} needs --time, one of {shapes}")
    result["time"] = {"kind": name} | {
        f: v if f == "file" else _number(f, v) for f, v in zip(_TIMES[name], rest, strict=True)
    }
    return result


def _number(name: str, text: str) -> float:
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        raise BenchError(f"{text!r} is not a number for {name.upper()}") from None


if __name__ == "__main__":
    sys.exit(main())
