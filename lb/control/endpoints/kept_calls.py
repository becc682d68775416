"""What the server calls of a pool have come to: what an endpoint that comes up has to be told to be as the others are.

Pure: requests in, requests out. A later call about the same thing (a model, a region) stands for all before it;
settings are kept one by one. Messages are of inference.GRPCInferenceService (Triton's).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from msgspec import Struct

from lb.wire import grpc_service_pb2 as wire

MOST_CALLS = 1024  # things that a pool remembers
MOST_BYTES = 64 << 20  # of their requests: those that load models may bring files

Key = tuple[str, ...]  # what a call is about: ("model", NAME), ("trace", MODEL), ("log",), ("System", REGION), …

_REQUESTS: dict[str, Any] = {
    "RepositoryModelLoad": wire.RepositoryModelLoadRequest,
    "RepositoryModelUnload": wire.RepositoryModelUnloadRequest,
    "TraceSetting": wire.TraceSettingRequest,
    "LogSettings": wire.LogSettingsRequest,
    **{
        f"{memory}SharedMemory{what}": getattr(wire, f"{memory}SharedMemory{what}Request")
        for memory in ("System", "Cuda")
        for what in ("Status", "Register", "Unregister")
    },
}


class Call(Struct, frozen=True):
    """A server call; `key` says what it is about, and `turn` what it must not overtake, or be overtaken by."""

    method: str
    message: Any
    key: Key
    turn: Key
    reads: bool = False  # it changes nothing: the answer of any endpoint will do
    forgets: bool = False  # nothing is left to be told of it

    @property
    def model(self) -> str:
        """The model that it loads; "" of all others: requests for it can only be answered where it was done."""
        return str(self.message.model_name) if self.method == "RepositoryModelLoad" else ""

    @property
    def of_model(self) -> bool:
        """Whether it loads or unloads one, which may take long, and changes what is answered."""
        return self.key[0] == "model"

    @property
    def plain(self) -> bool:
        """Of a load or an unload: it says no more than the model's name."""
        return not self.message.parameters

    def __str__(self) -> str:
        name = next((part for part in self.key[1:] if part), "")
        return f"{self.method} of {name!r}" if name else self.method


def read_call(method: str, request: bytes) -> Call:
    """Raises DecodeError."""
    message: Any = _REQUESTS[method].FromString(request)
    match method:
        case "RepositoryModelLoad" | "RepositoryModelUnload":
            key: Key = ("model", message.model_name)
            return Call(method, message, key, key)
        case "TraceSetting":
            return Call(method, message, ("trace", message.model_name), ("trace",), reads=not message.settings)
        case "LogSettings":
            return Call(method, message, ("log",), ("log",), reads=not message.settings)
    memory, _, what = method.partition("SharedMemory")
    return Call(
        method, message, (memory, message.name), (memory,), reads=what == "Status", forgets=what == "Unregister"
    )


class Kept(Struct, frozen=True):
    """A call to be told, and its number: a later one about the same thing has a higher one."""

    call: Call
    number: int


class KeptCalls:
    """Those of one pool, in the order in which they are told."""

    def __init__(self) -> None:
        self._kept: dict[Key, Kept] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Key]:
        """Models first: settings may be about them."""
        return iter(sorted(self._kept, key=lambda key: key[0] != "model"))

    def get(self, key: Key) -> Kept | None:
        return self._kept.get(key)

    def has_room(self, call: Call) -> bool:
        """Whether `call` can be taken: what is remembered of a pool is bounded."""
        others = [kept.call.message.ByteSize() for key, kept in self._kept.items() if key != call.key]
        return len(others) < MOST_CALLS and sum(others) + call.message.ByteSize() <= MOST_BYTES

    def take(self, call: Call) -> Kept:
        """An endpoint has done it: from now on others are to be told."""
        self._number += 1
        before = self._kept.pop(call.key, None)
        merged = call if before is None else _merged(before.call, call)
        kept = Kept(merged, self._number)
        if not call.forgets:
            self._kept[call.key] = kept
        elif not call.key[1]:  # all regions
            for key in [key for key in self._kept if key[0] == call.key[0]]:
                del self._kept[key]
        return kept


def _merged(before: Call, after: Call) -> Call:
    """Settings that the later call does not name stay as the earlier one has them."""
    if after.key[0] not in ("trace", "log"):
        return after
    message: Message = type(after.message)()
    message.CopyFrom(after.message)
    settings: Any = message
    for name, value in before.message.settings.items():
        if name not in settings.settings:
            settings.settings[name].CopyFrom(value)
    return Call(after.method, message, after.key, after.turn)
