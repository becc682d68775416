"""Triton's trace extension in its mode `opentelemetry` (protocol/extension_trace.md and user_guide/trace.md of Triton):
which inferences get spans, for the server and, where they differ, for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from backend.errors import InvalidInput, Unavailable, Unsupported
from backend.inference.model import Served
from backend.inference.sampling import Sampling
from backend.inference.spans import Tracer
from backend.tracing import Spans
from lb.wire import grpc_service_pb2 as wire

_MODE = "opentelemetry"
_NAMES = ("trace_level", "trace_rate", "trace_count", "log_frequency", "trace_mode")
_MOST = {"trace_rate": 2**32 - 1, "trace_count": 2**31 - 1, "log_frequency": 2**32 - 1}
_LEAST = {"trace_rate": 0, "trace_count": -1, "log_frequency": 0}
_NUMBER = re.compile(r"-?[0-9]{1,20}")
_SERVER = ""  # whose settings hold for all models without their own
# Spans for callers that have a trace, and for no one else.
_START: dict[str, Any] = {"trace_level": True, "trace_rate": 0, "trace_count": -1}


class TraceSettings:
    """`spans` makes them; None: the server has none. Belongs to the loop."""

    def __init__(self, spans: Spans | None) -> None:
        # By model: what was set, and what comes of it. A model without anything that was set is not there.
        self._given: dict[str, dict[str, Any]] = {_SERVER: {}}
        self._samplings = {_SERVER: _sampling(_START)}
        self._served: list[Served] = []
        self.tracer = None if spans is None else Tracer(spans, self._samplings[_SERVER])

    @property
    def offered(self) -> bool:
        return self.tracer is not None

    def follow(self, served: Iterable[Served]) -> None:
        """These are the models now."""
        self._served = list(served)
        self._apply()

    async def TraceSetting(self, request: Any, context: Any) -> Any:
        """Changes what is given, all or nothing, and answers what holds. A setting without a value is as before it was
        set: a model's as the server's, the server's as at the start. Raises InvalidInput, Unavailable, Unsupported."""
        if self.tracer is None:
            raise Unavailable("the server does not support tracing: it was started without --trace-endpoint")
        model = request.model_name
        if model and all(served.model.name != model for served in self._served):
            raise InvalidInput(f"Request for unknown model : {model}")
        changes = {name: _value(name, list(one.value)) for name, one in sorted(request.settings.items())}
        if changes:
            self._change(model, changes)
            for other in list(self._given) if model == _SERVER else ():
                self._change(other, {})  # what it has of the server's
            self.tracer.sampling = self._samplings[_SERVER]
            self._apply()
        return self._answer(self._samplings.get(model, self._samplings[_SERVER]))

    def _change(self, model: str, changes: Mapping[str, Any]) -> None:
        """Counting begins anew, but for inferences that are left to be traced."""
        given = self._given.get(model, {})
        if "trace_count" in given:
            given["trace_count"] = self._samplings[model].left
        given = {name: value for name, value in {**given, **changes}.items() if value is not None}
        if model != _SERVER and not given:
            self._given.pop(model, None)
            self._samplings.pop(model, None)
            return
        above = _START if model == _SERVER else _values(self._samplings[_SERVER])
        self._given[model] = given
        self._samplings[model] = _sampling({**above, **given})

    def _apply(self) -> None:
        for served in self._served:
            served.sampling = self._samplings.get(served.model.name)

    def _answer(self, sampling: Sampling) -> Any:
        answer = wire.TraceSettingResponse()
        shown = {
            "trace_level": "TIMESTAMPS" if sampling.on else "OFF",
            "trace_rate": str(sampling.rate),
            "trace_count": str(sampling.left),
            "trace_mode": _MODE,
        }
        for name, value in shown.items():
            answer.settings[name].value.append(value)
        return answer


def _sampling(values: Mapping[str, Any]) -> Sampling:
    return Sampling(values["trace_level"], values["trace_rate"], values["trace_count"])


def _values(sampling: Sampling) -> dict[str, Any]:
    return {"trace_level": sampling.on, "trace_rate": sampling.rate, "trace_count": sampling.left}


def _value(name: str, texts: list[str]) -> bool | int | None:
    """What a setting is set to; None: it is as if it had never been set. Raises InvalidInput, Unsupported."""
    if name == "trace_file":
        raise Unsupported("trace file location can not be updated through network protocol")
    if name not in _NAMES:
        raise InvalidInput(f"unknown trace setting '{name}'; expected {', '.join(_NAMES)}")
    if not texts:
        return None
    if name == "trace_level":
        return _level(texts)
    if len(texts) > 1:
        raise InvalidInput(f"expect only 1 value for '{name}'")
    if name == "trace_mode":
        if texts[0] != _MODE:
            raise Unsupported(f"trace_mode is '{_MODE}': spans go to the collector of --trace-endpoint")
        return None
    number = _number(name, texts[0])
    return None if name == "log_frequency" else number  # of files, which this mode has none of


def _level(texts: list[str]) -> bool:
    for text in texts:
        if text == "TENSORS":
            raise Unsupported("trace_level TENSORS: spans have no tensors; expected OFF or TIMESTAMPS")
        if text not in ("OFF", "TIMESTAMPS"):
            raise InvalidInput(f"unknown trace_level '{text}'; expected OFF or TIMESTAMPS")
    if "OFF" in texts and len(texts) > 1:
        raise InvalidInput("Expect only one trace level 'OFF' is specified")
    return texts[0] != "OFF"


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"Unable to parse '{name}', got: {text}")
    number = int(text)
    if not _LEAST[name] <= number <= _MOST[name]:
        limits = f"[ {_LEAST[name]}, {_MOST[name]} ]"
        raise InvalidInput(f"Unable to parse '{name}', value is out of range {limits}, got: {text}")
    return number
