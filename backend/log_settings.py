"""Triton's logging extension (protocol/extension_logging.md of Triton)."""

from __future__ import annotations

import logging
from typing import Any

from backend.errors import InvalidInput, Unsupported
from lb.wire import grpc_service_pb2 as wire

_OF_LEVEL = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_FORMAT = "default"


class LogSettings(logging.Filter):
    """Which records the log has; a filter of the handlers that write it.

    `log_info`, `log_warning` and `log_error` switch these records on and off, `log_verbose_level` those for developers:
    0 is none, and 1 the most there is. The log goes to standard error in one format.
    """

    def __init__(self, level: int) -> None:
        """At first records from `level` on are written."""
        super().__init__()
        self._levels = {name: level <= number for name, number in _OF_LEVEL.items()}
        self._verbose = level <= logging.DEBUG

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return self._verbose
        name = next(name for name, number in reversed(_OF_LEVEL.items()) if record.levelno >= number)
        return self._levels[name]

    def install(self) -> None:
        """From now on it decides for the handlers of the root logger, whose own level lets everything pass."""
        root = logging.getLogger()
        for handler in root.handlers:
            handler.addFilter(self)
        self._set_level()

    def _set_level(self) -> None:
        logging.getLogger().setLevel(logging.DEBUG if self._verbose else logging.INFO)

    async def LogSettings(self, request: Any, context: Any) -> Any:
        """Changes what is given, all or nothing, and answers what holds. Raises InvalidInput, Unsupported."""
        levels, verbose = dict(self._levels), self._verbose
        for name, value in sorted(request.settings.items()):
            kind = value.WhichOneof("parameter_choice")
            if name in levels:
                levels[name] = _expect(name, value, kind, "bool_param", "a boolean")
            elif name == "log_verbose_level":
                verbose = _expect(name, value, kind, "uint32_param", "a whole number from 0") > 0
            elif name == "log_file":
                if _expect(name, value, kind, "string_param", "a string"):
                    raise Unsupported("log file location can not be updated through network protocol")
            elif name == "log_format":
                given = _expect(name, value, kind, "string_param", "a string")
                if given != _FORMAT:
                    raise Unsupported(f"log_format: the log has one format, '{_FORMAT}'; got '{given}'")
            else:
                known = ", ".join([*levels, "log_verbose_level", "log_file", "log_format"])
                raise InvalidInput(f"unknown log setting '{name}'; expected {known}")
        self._levels, self._verbose = levels, verbose
        self._set_level()
        answer = wire.LogSettingsResponse()
        answer.settings["log_file"].string_param = ""
        for name, on in levels.items():
            answer.settings[name].bool_param = on
        answer.settings["log_verbose_level"].uint32_param = int(verbose)
        answer.settings["log_format"].string_param = _FORMAT
        return answer


def _expect(name: str, value: Any, kind: str | None, wanted: str, text: str) -> Any:
    if kind != wanted:
        raise InvalidInput(f"log setting '{name}': expected {text}")
    return getattr(value, wanted)
