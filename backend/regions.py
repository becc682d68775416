"""Triton's system shared memory extension: tensors in POSIX shared memory of client and server
(protocol/extension_shared_memory.md of Triton)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import FileIO
from typing import Any

from backend.errors import AlreadyExists, InvalidInput, NotFound, Unsupported
from lb.wire import grpc_service_pb2 as wire

_OBJECTS = "/dev/shm"  # noqa: S108 - where shm_open(3) has them


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object. It is read and written as a file: whoever made the object may make it smaller,
    and memory that is mapped beyond its end kills the process that touches it."""

    name: str
    key: str
    offset: int
    size: int
    file: FileIO

    def read(self, what: str, offset: int, size: int) -> bytes:
        """Raises InvalidInput; `what` says which tensor is to be there."""
        self._check(what, offset, size)
        found = os.pread(self.file.fileno(), size, self.offset + offset)
        if len(found) < size:
            raise InvalidInput(f"{what}: shared memory object '{self.key}' has become smaller")
        return found

    def write(self, what: str, offset: int, room: int, data: bytes) -> None:
        """Raises InvalidInput."""
        self._check(what, offset, room)
        if len(data) > room:
            raise InvalidInput(f"{what} has {len(data)} bytes, more than the {room} of its shared memory")
        try:
            os.pwrite(self.file.fileno(), data, self.offset + offset)
        except OSError as error:
            raise InvalidInput(f"{what}: cannot write to shared memory: {error.strerror}") from error

    def _check(self, what: str, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise InvalidInput(
                f"{what}: bytes {offset} to {offset + size} are not in shared memory region '{self.name}', "
                f"which has {self.size}"
            )


class Regions:
    """The registered regions. `offered`: only clients of this machine reach the server, who share memory with it."""

    def __init__(self, offered: bool) -> None:
        self.offered = offered
        self._regions: dict[str, Region] = {}

    def get(self, name: str) -> Region:
        """Raises NotFound, Unsupported."""
        self._check_offered()
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"shared memory region '{name}' is not registered")
        return region

    def _check_offered(self) -> None:
        if not self.offered:
            raise Unsupported("shared memory is offered where the server listens on Unix sockets or loopback alone")

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        self._check_offered()
        found = [self.get(request.name)] if request.name else list(self._regions.values())
        status = wire.SystemSharedMemoryStatusResponse.RegionStatus
        return wire.SystemSharedMemoryStatusResponse(
            regions={
                region.name: status(name=region.name, key=region.key, offset=region.offset, byte_size=region.size)
                for region in found
            }
        )

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Raises AlreadyExists, InvalidInput, Unsupported."""
        self._check_offered()
        if request.name in self._regions:
            raise AlreadyExists(f"shared memory region '{request.name}' is registered already")
        self._regions[request.name] = _open(request.name, request.key, request.offset, request.byte_size)
        return wire.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """One that is not registered is no error, as for Triton."""
        self._check_offered()
        for name in [request.name] if request.name else list(self._regions):
            self._regions.pop(name, None)
        return wire.SystemSharedMemoryUnregisterResponse()

    # perf_analyzer unregisters regions of both kinds around each run, whichever it uses.

    async def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """Raises NotFound."""
        if request.name:
            raise NotFound(f"CUDA shared memory region '{request.name}' is not registered")
        return wire.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Raises Unsupported."""
        raise Unsupported(
            "CUDA shared memory is not offered: send the data with the request, or use system shared memory"
        )

    async def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        return wire.CudaSharedMemoryUnregisterResponse()


def _open(name: str, key: str, offset: int, size: int) -> Region:
    """Raises InvalidInput."""
    if not name or not size:
        raise InvalidInput("a shared memory region needs a name and a size")
    path = key.removeprefix("/")
    if not path or "/" in path or path in (".", ".."):
        raise InvalidInput(f"'{key}' is not the name of a shared memory object")
    try:
        descriptor = os.open(os.path.join(_OBJECTS, path), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot open shared memory object '{key}': {error.strerror}") from error
    file = FileIO(descriptor, "r+")  # which closes the descriptor when nobody needs it any more
    have = os.fstat(descriptor).st_size
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or offset + size > have:
        raise InvalidInput(f"shared memory object '{key}' has {have} bytes, not {offset + size}")
    return Region(name, key, offset, size, file)
